# SPDX-License-Identifier: Apache-2.0
"""Stage 2: from the notebook that is to the notebook that runs."""
