# SPDX-License-Identifier: Apache-2.0
"""As in rmm: it looks for the adaptor on top of the current resource."""

import rmm.mr


def enable_statistics():
    """Put an adaptor on top, unless one is there."""
    top = rmm.mr.get_current_device_resource()
    if not isinstance(top, rmm.mr.StatisticsResourceAdaptor):
        rmm.mr.set_current_device_resource(rmm.mr.StatisticsResourceAdaptor(top))


def get_statistics():
    """Return the counters, or None when they are off."""
    top = rmm.mr.get_current_device_resource()
    return top.allocation_counts if isinstance(top, rmm.mr.StatisticsResourceAdaptor) else None
