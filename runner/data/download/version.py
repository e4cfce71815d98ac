# SPDX-License-Identifier: Apache-2.0
"""Which version of a file an answer is of: parts of two versions make a file that never was.

A server names a version by its ETag, its date, or not at all. Ranges are asked for without
If-Range on purpose: the answer to that may leave out both names, and they are compared here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from runner.data.locate import fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What an answer says about the file that it is of.

    ``source`` is the fingerprint of the URL in the plan: the record of a download must not hold
    what a URL may carry. An ETag counts without its mark of weakness, which proxies add.
    """

    source: str
    total: int | None
    etag: str = ""
    modified: str = ""

    @classmethod
    def of(cls, url: str, total: int | None, headers: Mapping[str, str]) -> Version:
        """Return the version that an answer with these headers is of."""
        etag = headers.get("etag", "").removeprefix("W/")
        return cls(source=fingerprint(url), total=total, etag=etag, modified=headers.get("last-modified", ""))

    @property
    def named(self) -> bool:
        """Tell whether the server names the version, so that another one can be told from it."""
        return bool(self.etag or self.modified)

    def unnamed(self) -> Version:
        """Return URL and size alone, for a server whose names mean nothing."""
        return replace(self, etag="", modified="")

    def difference(self, now: Version) -> str:
        """Say how a later answer differs; an empty string when it does not.

        >>> then = Version(source="1", total=5, etag='"a"')
        >>> then.difference(Version(source="1", total=6, etag='"b"'))
        'total was 5 and is 6, etag was "a" and is "b"'
        """
        pairs = [(field.name, getattr(self, field.name), getattr(now, field.name)) for field in fields(self)]
        return ", ".join(f"{name} was {then} and is {new}" for name, then, new in pairs if then != new)
