# SPDX-License-Identifier: Apache-2.0
"""The report over all notebooks of a plan."""
