# SPDX-License-Identifier: Apache-2.0
"""Programs run standalone by the kernel's Python, with this folder first in its path.

They have their own folder because a module beside them would shadow a library of the same name, such as `cuda`.
"""
