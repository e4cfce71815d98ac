# SPDX-License-Identifier: Apache-2.0
"""Which hosts are reached without a proxy, said so that every program understands it.

Programs disagree on the variable: some read ``no_proxy`` only, some ``NO_PROXY``, and most let the
lower case win where both are set. So what is added goes to what both say, and both say it all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

LOCAL = ("127.0.0.1", "localhost")
_EXCEPTIONS = ("no_proxy", "NO_PROXY")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def is_set(environment: Mapping[str, str]) -> bool:
    """Return True if an environment names a proxy."""
    return any(environment.get(spelt) for name in _PROXIES for spelt in (name, name.upper()))


def exceptions(environment: Mapping[str, str], hosts: Iterable[str]) -> dict[str, str]:
    """Return both variables with the hosts added to what either of them says.

    An asterisk stands for all hosts, and only where it stands alone.
    """
    said = (host.strip() for name in _EXCEPTIONS for host in environment.get(name, "").split(","))
    present = [host for host in said if host]
    text = "*" if "*" in present else ",".join(dict.fromkeys([*present, *hosts]))
    return dict.fromkeys(_EXCEPTIONS, text)
