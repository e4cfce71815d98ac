# SPDX-License-Identifier: Apache-2.0
"""The stages of a run, one folder each. No stage imports another; `runner.run` alone knows their order."""
