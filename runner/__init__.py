# SPDX-License-Identifier: Apache-2.0
"""Runs GPU notebooks unattended and proves what happened."""

__version__ = "0.1.0"
