# SPDX-License-Identifier: Apache-2.0
"""Put beside the validators what they would fetch: the schema of Jenkins' xUnit plugin and the context of RO-Crate.

Both come out of packages: pytest's source has the schema, rocrate the context. Run by the validators' own Python:
validators.py FOLDER.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from importlib import resources
from pathlib import Path

import requests
import urllib3
from requests_cache import CachedSession

CONTEXT = "https://w3id.org/ro/crate/1.1/context"
SCHEMA = "junit-10.xsd"


class FromPackage(requests.adapters.HTTPAdapter):
    """Answers with the context that rocrate brings."""

    def send(self, request: requests.PreparedRequest, **_: object) -> requests.Response:
        """Return the context, whatever is asked for."""
        body = resources.files("rocrate").joinpath("data", "ro-crate.jsonld").read_bytes()
        kind = {"Content-Type": "application/ld+json"}
        answer = urllib3.HTTPResponse(io.BytesIO(body), headers=kind, status=200, preload_content=False)
        return self.build_response(request, answer)


def keep_context(cache: Path) -> None:
    """Make the cache with which rocrate-validator works offline."""
    with CachedSession(cache, backend="sqlite", expire_after=-1) as session:
        session.mount("https://", FromPackage())
        if session.get(CONTEXT).json()["@id"] != CONTEXT:
            raise SystemExit("the installed rocrate brings another context than that of RO-Crate 1.1")


def keep_schema(folder: Path) -> None:
    """Copy the schema out of the source of our pytest."""
    constraints = Path(__file__).parents[1] / "constraints.txt"
    with tempfile.TemporaryDirectory() as place:
        download = ["download", "--quiet", "--no-deps", "--no-binary=pytest", f"--constraint={constraints}"]
        subprocess.run([sys.executable, "-m", "pip", *download, f"--dest={place}", "pytest"], check=True)
        [archive] = Path(place).iterdir()
        with tarfile.open(archive) as source:
            [member] = [one for one in source.getmembers() if one.name.endswith(f"/{SCHEMA}")]
            content = source.extractfile(member)
            assert content
            (folder / SCHEMA).write_bytes(content.read())


if __name__ == "__main__":
    keep_context(Path(sys.argv[1]) / "http-cache.sqlite")
    keep_schema(Path(sys.argv[1]))
