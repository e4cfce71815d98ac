# SPDX-License-Identifier: Apache-2.0
"""Execution of a plan on one machine, with a separate process for each notebook."""
