# SPDX-License-Identifier: Apache-2.0
"""Checks a file's type by its first bytes, for files without a checksum.

A server that sends a page or a pointer instead of the data often does so with status 200 and
application/octet-stream. Without a checksum only the name can be compared: the file must begin like the
format of its extension, and must not be an error page.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

_HEAD_BYTES = 4096
_HDF5 = b"\x89HDF\r\n\x1a\n"
_SIGNATURES: dict[tuple[str, ...], tuple[str, tuple[bytes, ...]]] = {
    (".h5ad", ".h5", ".hdf5", ".h5mu", ".loom"): ("HDF5", (_HDF5,)),
    (".gz", ".tgz"): ("gzip", (b"\x1f\x8b",)),
    (".zip", ".npz"): ("zip", (b"PK\x03\x04", b"PK\x05\x06")),
    (".bz2",): ("bzip2", (b"BZh",)),
    (".xz",): ("xz", (b"\xfd7zXZ\x00",)),
    (".zst",): ("zstd", (b"\x28\xb5\x2f\xfd",)),
    (".parquet",): ("Parquet", (b"PAR1",)),
    (".npy",): ("NumPy", (b"\x93NUMPY",)),
}
_TABLES = (".csv", ".tsv", ".txt", ".mtx", ".json", ".tar", ".pkl", ".rds", ".bed", ".gtf", ".fa", ".fasta")
_MARKUP = (".html", ".htm", ".xhtml", ".xml", ".svg")
_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\s[^\0]{0,500}?\bsize (\d{1,20})\s")
_HTML = re.compile(rb"\s{0,500}(?:<!--[^>]{0,500}-->\s{0,500})?<(?:!doctype html|html)\b", re.IGNORECASE)
_XML_ERROR = re.compile(rb"\s{0,500}(?:<\?xml[^>]{0,200}\?>\s{0,500})?<(?:\w{1,20}:)?Error[\s>]")
_XML = re.compile(rb"\s{0,500}<\?xml\b")
_DETAIL = re.compile(rb"<(?:title|Code)>\s{0,50}([^<>]{1,100})")


def not_data(path: Path, *names: str) -> str | None:
    """Return a description of a file that cannot be the dataset, else None.

    Parameters
    ----------
    path
        The received file.
    names
        Its path in the plan and in the URL; the first extension counts.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
        suffix = next((end.lower() for name in names if (end := Path(name).suffix)), "")
        substitute = _substitute(head.removeprefix(b"\xef\xbb\xbf"), suffix)
        if substitute is not None or not head:
            return substitute
        for endings, (kind, signatures) in _SIGNATURES.items():
            if suffix in endings and not head.startswith(signatures):
                # HDF5 may begin after a user block of 512, 1024, ... bytes.
                if kind == "HDF5" and any(_at(stream, 512 << power) == _HDF5 for power in range(16)):
                    return None
                return f"not a valid {suffix} file ({kind}): it begins with {head[:24]!r}"
    return None


def _at(stream: BinaryIO, offset: int) -> bytes:
    stream.seek(offset)
    return stream.read(len(_HDF5))


def _substitute(head: bytes, suffix: str) -> str | None:
    """Return a description of a page, error or pointer sent instead of data."""
    if pointer := _POINTER.match(head):
        return f"a git-lfs pointer, not the file itself, which has {int(pointer[1])} bytes"
    if suffix in _MARKUP:
        return None
    if _HTML.match(head):
        kind = "HTML page"
    elif _XML_ERROR.match(head):
        kind = "XML error message"
    elif _XML.match(head) and any(suffix in endings for endings in (_TABLES, *_SIGNATURES)):
        kind = "XML document"
    else:
        return None
    detail = _DETAIL.search(head)
    title = f" ({' '.join(detail[1].decode('utf-8', 'replace').split())!r})" if detail else ""
    return f"an {kind}{title}"
