# SPDX-License-Identifier: Apache-2.0
"""Stage 2: prepare the copy of a notebook that is run."""
