# SPDX-License-Identifier: Apache-2.0
"""The commands, one a module. Each imports only click at its top, so that help is quick."""
