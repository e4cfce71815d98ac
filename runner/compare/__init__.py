# SPDX-License-Identifier: Apache-2.0
"""Semantic comparison of results: AnnData, tables, figures and executed notebooks."""
