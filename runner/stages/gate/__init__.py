# SPDX-License-Identifier: Apache-2.0
"""Stage 1: a notebook starts only where the machine has what it asks for."""
