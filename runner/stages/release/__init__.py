# SPDX-License-Identifier: Apache-2.0
"""Stage 4: what outlived the kernel is ended, and the GPU is proved free."""
