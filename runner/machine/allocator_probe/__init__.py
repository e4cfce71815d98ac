# SPDX-License-Identifier: Apache-2.0
"""The allocator probe: bytes really allocated, as rmm and cupy count them inside the kernel."""
