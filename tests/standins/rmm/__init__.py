# SPDX-License-Identifier: Apache-2.0
"""A stand-in for rmm: resources, statistics and `reinitialize`, as far as the probe and its tests use them.

What is Cython in rmm calls its own functions past the module's namespace, has no weak references and
no dictionary; so it is here.
"""

from rmm import mr
from rmm.mr import disable_logging, enable_logging, get_log_filenames
from rmm.pylibrmm.memory_resource import DeviceBuffer
from rmm.rmm import reinitialize

__all__ = ["DeviceBuffer", "disable_logging", "enable_logging", "get_log_filenames", "mr", "reinitialize"]
__version__ = "0.0.standin"
