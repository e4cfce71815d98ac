# SPDX-License-Identifier: Apache-2.0
"""Stage 5: check that the notebook produced the results that the plan expects."""
