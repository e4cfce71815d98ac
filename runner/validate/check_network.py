# SPDX-License-Identifier: Apache-2.0
"""Checks of the network, when asked: the plan's datasets can be reached from here.

One request for the head of each dataset, through the proxies of the environment. What has been
staged and verified needs no network, so this is not part of every validation.
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
    """Return one check a dataset; without a plan there is nothing to reach."""
    datasets = dict(plan.datasets) if plan else {}
    if not datasets:
        return (Check(name="network", status="pass", seen="the plan has no datasets to reach"),)
    with ThreadPoolExecutor(_MOST) as pool:
        return tuple(pool.map(lambda item: _reach(*item), datasets.items()))


def _reach(name: str, dataset: Dataset) -> Check:
    label, host = f"dataset {name}", urlsplit(dataset.url).hostname or "?"
    if urlsplit(dataset.url).scheme not in {"http", "https"}:
        return Check(name=label, status="warn", seen=f"{host}: only http and https are tried here")
    request = urllib.request.Request(dataset.url, method="HEAD", headers={"User-Agent": "runner-validate"})  # noqa: S310
    started = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310  (http and https alone)
            return _answered(label, host, dataset, answer.headers, time.monotonic() - started)
    except urllib.error.HTTPError as error:
        status: Level = "warn" if error.code in {403, 405, 501} else "fail"  # some servers answer GET alone
        hint = "the host is there, the file may not be: try `runner fetch`"
        return Check(name=label, status=status, seen=f"{host} answers {error.code} {error.reason}", hint=hint)
    except (OSError, http.client.HTTPException, ValueError) as error:
        seen, hint = _why(error)
        return Check(name=label, status="fail", seen=f"{host}: {seen}", hint=hint)


def _answered(label: str, host: str, dataset: Dataset, headers: http.client.HTTPMessage, seconds: float) -> Check:
    length = headers.get("Content-Length", "")
    size = int(length) if length.isdigit() else None
    seen = f"{host} answers in {seconds * 1000:.0f} ms" + (f", {format_bytes(size)}" if size else "")
    if dataset.bytes is not None and size is not None and size != dataset.bytes:
        hint = "upstream has another file now: look at the plan's bytes and hash"
        return Check(name=label, status="warn", seen=f"{seen} ({size} bytes)", needed=f"{dataset.bytes}", hint=hint)
    skew = _skew(headers.get("Date"))
    if skew is not None and abs(skew) > _SKEW_SECONDS:
        hint = "one of the two clocks is wrong; certificates depend on ours"
        return Check(name=label, status="warn", seen=f"{seen}, its clock differs by {abs(skew):.0f} s", hint=hint)
    return Check(name=label, status="pass", seen=seen)


def _skew(date: str | None) -> float | None:
    try:
        return parsedate_to_datetime(date or "").timestamp() - time.time()
    except (ValueError, TypeError):
        return None


def _why(error: BaseException) -> tuple[str, str]:
    """Return what kept us from the host, and what to do: name, certificate, time and the rest differ."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, socket.gaierror):
        return "its name does not resolve", "look at DNS, at proxies (https_proxy), and at network policies"
    if isinstance(reason, ssl.SSLError):
        return f"TLS: {reason.reason or reason}", "give the CA bundle of your network (SSL_CERT_FILE), check the clock"
    if isinstance(reason, TimeoutError):
        return (
            f"no answer within {_SECONDS:g} s",
            "a firewall may drop it: set https_proxy, or stage the data elsewhere",
        )
    return f"{reason}"[:200], "look at proxies and network policies, or stage the data from another machine"
