# SPDX-License-Identifier: Apache-2.0
"""How notebooks end, the truth of each ending, and what each engine says about it. Start at `truths`."""
