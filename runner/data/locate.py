# SPDX-License-Identifier: Apache-2.0
"""Resolves a dataset's URL to one for plain HTTP, with the necessary headers.

Schemes are resolved by their own libraries: boto3 signs `s3://`, huggingface_hub resolves `hf://`. Both
result in an https URL, so that resume, verification and retries are implemented once, in
`runner.data.download.transfer`.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from runner.core.errors import BrokenInputError, UsageError

_SIGNED_SECONDS = 12 * 3600
_HF_ENDPOINT = "https://huggingface.co"
_THIS_MACHINE = {"127.0.0.1", "::1", "localhost"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """URL and headers of a file. ``credential`` names the setting to use if the server denies access."""

    url: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    credential: str = "an entry in ~/.netrc"
    has_credential: bool = False


def locate(url: str) -> Location:
    """Return the location for a URL.

    Raises
    ------
    BrokenInputError
        The scheme is unknown, or a part is missing.
    UsageError
        The library for the scheme is not installed.
    """
    parts = urlsplit(url)
    if parts.scheme in {"http", "https"}:
        if not parts.hostname:
            _refuse(url, "has no host")
        return _hugging_face(url)
    if parts.scheme == "s3":
        return _s3(url)
    if parts.scheme == "hf":
        return _hf(url)
    from runner.plan.model import SCHEMES  # imports pydantic, and every run's mirror imports this module

    return _refuse(url, f"has the unknown scheme {parts.scheme!r}; use one of {', '.join(SCHEMES)}")


def local_path(url: str) -> Path | None:
    """Return the path of a `file://` URL, None for any other.

    Raises
    ------
    BrokenInputError
        The file is on another host.
    """
    parts = urlsplit(url)
    if parts.scheme != "file":
        return None
    if parts.netloc not in {"", "localhost"}:
        _refuse(url, f"has the host {parts.netloc!r}; use file:///path")
    return Path(unquote(parts.path))


def shown(url: str) -> str:
    """Return a URL without user, password and query, for logs."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", "")) + ("?…" if parts.query else "")


def fingerprint(url: str) -> str:
    """Return a hash that identifies a URL without revealing it; user and password are excluded."""
    parts = urlsplit(url)
    named = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))
    return hashlib.sha256(named.encode(errors="surrogateescape")).hexdigest()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _hugging_face(url: str) -> Location:
    """Add the token only for the hub itself: the same host without TLS is not authenticated."""
    endpoint, origin = _origin(os.environ.get("HF_ENDPOINT") or _HF_ENDPOINT), _origin(url)
    if origin[1] != endpoint[1]:
        return Location(url=url)
    if origin != endpoint or not (origin[0] == "https" or origin[1] in _THIS_MACHINE):
        return Location(url=url, credential="an https:// URL of the hub, with HF_TOKEN")
    token = os.environ.get("HF_TOKEN", "").strip()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Location(url=url, headers=headers, credential="HF_TOKEN", has_credential=bool(token))


def _hf(url: str) -> Location:
    """Resolve hf://[datasets/|spaces/]OWNER/NAME[@REVISION]/FILE through huggingface_hub."""
    try:
        from huggingface_hub import hf_hub_url
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{shown(url)}: huggingface_hub is not installed", hint="pip install the extra `hf`"
        ) from error
    path = url.removeprefix("hf://").strip("/")
    kind, _slash, rest = path.partition("/")
    kinds = {"datasets": "dataset", "spaces": "space"}
    names = (rest if kind in kinds else path).split("/", 2)
    if len(names) < 3 or not all(names):
        _refuse(url, "is not of the form hf://[datasets/]OWNER/NAME[@REVISION]/FILE")
    name, _at, revision = names[1].partition("@")
    return _hugging_face(
        hf_hub_url(
            f"{names[0]}/{name}",
            names[2],
            repo_type=kinds.get(kind, "model"),
            revision=unquote(revision) or None,
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    )


def _s3(url: str) -> Location:
    """Sign an S3 object's URL with boto3's credentials; without any, access is anonymous."""
    parts = urlsplit(url)
    bucket, key = parts.netloc, parts.path.lstrip("/")
    if not bucket or not key:
        _refuse(url, "is not of the form s3://BUCKET/KEY")
    try:
        import boto3
        import botocore
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ModuleNotFoundError as error:
        raise UsageError(f"{shown(url)}: boto3 is not installed", hint="pip install the extra `s3`") from error
    try:
        session = boto3.Session()
        signed = session.get_credentials() is not None
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        style = "path" if endpoint or "." in bucket else "auto"
        config = Config(signature_version="s3v4" if signed else botocore.UNSIGNED, s3={"addressing_style": style})
        region = session.region_name or "us-east-1"
        client = session.client("s3", config=config, endpoint_url=endpoint, region_name=region)
        params = {"Bucket": bucket, "Key": unquote(key)}
        target = client.generate_presigned_url("get_object", Params=params, ExpiresIn=_SIGNED_SECONDS)
    except (BotoCoreError, ValueError) as error:
        raise BrokenInputError(f"{shown(url)} cannot be signed: {error}", hint="check the AWS settings") from error
    return Location(url=target, credential="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", has_credential=signed)


def file_name(url: str) -> str:
    """Return the last part of a URL's path, quoted for use in another URL."""
    name = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
    return quote(name, safe="") or "data"


def _refuse(url: str, what: str) -> NoReturn:
    raise BrokenInputError(f"the URL {shown(url)} {what}", hint="correct `url` in the plan")
