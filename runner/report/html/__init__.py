# SPDX-License-Identifier: Apache-2.0
"""The report as a single HTML page."""
