# SPDX-License-Identifier: Apache-2.0
"""As in rmm."""

from rmm.pylibrmm.memory_resource import (
    CudaAsyncMemoryResource,
    CudaMemoryResource,
    DeviceMemoryResource,
    LoggingResourceAdaptor,
    ManagedMemoryResource,
    PoolMemoryResource,
    StatisticsResourceAdaptor,
    available_device_memory,
    disable_logging,
    enable_logging,
    get_current_device_resource,
    get_current_device_resource_type,
    get_log_filenames,
    get_per_device_resource,
    set_current_device_resource,
    set_per_device_resource,
)

__all__ = [
    "CudaAsyncMemoryResource",
    "CudaMemoryResource",
    "DeviceMemoryResource",
    "LoggingResourceAdaptor",
    "ManagedMemoryResource",
    "PoolMemoryResource",
    "StatisticsResourceAdaptor",
    "available_device_memory",
    "disable_logging",
    "enable_logging",
    "get_current_device_resource",
    "get_current_device_resource_type",
    "get_log_filenames",
    "get_per_device_resource",
    "set_current_device_resource",
    "set_per_device_resource",
]
