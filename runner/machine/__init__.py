# SPDX-License-Identifier: Apache-2.0
"""What the machine says: GPUs, host memory, processes, and what became of them."""
