# SPDX-License-Identifier: Apache-2.0
"""What a notebook reads: sources cloned, datasets fetched, verified and served."""
