# SPDX-License-Identifier: Apache-2.0
"""Stage 6: convert the executed notebook to an HTML page."""
