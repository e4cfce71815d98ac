# SPDX-License-Identifier: Apache-2.0
"""Programs that the kernel's Python runs alone, with this folder first in its path.

They stand apart because a module beside them would hide a library of the same name: `cuda`, for one.
"""
