# SPDX-License-Identifier: Apache-2.0
"""Sources cloned at one commit."""
