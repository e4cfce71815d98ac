# SPDX-License-Identifier: Apache-2.0
"""Tests of the container images: `pytest -m image`."""
