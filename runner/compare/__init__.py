# SPDX-License-Identifier: Apache-2.0
"""Two results compared by what they mean: AnnData, tables, figures and executed notebooks."""
