# SPDX-License-Identifier: Apache-2.0
"""Stage 3: the cells, run in a kernel, and how they ended."""
