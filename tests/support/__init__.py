# SPDX-License-Identifier: Apache-2.0
"""Helpers that several tests build their world with."""
