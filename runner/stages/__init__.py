# SPDX-License-Identifier: Apache-2.0
"""The stages of a run, one package each. Stages never import each other; `runner.run` sequences them."""
