# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a request: what passes, what begins anew, and what is final."""

from __future__ import annotations

import email.utils
import time
from typing import TYPE_CHECKING

from runner.core.errors import BrokenInputError, NetworkError
from runner.data.locate import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.data.locate import Location

_PASSING = {408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524, 529}


class Fault(Exception):  # noqa: N818  (no failure yet: it may pass)
    """Something that can pass: the same request may succeed later."""

    def __init__(self, message: str, *, retry_after: float | None = None, too_many: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.too_many = too_many


class Restart(Exception):  # noqa: N818
    """What is there cannot be continued; the file is begun anew."""


class Changed(Restart):
    """The server has another file now than the one that was begun."""


class NotInParts(Restart):
    """The file can come in one answer only: the server has no ranges, or its parts could be of two files."""


def of_status(status: int, headers: Mapping[str, str], location: Location, source: str) -> Exception:
    """Return what an answer with a status that brings nothing means; ``source`` is the plan's URL."""
    where = shown(location.url)
    if status in _PASSING:
        retry_after = _retry_after(headers.get("retry-after", ""))
        return Fault(f"answered {status}", retry_after=retry_after, too_many=status in {429, 503})
    if status in {202, 204}:
        return Fault(f"answered {status} with nothing")
    if status == 407:
        return _proxy_refused(where, status)
    unsigned = not location.has_credential and source.startswith("s3:")
    if status in {401, 403} or (status == 400 and unsigned):
        credential = location.credential
        done = "is set and was refused" if location.has_credential else "is not set"
        return BrokenInputError(
            f"{where} answered {status}: access needs {credential}, which {done}",
            hint=f"set {credential}, and accept the data's terms on its page if it has any",
        )
    return BrokenInputError(f"{where} answered {status}", hint="correct the URL in the plan")


def of_libcurl(code: int, message: str, location: Location, tunnel: int = 0) -> Exception:
    """Return what an error of libcurl means; ``tunnel`` is what a proxy answered to CONNECT, 0 without one."""
    import pycurl

    where = shown(location.url)
    if tunnel >= 400 and tunnel not in _PASSING:
        return _proxy_refused(where, tunnel)
    untrusted = {
        pycurl.E_PEER_FAILED_VERIFICATION,
        pycurl.E_SSL_CACERT_BADFILE,
        pycurl.E_SSL_CERTPROBLEM,
        pycurl.E_SSL_ISSUER_ERROR,
    }
    if code in untrusted:
        return NetworkError(f"{where}: {message}", hint="SSL_CERT_FILE names the authorities to trust")
    if code in {pycurl.E_TOO_MANY_REDIRECTS, pycurl.E_URL_MALFORMAT, pycurl.E_UNSUPPORTED_PROTOCOL}:
        return BrokenInputError(f"{where}: {message}", hint="correct the URL in the plan")
    return Fault(message or f"libcurl error {code}")


def _proxy_refused(where: str, status: int) -> NetworkError:
    hint = (
        "give it user and password: https_proxy=http://USER:PASSWORD@HOST:PORT"
        if status == 407
        else "let the proxy admit this host, or add the host to no_proxy"
    )
    return NetworkError(f"{where}: the proxy answered {status}", hint=hint)


def _retry_after(text: str) -> float | None:
    """Return the seconds that a Retry-After header asks for: a number, or a date."""
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
