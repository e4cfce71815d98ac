# SPDX-License-Identifier: Apache-2.0
"""`runner verify --attestation`: comparison of files with what Tekton Chains signed."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import cli, notebooks

from runner.core.errors import UsageError
from runner.outputs import sums
from runner.report.attestation import compare_attested

FILES = ("a b.metrics.json", "a b.executed.ipynb")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Give the outputs of a run, and the statement that Chains makes of its results."""
    folder = tmp_path_factory.mktemp("attested")
    notebooks.write(folder / "a b.ipynb", "1 + 1")
    ended = cli.runner(
        "run", folder / "a b.ipynb", "--output-dir", folder / "outputs", "--results-dir", folder / "results"
    )
    assert ended.code == 0, ended.err
    hints = [json.loads(path.read_text()) for path in (folder / "results").glob("*ARTIFACT_OUTPUTS")]
    subjects = []
    for hint in hints:
        kind, digest = hint["digest"].split(":")
        subjects.append({"name": hint["uri"], "digest": {kind: digest}})
    subjects.append({"name": "index.docker.io/some/image", "digest": {"sha256": "0" * 64}})
    statement = {"_type": "https://in-toto.io/Statement/v1", "subject": subjects, "predicateType": "x", "predicate": {}}
    return folder / "outputs", statement


def envelope(statement: dict[str, Any]) -> dict[str, Any]:
    payload = base64.b64encode(json.dumps(statement).encode()).decode()
    return {"payloadType": "application/vnd.in-toto+json", "payload": payload, "signatures": [{"sig": "eA=="}]}


def written(path: Path, document: object) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


@pytest.mark.parametrize("form", ["statement", "envelope", "annotation"])
def test_what_was_signed_is_there(made, tmp_path, form):
    """Bare, in its envelope, and in base64 as it is in an annotation; images are no concern of ours."""
    folder, statement = made
    document: object = statement if form == "statement" else envelope(statement)
    if form == "annotation":
        document = base64.b64encode(json.dumps(document).encode()).decode()
    path = written(tmp_path / "att.json", document)
    assert (compare_attested(folder, path).files, compare_attested(folder, path).differences) == (2, ())
    ended = cli.runner("verify", folder, "--attestation", path)
    assert (ended.code, ended.out.splitlines()[-1].rpartition(", ")[2]) == (0, "2 of them attested: no difference")


@pytest.mark.parametrize(("file", "change"), [(FILES[0], "edited"), (FILES[1], "missing")])
def test_a_changed_file_is_named(made, tmp_path, file, change):
    """Even if checksums were recomputed, as the signature cannot be."""
    folder = Path(shutil.copytree(made[0], tmp_path / "outputs"))
    if change == "edited":
        (folder / file).write_text((folder / file).read_text() + " ")
    else:
        (folder / file).unlink()
    sums.write_notebook(folder, "a b")
    path = written(tmp_path / "att.json", made[1])
    [note] = compare_attested(folder, path).differences
    assert note.path == file
    assert "att.json attests" in note.what
    assert ("missing" in note.what) == (change == "missing")
    assert cli.runner("verify", folder, "--attestation", path).code == 9


def test_an_attestation_of_an_earlier_run_says_where_its_files_are(made, tmp_path):
    """After another run the signed files are in attempts/."""
    folder = Path(shutil.copytree(made[0], tmp_path / "outputs"))
    aside = folder / "attempts" / "a b" / "1"
    aside.mkdir(parents=True)
    shutil.copy(folder / FILES[0], aside)
    (folder / FILES[0]).write_text("{}")
    [note] = compare_attested(folder, written(tmp_path / "att.json", made[1])).differences
    assert f"attempts/a b/1/{FILES[0]} is that file" in note.what


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{",
        "[]",
        "WyJ4Il0=",
        {},
        {"_type": "https://in-toto.io/Statement/v1"},
        {"_type": "https://in-toto.io/Statement/v1", "subject": 1},
        {"_type": "https://in-toto.io/Statement/v1", "subject": [1, {"name": 1}]},
        {"_type": "https://slsa.dev", "subject": []},
        {"payloadType": "text/plain", "payload": "e30="},
        {"payloadType": "application/vnd.in-toto+json", "payload": 1},
        {"payloadType": "application/vnd.in-toto+json", "payload": "%%"},
    ],
)
def test_what_is_not_an_attestation_of_ours_is_a_usage_error(made, tmp_path, document):
    """A check that compared nothing must not pass."""
    with pytest.raises(UsageError, match=r"not an in-toto statement|lists no file"):
        compare_attested(made[0], written(tmp_path / "att.json", document))


@pytest.mark.parametrize("name", ["../secret", "%2e%2e/secret", "/etc/passwd", "a%00b"])
def test_a_name_does_not_leave_the_folder(made, tmp_path, name):
    """Attestations come from elsewhere; no file beside the outputs is read."""
    statement = {**made[1], "subject": [{"name": f"pkg:generic/{name}", "digest": {"sha256": "0" * 64}}]}
    [note] = compare_attested(made[0], written(tmp_path / "att.json", statement)).differences
    assert "outside the folder" in note.what or "cannot be read" in note.what
