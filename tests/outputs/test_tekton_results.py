# SPDX-License-Identifier: Apache-2.0
"""Tekton's results: one line each, within the size limit of Tekton."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runner.core.machine_records import GpuUse
from runner.core.records import Failure, Metrics, Outputs, Source, Status
from runner.outputs.tekton_results import ARTIFACT, line, source_hints, values, write, write_values

METRICS = Metrics(
    notebook="01",
    source=Source(path="01.ipynb"),
    run_id="r",
    status=Status.SUCCEEDED,
    reason="all cells ran",
    exit_code=0,
    started_at="2026-11-20T09:00:00.000Z",
    ended_at="2026-11-20T09:02:03.456Z",
    wall_seconds=123.456,
)
PATH = Path("/workspace/shared-storage/outputs/01.metrics.json")
any_text = st.text(st.characters(categories=None), max_size=2000)


def gpu(peak: int | None) -> GpuUse:
    return GpuUse(uuid=f"GPU-{peak}", index=0, name="A", total_bytes=None, peak_gpu_memory_bytes=peak)


def test_a_success_has_these_results() -> None:
    """What is not known is an empty text, not a 0."""
    assert values(METRICS, PATH) == {
        "status": "succeeded",
        "reason": "all cells ran",
        "wall-seconds": "123.5",
        "peak-gpu-memory-gb": "",
        "failed-cell": "",
        "metrics-path": str(PATH),
    }


def test_a_failure_names_its_cell_and_the_largest_peak_counts() -> None:
    """Cell 0 is a cell, and a GPU that could not be measured is left out."""
    failed = dataclasses.replace(
        METRICS,
        status=Status.FAILED,
        failure=Failure(message="x", cell_index=0),
        gpus=(gpu(None), gpu(8_589_934_592), gpu(24_000_000_000)),
    )
    found = values(failed, PATH)
    assert (found["status"], found["failed-cell"], found["peak-gpu-memory-gb"]) == ("failed", "1", "24.00")
    assert values(dataclasses.replace(METRICS, gpus=(gpu(None),)), PATH)["peak-gpu-memory-gb"] == ""


@given(any_text, st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=600))
@example("單" * 2000, "/" + "ä" * 4000)
@example("half \ud83d", "/x")
def test_all_results_fit_into_one_kilobyte_on_one_line_each(tmp_path_factory, reason: str, path: str) -> None:
    """Whatever the reason and wherever the files, with names of results and room for Tekton's own JSON."""
    folder = tmp_path_factory.mktemp("results")
    longest = dataclasses.replace(METRICS, reason=reason, status=Status.UNEXPECTED_RESULTS, gpus=(gpu(10**12),))

    write(folder, longest, Path(path))

    contents = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert set(contents) == {
        "status", "reason", "wall-seconds", "peak-gpu-memory-gb", "failed-cell", "metrics-path"
    }  # fmt: skip
    assert sum(map(len, contents.values())) < 1000
    for content in contents.values():
        assert len(content.decode().splitlines()) <= 1
        assert not content.endswith(b"\n")


@given(any_text, st.integers(10, 200), st.booleans())
def test_a_line_is_cut_between_characters(text: str, limit: int, keep_end: bool) -> None:
    """A truncated text is marked, keeps the requested end, and uses the full length."""
    whole = " ".join(text.encode(errors="replace").decode().split())

    short = line(text, limit, keep_end=keep_end)

    assert len(short.encode()) <= limit
    if len(whole.encode()) <= limit:
        assert short == whole
    elif keep_end:
        assert short.startswith("…")
        assert whole.endswith(short[1:])
    else:
        assert short.endswith("…")
        assert whole.startswith(short[:-1])
        assert len(short.encode()) > limit - 4


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "a\u2028b", "a\x85 b", " a  b\n"])
def test_line_breaks_of_any_kind_become_blanks(text: str) -> None:
    """One result is one line."""
    assert line(text, 100) == "a b"


def test_other_commands_write_their_results_the_same_way(tmp_path: Path) -> None:
    """The folder is made when it is missing."""
    write_values(tmp_path / "new", {"verdict": "failed\n", "report-path": "x" * 900})
    assert (tmp_path / "new" / "verdict").read_bytes() == b"failed"
    assert len((tmp_path / "new" / "report-path").read_bytes()) <= 500


def sealed(folder: Path, name: str, source: Source) -> dict[str, str]:
    """Return the results of a run whose record and notebook are there."""
    for ending in (".metrics.json", ".executed.ipynb"):
        (folder / f"{name}{ending}").write_text(f"{name}{ending}")
    record = dataclasses.replace(
        METRICS, reason="x" * 900, source=source, outputs=Outputs(notebook=f"{name}.executed.ipynb")
    )
    write(folder / "results", record, folder / f"{name}.metrics.json")
    return {path.name: path.read_text() for path in (folder / "results").iterdir()}


COMMIT = "7f2f46e1b97df36b2b82d1b1d87c81b8b3d21601"
SOURCE = Source(path="01.ipynb", sha256="0" * 64, commit=COMMIT, repository="https://git.example/lab/notebooks")


@pytest.mark.parametrize("name", ["01_scRNA_analysis_preprocessing", "with blank", "größe@1?#%", "n" * 60])
def test_record_and_notebook_are_named_for_chains(tmp_path: Path, name: str) -> None:
    """By URI and digest, with the commit they were made from, and still within 1 KB."""
    found = sealed(tmp_path, name, SOURCE)
    for what, file in (("record", f"{name}.metrics.json"), ("notebook", f"{name}.executed.ipynb")):
        hint = json.loads(found[f"{what}_ARTIFACT_OUTPUTS"])
        assert hint == {
            "uri": hint["uri"],
            "digest": f"sha256:{hashlib.sha256(file.encode()).hexdigest()}",
            "isBuildArtifact": "true",
        }
        assert unquote(hint["uri"].removeprefix(ARTIFACT)) == file
        assert hint["uri"].isascii()
    assert (found["CHAINS-GIT_COMMIT"], found["CHAINS-GIT_URL"]) == (COMMIT, SOURCE.repository)
    assert sum(len(text.encode()) for text in found.values()) <= 1000


def test_what_does_not_fit_is_left_out_whole(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Half a URI would be signed as another one; the log names the omitted result."""
    found = sealed(tmp_path, "ä" * 60, dataclasses.replace(SOURCE, repository="https://git.example/" + "x" * 900))
    assert "CHAINS-GIT_URL" not in found
    assert json.loads(found["record_ARTIFACT_OUTPUTS"])["digest"].startswith("sha256:")
    assert sum(len(text.encode()) for text in found.values()) <= 1000
    assert "CHAINS-GIT_URL" in capfd.readouterr().err


def test_a_provisional_record_is_not_signed(tmp_path: Path) -> None:
    """It will be written again."""
    (tmp_path / "01.metrics.json").write_text("{}")
    write(tmp_path / "results", dataclasses.replace(METRICS, provisional=True), tmp_path / "01.metrics.json")
    assert not list((tmp_path / "results").glob("*ARTIFACT*"))


@pytest.mark.parametrize(
    "sources",
    [
        (),
        (dataclasses.replace(SOURCE, commit=None),),
        (dataclasses.replace(SOURCE, repository=None),),
        (dataclasses.replace(SOURCE, commit="a" * 64),),
        (SOURCE, dataclasses.replace(SOURCE, commit="b" * 40)),
        (SOURCE, dataclasses.replace(SOURCE, commit=None)),
    ],
)
def test_one_commit_that_holds_everything_or_none(sources: tuple[Source, ...]) -> None:
    """What was edited, or came from elsewhere, was not made from that commit; Chains knows SHA-1 alone."""
    assert source_hints([SOURCE, SOURCE, Source(path="skipped.ipynb")])["CHAINS-GIT_COMMIT"] == COMMIT
    assert source_hints(sources) == {}
