# SPDX-License-Identifier: Apache-2.0
"""Stage 3: run the cells in a kernel and determine how they ended."""
