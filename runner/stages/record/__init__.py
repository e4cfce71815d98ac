# SPDX-License-Identifier: Apache-2.0
"""Stage 7: the record of the run."""
