# SPDX-License-Identifier: Apache-2.0
"""Stage 5: whether the notebook left what the plan says it leaves."""
