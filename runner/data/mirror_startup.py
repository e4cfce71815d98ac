# SPDX-License-Identifier: Apache-2.0
"""Runs inside a Python kernel: redirects urllib, requests and httpx to the mirror for datasets with ``hook: true``.

Their URLs appear in no source, because a library constructs them. The kernel runs the source of this file,
possibly in another Python with other packages, so it uses only the standard library. Undeclared URLs are not
affected, and no exception here reaches the notebook.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import urllib.parse
from typing import Any


class Hook:
    """Replaces URLs in requests of a library."""

    def __init__(self, urls: dict[str, str]) -> None:
        self.urls = {_plain(url): served for url, served in urls.items()}

    def served(self, url: Any) -> str | None:
        """Return the mirror's URL for a declared URL, else None."""
        with contextlib.suppress(Exception):
            return self.urls.get(_plain(str(url)))
        return None


def _plain(url: str) -> str:
    """Return a URL in normalized form: without fragment and quoting."""
    return urllib.parse.unquote(urllib.parse.urldefrag(url)[0])


def _urllib(hook: Hook, module: Any) -> None:
    """Patch the method used by `urlopen`, `urlretrieve`, pandas and wget."""
    original = module.OpenerDirector.open

    def replaced(request: Any) -> Any:
        served = hook.served(getattr(request, "full_url", request))
        if served is None or isinstance(request, str):
            return served or request
        request = copy.copy(request)
        request.full_url = served
        return request

    @functools.wraps(original)
    def open_(self: Any, fullurl: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, _or_same(replaced, fullurl), *args, **kwargs)

    module.OpenerDirector.open = open_


def _requests(hook: Hook, module: Any) -> None:
    """Patch the method used by every request of requests, before its proxy is chosen; pooch uses it."""
    original = module.Session.prepare_request

    def replaced(prepared: Any) -> Any:
        prepared.url = hook.served(prepared.url) or prepared.url
        return prepared

    @functools.wraps(original)
    def prepare_request(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _or_same(replaced, original(self, *args, **kwargs))

    module.Session.prepare_request = prepare_request


def _httpx(hook: Hook, module: Any) -> None:
    """Patch the method used by every request of httpx, for both kinds of client."""
    base = next(kind for kind in module.Client.__mro__ if "build_request" in vars(kind))
    original = base.build_request

    @functools.wraps(original)
    def build_request(self: Any, method: Any, url: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, method, hook.served(url) or url, *args, **kwargs)

    base.build_request = build_request


def _or_same(replaced: Any, request: Any) -> Any:
    """Return the replaced request, or the original on any error."""
    with contextlib.suppress(Exception):
        return replaced(request)
    return request


with contextlib.suppress(Exception):
    if __name__ == "runner_mirror":
        _hook = Hook(json.loads(os.environ.pop("RUNNER_MIRROR_URLS")))
        _kinds = {"urllib.request": _urllib, "requests.sessions": _requests, "httpx": _httpx, "httpx2": _httpx}
        globals()["ImportWatch"]({name: functools.partial(kind, _hook) for name, kind in _kinds.items()}).start()
