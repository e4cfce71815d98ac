# SPDX-License-Identifier: Apache-2.0
"""``python -m runner`` is the same as ``runner``."""

from runner.cli import main

main()
