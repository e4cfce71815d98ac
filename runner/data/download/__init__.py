# SPDX-License-Identifier: Apache-2.0
"""One file downloaded in parallel ranges, resumed and verified."""
