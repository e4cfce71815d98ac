# SPDX-License-Identifier: Apache-2.0
"""Optional checks of the network: whether the plan's datasets are reachable.

Sends one HEAD request per dataset, through the proxies of the environment. Off by default, since staged datasets
need no network.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from runner.core.records import Check
from runner.core.units import format_bytes

if TYPE_CHECKING:
    from runner.plan.model import Dataset, Plan
    from runner.validate.result import Level

_SECONDS = 6.0
_SKEW_SECONDS = 120.0
_MOST = 8


def checks(plan: Plan | None) -> tuple[Check, ...]:
    """Return one check per dataset."""
    datasets = dict(plan.datasets) if plan else {}
    if not datasets:
        return (Check(name="network", status="pass", seen="the plan has no datasets"),)
    with ThreadPoolExecutor(_MOST) as pool:
        return tuple(pool.map(lambda item: _reach(*item), datasets.items()))


def _reach(name: str, dataset: Dataset) -> Check:
    label, host = f"dataset {name}", urlsplit(dataset.url).hostname or "?"
    if urlsplit(dataset.url).scheme not in {"http", "https"}:
        return Check(name=label, status="warn", seen=f"{host}: only http and https are checked")
    request = urllib.request.Request(dataset.url, method="HEAD", headers={"User-Agent": "runner-validate"})  # noqa: S310
    started = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310  (http and https only)
            return _answered(label, host, dataset, answer.headers, time.monotonic() - started)
    except urllib.error.HTTPError as error:
        status: Level = "warn" if error.code in {403, 405, 501} else "fail"  # some servers support only GET
        hint = "the host is reachable, the file may not exist: try `runner fetch`"
        return Check(name=label, status=status, seen=f"{host} answers {error.code} {error.reason}", hint=hint)
    except (OSError, http.client.HTTPException, ValueError) as error:
        seen, hint = _why(error)
        return Check(name=label, status="fail", seen=f"{host}: {seen}", hint=hint)


def _answered(label: str, host: str, dataset: Dataset, headers: http.client.HTTPMessage, seconds: float) -> Check:
    length = headers.get("Content-Length", "")
    size = int(length) if length.isdigit() else None
    seen = f"{host} answers in {seconds * 1000:.0f} ms" + (f", {format_bytes(size)}" if size else "")
    if dataset.bytes is not None and size is not None and size != dataset.bytes:
        hint = "the file has changed upstream: check the plan's bytes and hash"
        return Check(name=label, status="warn", seen=f"{seen} ({size} bytes)", needed=f"{dataset.bytes}", hint=hint)
    skew = _skew(headers.get("Date"))
    if skew is not None and abs(skew) > _SKEW_SECONDS:
        hint = "one of the clocks is wrong; certificate checks depend on ours"
        return Check(name=label, status="warn", seen=f"{seen}, its clock differs by {abs(skew):.0f} s", hint=hint)
    return Check(name=label, status="pass", seen=seen)


def _skew(date: str | None) -> float | None:
    try:
        return parsedate_to_datetime(date or "").timestamp() - time.time()
    except (ValueError, TypeError):
        return None


def _why(error: BaseException) -> tuple[str, str]:
    """Return the cause of a connection failure and a hint: name resolution, certificate, timeout, or other."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, socket.gaierror):
        return "its name does not resolve", "check DNS, proxies (https_proxy) and network policies"
    if isinstance(reason, ssl.SSLError):
        return f"TLS: {reason.reason or reason}", "set SSL_CERT_FILE to your network's CA bundle, and check the clock"
    if isinstance(reason, TimeoutError):
        hint = "a firewall may drop packets: set https_proxy, or stage the data on another machine"
        return f"no answer within {_SECONDS:g} s", hint
    return f"{reason}"[:200], "check proxies and network policies, or stage the data on another machine"
