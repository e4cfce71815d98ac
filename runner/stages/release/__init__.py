# SPDX-License-Identifier: Apache-2.0
"""Stage 4: end processes left by the kernel and prove that the GPUs are free."""
