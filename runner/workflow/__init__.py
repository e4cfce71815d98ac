# SPDX-License-Identifier: Apache-2.0
"""A plan on one machine: its notebooks in order, each in a process of its own."""
