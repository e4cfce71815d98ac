# SPDX-License-Identifier: Apache-2.0
"""The plan: which notebooks, what each needs, and what it leaves."""
