# SPDX-License-Identifier: Apache-2.0
"""The commands, one per module. Each imports only click at module level, to keep `--help` fast."""
