# SPDX-License-Identifier: Apache-2.0
"""A run of a notebook: `lifecycle` sequences the stages, the other modules implement the steps."""
