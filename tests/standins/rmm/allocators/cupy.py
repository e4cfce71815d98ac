# SPDX-License-Identifier: Apache-2.0
"""As in rmm."""

from rmm import DeviceBuffer


def rmm_cupy_allocator(nbytes):
    """Allocate for cupy."""
    return DeviceBuffer(size=nbytes)
