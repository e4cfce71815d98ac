# SPDX-License-Identifier: Apache-2.0
"""Stage 6: the executed notebook as one HTML page."""
