# SPDX-License-Identifier: Apache-2.0
"""The plan: notebooks with their requirements, dependencies and expected results."""
