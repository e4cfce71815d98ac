# SPDX-License-Identifier: Apache-2.0
"""All cells ran; whether the run left what the plan says is looked up, not believed."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
from support import notebooks

from runner.core.notebook_document import read_notebook
from runner.plan.model import Expect
from runner.stages.expect import expectations as expect_stage

anndata = pytest.importorskip("anndata")
h5py = pytest.importorskip("h5py")
np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
sparse = pytest.importorskip("scipy.sparse")


@pytest.fixture
def check(tmp_path):
    """Give a check of files below the test's folder, with notebooks without outputs."""
    blank = read_notebook(notebooks.write(tmp_path / "nb.ipynb", "1"))

    def run(*files, source=blank, executed=blank, figures=0, before=None, **expect):
        return expect_stage.check(
            Expect(files=list(files), **expect),
            checkout=tmp_path,
            before=before or {},
            figures=figures,
            executed_nb=executed,
            source_nb=source,
        )

    return run


def write_anndata(path: Path, *, rows: int = 5, columns: int = 3, matrix: str = "csr") -> Path:
    """Write AnnData as the notebooks do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dense = np.arange(rows * columns, dtype="float32").reshape(rows, columns)
    data = anndata.AnnData({"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}[matrix](dense))
    if path.suffix == ".zarr":
        data.write_zarr(path)
    else:
        data.write_h5ad(path)
    return path


def test_a_file_that_is_there_meets_the_expectation(check, tmp_path):
    """Existing, not empty, new: met, with its size."""
    (tmp_path / "out.csv").write_text("a,b\n")
    (found,) = check("out.csv")
    assert (found.kind, found.target, found.met, found.seen) == ("file", "out.csv", True, "4 B")


@pytest.mark.parametrize(
    ("make", "seen"),
    [
        (lambda path: None, "missing; the folder has nb.ipynb"),
        (lambda path: path.touch(), r"empty \(0 bytes\)"),
        (lambda path: path.mkdir(), r"empty \(0 bytes\)"),
        (lambda path: path.symlink_to("nowhere"), "missing"),
    ],
)
def test_a_missing_or_empty_file_does_not_pass(check, tmp_path, make, seen):
    """What is seen says which it was."""
    make(tmp_path / "out.csv")
    (found,) = check("out.csv")
    assert not found.met
    assert found.severity == "error"
    assert re.search(seen, found.seen)


def test_a_missing_folder_is_named(check):
    """A wrong path in the plan shows at once."""
    assert check("h5/out.csv")[0].seen == "no such folder h5"


def test_a_file_of_yesterday_does_not_pass(check, tmp_path):
    """Put there before the run started is not written by it, whatever its date; a folder is all that is in it."""
    (tmp_path / "old").mkdir()
    for path in (tmp_path / "out.csv", tmp_path / "old" / "part"):
        path.write_text("x")
        os.utime(path, (time.time() + 86400,) * 2)
    before = expect_stage.before(Expect(files=["out.csv", "old"]), tmp_path)
    found = check("out.csv", "old", before=before)
    assert [item.met for item in found] == [False, False]
    assert {item.seen for item in found} == {"unchanged since before the run started"}
    (tmp_path / "old" / "new").write_text("x")
    assert check("old", before=before)[0].met


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("y"),
        lambda path: (path.write_text("y"), os.utime(path, (1_000_000_000, 1_000_000_000))),
        lambda path: (path.with_name("part").write_text("x"), path.with_name("part").replace(path)),
        lambda path: (path.unlink(), path.write_text("x")),
        os.utime,
    ],
)
def test_a_file_that_the_run_wrote_again_passes_whatever_the_clock_says(check, tmp_path, write):
    """A clock that steps back, or the date of an origin, makes no file of this run an old one."""
    path = tmp_path / "out.csv"
    path.write_text("x")
    os.utime(path, (time.time() + 3600,) * 2)
    before = expect_stage.before(Expect(files=["*.csv"]), tmp_path)
    until = time.monotonic() + 60
    stamp = tmp_path / "stamp"
    stamp.touch()
    while time.monotonic() < until:  # the file system's clock has moved on, however coarse it is
        (tmp_path / "now").touch()
        if (tmp_path / "now").stat().st_ctime_ns > stamp.stat().st_ctime_ns:
            break
    write(path)
    assert check("out.csv", "*.csv", before=before)[0].met
    assert check("*.csv", before=before)[0].met


def test_a_file_unpacked_by_the_run_passes_whatever_its_date(check, tmp_path):
    """What tar and wget write keeps the date of its origin."""
    (tmp_path / "tree").mkdir()
    for path in (tmp_path / "out.csv", tmp_path / "tree" / "part"):
        path.write_text("x")
        os.utime(path, (1_000_000_000, 1_000_000_000))
    assert [item.met for item in check("out.csv", "tree")] == [True, True]


def test_a_pattern_stands_for_its_newest_match(check, tmp_path):
    """One file of the run suffices, whatever lies beside it and however new that looks."""
    (tmp_path / "a-2.csv").write_text("a-2.csv")
    os.utime(tmp_path / "a-2.csv", (time.time() + 3600,) * 2)
    before = expect_stage.before(Expect(files=["a-*.csv"]), tmp_path)
    (tmp_path / "a-1.csv").write_text("a-1.csv")
    assert check("a-*.csv", before=before)[0].met
    assert not check("a-2*.csv", before=before)[0].met
    assert not check("b-*.csv", before=before)[0].met


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("matrix", ["csr", "csc", "dense"])
def test_anndata_that_holds_together_passes_with_its_shape(check, tmp_path, suffix, matrix):
    """What anndata writes is read back without anndata."""
    write_anndata(tmp_path / f"out{suffix}", matrix=matrix)
    (found,) = check(f"out{suffix}")
    assert found.met, found.seen
    assert found.seen.startswith("5 x 3, ")


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_an_index_stored_as_a_group_is_read(check, tmp_path, suffix):
    """Since 0.13 anndata writes names as values with a mask; an older one does so when it is told to."""
    data = anndata.AnnData(np.zeros((5, 3), dtype="float32"))
    for table in (data.obs, data.var):
        table.index = pd.array([f"n{i}" for i in range(len(table))], dtype="string")
    with anndata.settings.override(allow_write_nullable_strings=True):
        data.write_zarr(tmp_path / "out.zarr") if suffix == ".zarr" else data.write_h5ad(tmp_path / "out.h5ad")
    assert (tmp_path / "out.zarr" / "obs" / "_index" / "values").is_dir() or suffix == ".h5ad"
    (found,) = check(f"out{suffix}")
    assert found.met, found.seen
    assert found.seen.startswith("5 x 3, ")


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_anndata_without_cells_does_not_pass(check, tmp_path, suffix):
    """A filter that takes everything out leaves a valid file with nothing in it."""
    write_anndata(tmp_path / f"out{suffix}", rows=0)
    assert "has no data: 0 x 3" in check(f"out{suffix}")[0].seen


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_file_that_was_cut_short_does_not_pass(check, tmp_path, part):
    """A killed writer's file does not open, however much of it is there."""
    path = write_anndata(tmp_path / "out.h5ad", rows=2000)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    (found,) = check("out.h5ad")
    assert not found.met
    assert "is not readable as HDF5" in found.seen


def test_a_matrix_that_disagrees_does_not_pass(check, tmp_path):
    """Rows that end beyond the stored values, and a shape that is not obs x var, are seen."""
    path = write_anndata(tmp_path / "out.h5ad")
    with h5py.File(path, "a") as file:
        values = file["X/data"][:-2]
        del file["X/data"]
        file["X/data"] = values
    assert "X is truncated" in check("out.h5ad")[0].seen
    with h5py.File(path, "a") as file:
        del file["X"]
        file["X"] = np.zeros((4, 3))
    assert "is inconsistent: X is 4 x 3, obs x var 5 x 3" in check("out.h5ad")[0].seen
    with h5py.File(path, "a") as file:
        del file["obs"]
    assert "no obs, it has" in check("out.h5ad")[0].seen


@pytest.mark.parametrize(
    ("breakage", "seen"),
    [
        (lambda path: next(path.glob("zarr.json"), path / ".zgroup").unlink(), "is no zarr|zarr"),
        (lambda path: _shorten(path / "X"), "cannot be read"),
        (lambda path: shutil.rmtree(path / "obs" / "_index"), "has no array obs/_index"),
    ],
)
def test_a_half_written_zarr_does_not_pass(check, tmp_path, breakage, seen):
    """Its metadata is missing or cut."""
    breakage(write_anndata(tmp_path / "out.zarr"))
    (found,) = check("out.zarr")
    assert not found.met
    assert re.search(seen, found.seen)


def _shorten(folder: Path) -> None:
    for name in ("zarr.json", ".zgroup"):
        if (folder / name).exists():
            (folder / name).write_text("{")


def test_a_zarr_that_is_no_anndata_needs_an_array(check, tmp_path):
    """Any group with an array qualifies; one without is what a killed writer leaves."""
    (tmp_path / "out.zarr").mkdir()
    (tmp_path / "out.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
    assert "without arrays" in check("out.zarr")[0].seen
    (tmp_path / "out.zarr" / "a").mkdir()
    (tmp_path / "out.zarr" / "a" / ".zarray").write_text('{"shape": [2]}')
    assert check("out.zarr")[0].seen.startswith("zarr with 1 arrays")


def test_without_h5py_the_file_is_a_warning(check, tmp_path, monkeypatch):
    """What cannot be judged is said, and does not fail the run."""
    write_anndata(tmp_path / "out.h5ad")
    monkeypatch.setitem(sys.modules, "h5py", None)
    (found,) = check("out.h5ad")
    assert (found.met, found.severity) == (False, "warning")
    assert "h5py is not installed" in found.seen


def test_figures_are_counted(check):
    """Fewer than asked is not met."""
    assert not check(min_figures=4, figures=3)[0].met
    assert check(min_figures=4, figures=4)[0].met
    assert check(min_figures=0)[0].met


def test_drift_names_cells_whose_results_are_gone(check, tmp_path):
    """An image or a text result of the source's saved outputs that is missing now is a warning, or an error."""
    saved = [
        notebooks.code("plot()", cell_id="a", outputs=[notebooks.image()]),
        notebooks.code("shape", cell_id="b", outputs=[notebooks.result("(5, 3)")]),
        notebooks.code("print()", cell_id="c", outputs=[{"output_type": "stream", "name": "stdout", "text": "x"}]),
        notebooks.code("both", cell_id="d", outputs=[notebooks.image(), notebooks.result("5")]),
    ]
    now = [
        notebooks.code("plot()", cell_id="a", outputs=[notebooks.result("<Figure>")]),
        notebooks.code("inserted", cell_id="x"),
        notebooks.code("shape", cell_id="b", outputs=[notebooks.result("(0, 0)")]),
        notebooks.code("print()", cell_id="c"),
        notebooks.code("both", cell_id="d"),
    ]
    source = read_notebook(notebooks.write(tmp_path / "source.ipynb", *saved))
    executed = read_notebook(notebooks.write(tmp_path / "executed.ipynb", *now))
    found = check(source=source, executed=executed)
    assert [(item.target, item.seen, item.severity, item.met) for item in found] == [
        ("cell 1", "no image", "warning", False),
        ("cell 4", "no image and no text result", "warning", False),
    ]
    assert {item.severity for item in check(source=source, executed=executed, drift="error")} == {"error"}
    assert check(source=source, executed=executed, drift="off") == ()
    assert [item.met for item in check(source=source, executed=source)] == [True]


def shown(**data: str) -> dict:
    """Return what `display` leaves: its forms by MIME type, with `_` for the slash."""
    bundle = {mime.replace("_", "/", 1): text for mime, text in data.items()}
    return {"output_type": "display_data", "metadata": {}, "data": bundle}


TABLE = shown(text_html="<table></table>", text_plain="   a")


@pytest.mark.parametrize(
    ("before", "now", "seen"),
    [
        (TABLE, None, "no text result"),
        (shown(text_plain="AnnData object"), None, "no text result"),
        (shown(text_markdown="**5**"), notebooks.image(), "no text result"),
        (TABLE, notebooks.result("   a"), None),
        (notebooks.result("5"), shown(text_plain="5"), None),
        (shown(), None, None),
        (shown(text_plain="0%", **{"application_vnd.jupyter.widget-view+json": "{}"}), None, None),
    ],
)
def test_what_a_cell_displays_is_a_result(check, tmp_path, before, now, seen):
    """Tables and text of `display` as well as the last value; no progress bar, and the way it is shown may change."""
    kept = notebooks.code("1", cell_id="kept", outputs=[notebooks.result("1")])
    made = [notebooks.write(tmp_path / f"{name}.ipynb", notebooks.code("x", cell_id="a", outputs=outputs), kept)
            for name, outputs in (("source", [before]), ("executed", [now] if now else []))]  # fmt: skip
    source, executed = (read_notebook(path) for path in made)
    assert [item.seen for item in check(source=source, executed=executed) if not item.met] == ([seen] if seen else [])


def test_a_dropped_cell_has_not_drifted(check, tmp_path):
    """What a rule took out is expected to have no result."""
    source = read_notebook(
        notebooks.write(tmp_path / "s.ipynb", notebooks.code("p", cell_id="a", outputs=[notebooks.image()]))
    )
    executed = read_notebook(notebooks.write(tmp_path / "e.ipynb", notebooks.code("p", cell_id="a")))
    executed.cells[0].metadata["runner"] = {"index": 0, "dropped": "a rule"}
    assert all(item.met for item in check(source=source, executed=executed))
