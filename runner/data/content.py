# SPDX-License-Identifier: Apache-2.0
"""What a file is by its first bytes, where no checksum says that it is the right one.

A server that answers with a page or a pointer instead of the data often says 200 and
application/octet-stream. Without a checksum the name is all there is to compare with: a name
that promises a format must begin as that format does, and no dataset is an error page.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

_HEAD_BYTES = 4096
_HDF5 = b"\x89HDF\r\n\x1a\n"
_SIGNATURES: dict[tuple[str, ...], tuple[str, tuple[bytes, ...]]] = {
    (".h5ad", ".h5", ".hdf5", ".h5mu", ".loom"): ("HDF5 file", (_HDF5,)),
    (".gz", ".tgz"): ("gzip file", (b"\x1f\x8b",)),
    (".zip", ".npz"): ("zip file", (b"PK\x03\x04", b"PK\x05\x06")),
    (".bz2",): ("bzip2 file", (b"BZh",)),
    (".xz",): ("xz file", (b"\xfd7zXZ\x00",)),
    (".zst",): ("zstd file", (b"\x28\xb5\x2f\xfd",)),
    (".parquet",): ("Parquet file", (b"PAR1",)),
    (".npy",): ("NumPy file", (b"\x93NUMPY",)),
}
_TABLES = (".csv", ".tsv", ".txt", ".mtx", ".json", ".tar", ".pkl", ".rds", ".bed", ".gtf", ".fa", ".fasta")
_MARKUP = (".html", ".htm", ".xhtml", ".xml", ".svg")
_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\s[^\0]{0,500}?\bsize (\d{1,20})\s")
_HTML = re.compile(rb"\s{0,500}(?:<!--[^>]{0,500}-->\s{0,500})?<(?:!doctype html|html)\b", re.IGNORECASE)
_XML_ERROR = re.compile(rb"\s{0,500}(?:<\?xml[^>]{0,200}\?>\s{0,500})?<(?:\w{1,20}:)?Error[\s>]")
_XML = re.compile(rb"\s{0,500}<\?xml\b")
_DETAIL = re.compile(rb"<(?:title|Code)>\s{0,50}([^<>]{1,100})")


def not_data(path: Path, *names: str) -> str | None:
    """Return what a file is if it cannot be the dataset of any of these names, else None.

    Parameters
    ----------
    path
        The file as it came.
    names
        What the plan calls it, and its URL's path; the first one that has an ending decides.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
        suffix = next((end.lower() for name in names if (end := Path(name).suffix)), "")
        stand_in = _stand_in(head.removeprefix(b"\xef\xbb\xbf"), suffix)
        if stand_in is not None or not head:
            return stand_in
        for endings, (kind, signatures) in _SIGNATURES.items():
            if suffix in endings and not head.startswith(signatures):
                # HDF5 may begin behind a user block of 512, 1024, ... bytes.
                if kind == "HDF5 file" and any(_at(stream, 512 << power) == _HDF5 for power in range(16)):
                    return None
                return f"no {kind}, as {suffix} promises: it begins with {head[:24]!r}"
    return None


def _at(stream: BinaryIO, offset: int) -> bytes:
    stream.seek(offset)
    return stream.read(len(_HDF5))


def _stand_in(head: bytes, suffix: str) -> str | None:
    """Return what came in the place of data."""
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
    said = f" ({' '.join(detail[1].decode('utf-8', 'replace').split())!r})" if detail else ""
    return f"an {kind}{said}"
