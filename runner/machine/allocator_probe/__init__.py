# SPDX-License-Identifier: Apache-2.0
"""The allocator probe: memory allocated in the kernel through rmm and cupy."""
