# SPDX-License-Identifier: Apache-2.0
"""Comparison of an output folder with an attestation, as Tekton Chains creates it from the results of the tasks.

An attestation is an in-toto statement, plain or in a DSSE envelope, whose subjects are names with digests. Here the
digests are compared with the files; `cosign` verifies the signature.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from runner.core import files
from runner.core.errors import UsageError
from runner.outputs.attempts import folders
from runner.outputs.tekton_results import ARTIFACT
from runner.report.folder import METRICS
from runner.report.integrity import EXECUTED, Note, sha256

STATEMENT = "https://in-toto.io/Statement/"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
_LARGEST_BYTES = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """The result of a comparison with an attestation."""

    files: int
    """Number of files in the attestation."""
    differences: tuple[Note, ...]


def compare_attested(folder: Path, attestation: Path) -> Attested:
    """Compare the files of an output folder with the digests of an attestation.

    Raises
    ------
    UsageError
        The file is not an attestation of an output folder.
    """
    root = folder.absolute()
    found: dict[str, str] = {}
    for subject in _subjects(attestation):
        name, digest = subject.get("name"), subject.get("digest")
        if isinstance(name, str) and isinstance(digest, dict) and name.startswith(ARTIFACT):
            found[unquote(name.removeprefix(ARTIFACT))] = str(digest.get("sha256"))
    if not found:
        raise UsageError(
            f"{attestation} lists no file of an output folder",
            hint="use the attestation of a TaskRun of gpu-notebook-executor-task or analysis-report-task",
        )
    differences = []
    for name, expected in found.items():
        path = Path(os.path.normpath(root / name))
        if not path.is_relative_to(root):
            differences.append(Note(attestation.name, f"it lists {name!r}, which is outside the folder"))
        elif (now := sha256(path)) != expected:
            has = f"its SHA-256 is {now}" if now else "it is missing or cannot be read"
            earlier = _earlier(root, name, expected)
            also = f"; {earlier.relative_to(root)} is that file" if earlier else ""
            differences.append(Note(name, f"{has}, {attestation.name} attests {expected}{also}"))
    return Attested(files=len(found), differences=tuple(differences))


def _earlier(root: Path, file: str, digest: str) -> Path | None:
    """Return the file of an earlier run with this digest."""
    ending = next((one for one in (METRICS, EXECUTED) if file.endswith(one)), "")
    aside = (folder / file for folder in folders(root, file.removesuffix(ending))) if ending else ()
    return next((path for path in aside if sha256(path) == digest), None)


def _subjects(path: Path) -> list[dict[str, Any]]:
    """Return the subjects of a statement, which may be in an envelope and in base64."""
    try:
        document = _json(files.read(path, _LARGEST_BYTES))
        if "payload" in document:
            if document.get("payloadType") != PAYLOAD_TYPE:
                raise ValueError(f"the payload of the envelope is {document.get('payloadType')!r}")  # noqa: TRY301
            document = _json(document["payload"])
        if not str(document.get("_type")).startswith(STATEMENT):
            raise ValueError(f"its _type is {document.get('_type')!r}")  # noqa: TRY301
        return [one for one in document["subject"] if isinstance(one, dict)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path} is not an in-toto statement: {error}",
            hint="use the annotation chains.tekton.dev/signature-taskrun-UID of the TaskRun, or the file Chains stored",
        ) from error


def _json(data: bytes | str) -> dict[str, Any]:
    """Parse JSON, which may be in base64 as in the annotations of Chains."""
    text = (data.encode() if isinstance(data, str) else data).strip()
    found = json.loads(text if text.startswith(b"{") else base64.b64decode(text, validate=True))
    if not isinstance(found, dict):
        raise TypeError("not an object")
    return found
