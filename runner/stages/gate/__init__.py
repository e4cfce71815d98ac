# SPDX-License-Identifier: Apache-2.0
"""Stage 1: check that the machine meets the notebook's requirements."""
