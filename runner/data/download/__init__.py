# SPDX-License-Identifier: Apache-2.0
"""Download of a file in parallel ranges, with resume and verification."""
