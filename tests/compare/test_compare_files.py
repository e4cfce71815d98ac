# SPDX-License-Identifier: Apache-2.0
"""Figures, tables, texts and executed notebooks by meaning, and folders file by file."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import io
import json
from datetime import timedelta

import numpy as np
import pytest
from PIL import Image, ImageDraw
from support import cli, notebooks
from support import records as made

from runner.compare.folders import compare
from runner.compare.images import compare_images
from runner.compare.texts import compare_svg, compare_texts
from runner.compare.verdict import Outcome, Tolerance
from runner.core.errors import UsageError
from runner.core.records import Status

EQUAL, TOLERATED, UNKNOWN, DIFFERENT = Outcome


def plot(
    colours=("#1f77b4", "#ff7f0e"), *, shift=0, seed=0, size=(640, 480), blank=False, kind="PNG", title="a"
) -> bytes:
    """Return a scatter plot as a file."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((60, 40, size[0] - 30, size[1] - 50), outline="black")
    draw.text((size[0] / 2, 12), title, fill="black", font_size=20)
    for number in range(0 if blank else 400):
        x, y = (random.normal(0.5, 0.13, 2) * size).tolist()
        draw.ellipse((x + shift - 4, y - 4, x + shift + 4, y + 4), fill=colours[number % len(colours)])
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("changed", "outcome"),
    [
        ({}, EQUAL),
        ({"colours": ("#1f77b4", "#2ca02c")}, DIFFERENT),
        ({"colours": ("#ff7f0e", "#1f77b4")}, DIFFERENT),
        ({"seed": 1}, DIFFERENT),
        ({"shift": 20}, DIFFERENT),
        ({"blank": True}, DIFFERENT),
        ({"size": (640, 300)}, DIFFERENT),
        ({"title": "another title"}, DIFFERENT),
    ],
    ids=str,
)
def test_a_figure_is_judged_by_what_is_to_be_seen(changed, outcome):
    """The other colour of some points, other points, a shift, nothing: each is another figure."""
    found = compare_images("figure", plot(), plot(**changed), Tolerance())
    assert found.outcome is outcome, found
    assert (found.figures is not None) == (outcome is DIFFERENT)


def noisy(content: bytes) -> bytes:
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    changed = np.clip(pixels + np.random.default_rng(0).integers(-2, 3, pixels.shape), 0, 255).astype("uint8")
    return png(Image.fromarray(changed))


def png(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_noise_that_nobody_sees_is_tolerated_and_another_encoding_is_equal():
    """Compression and rounding are no content."""
    recompressed = png(Image.open(io.BytesIO(plot())), compress_level=1)
    assert recompressed != plot()
    assert compare_images("", plot(), recompressed, Tolerance()).outcome is EQUAL
    assert compare_images("", plot(), noisy(plot()), Tolerance()).outcome is TOLERATED


def bomb() -> bytes:
    return png(Image.new("1", (9_000, 9_000)))


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n", plot()[:2000], b"<svg/>"], ids=["no", "head", "cut", "svg"]
)
def test_an_image_that_cannot_be_read_is_not_compared(content):
    """Nothing ends, and nothing is called equal."""
    assert compare_images("", plot(), content, Tolerance()).outcome is UNKNOWN


def test_an_image_that_would_fill_the_memory_is_not_opened():
    """A few kilobytes may be hundreds of megapixels."""
    found = compare_images("", plot(), bomb(), Tolerance())
    assert (found.outcome, "9000 x 9000" in found.detail) == (UNKNOWN, True)


@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [
        ("a 1.0", "a 1.0", EQUAL),
        ("ARI 0.93", "ARI 0.71", DIFFERENT),
        ("ARI 0.930000001", "ARI 0.930000002", TOLERATED),
        ("took 3.21 s", "took 14.9 s", TOLERATED),
        ("12:01:02 done", "23:59:58 done", TOLERATED),
        ("2026-11-20T09:00:00Z", "2026-11-28T10:01:02Z", TOLERATED),
        ("<a at 0x7f00deadbeef>", "<a at 0x7f11deadbe00>", TOLERATED),
        ("x  1\ny  2", "x 1\ny 2", TOLERATED),
        ("10%\r50%\r100% done", "9%\r100% done", TOLERATED),
        ("2700 cells", "2699 cells", DIFFERENT),
        ("a\nb", "a\nb\nc", DIFFERENT),
        ("a\nb", "a", DIFFERENT),
        ("nan", "1.0", DIFFERENT),
        ("p = 1e-300", "p = 1e-3", DIFFERENT),
        ("v1.2.3", "v1.2.4", DIFFERENT),
        ("kept 5 samples", "kept 6 samples", DIFFERENT),
    ],
)
def test_texts_are_judged_by_words_and_numbers(old, new, outcome):
    """What each run writes anew does not count."""
    assert compare_texts("", old, new, Tolerance()).outcome is outcome


def test_a_hostile_text_takes_no_time():
    """Patterns are bounded: this must end, long before the test's limit does."""
    for piece in ("1", "-", "1.", "0x", " ", "1:2", "2026-", "\r", "e1"):
        compare_texts("", piece * 300_000, piece * 300_001, Tolerance())


def test_a_drawing_is_judged_without_its_random_ids():
    """As matplotlib writes it."""
    drawing = '<svg><metadata><date>{}</date></metadata><g id="{}"/><use xlink:href="#{}" x="{}"/></svg>'
    one = drawing.format("2026-01-01", "m1a2b", "m1a2b", 3)
    assert compare_svg("", one, drawing.format("2026-02-02", "m9f9f", "m9f9f", 3), Tolerance()).outcome is TOLERATED
    assert compare_svg("", one, drawing.format("2026-01-01", "m1a2b", "m1a2b", 4), Tolerance()).outcome is DIFFERENT


def folders(tmp_path, name, old: bytes, new: bytes):
    for side, content in (("old", old), ("new", new)):
        (tmp_path / side).mkdir(exist_ok=True)
        (tmp_path / side / name).write_bytes(content)
    return compare(tmp_path / "old", tmp_path / "new", Tolerance())


TABLE = b"gene,score\nA,1.5\nB,2.5\nC,nan\n"


@pytest.mark.parametrize(
    ("new", "outcome", "detail"),
    [
        (TABLE, EQUAL, "identical bytes"),
        (TABLE.replace(b"\n", b"\r\n"), EQUAL, "4 rows"),
        (TABLE.replace(b"1.5", b"1.5000001"), TOLERATED, "numbers differ in 1 of 8 cells"),
        (TABLE.replace(b"1.5", b"1.6"), DIFFERENT, "1 of 8 cells; first in row 2, column 2 ('score'): '1.5' → '1.6'"),
        (TABLE.replace(b"B,", b"X,"), DIFFERENT, "'B' → 'X'"),
        (b"gene,score\nB,2.5\nA,1.5\nC,nan\n", TOLERATED, "the same 4 rows in a different order"),
        (TABLE + b"D,1\n", DIFFERENT, "row 5 added"),
        (TABLE[:-6], DIFFERENT, "row 4 removed"),
        (TABLE.replace(b"2.5", b"2.5,1"), DIFFERENT, "row 3 has 2 → 3 cells"),
        (b"", DIFFERENT, "row 1 removed"),
    ],
)
def test_tables_are_judged_cell_by_cell(tmp_path, new, outcome, detail):
    """Gzipped ones as well."""
    for name, pack in (("a.csv", bytes), ("a.csv.gz", gzip.compress)):
        [file] = [file for file in folders(tmp_path, name, pack(TABLE), pack(new)).files if file.path == name]
        assert file.outcome is outcome
        assert detail in file.verdicts[0].detail or new == TABLE


@pytest.mark.parametrize("content", [gzip.compress(TABLE, mtime=0)[:20], b"no gzip"], ids=["cut", "none"])
def test_a_table_that_cannot_be_read_is_not_compared(tmp_path, content):
    """The verdict has the reason."""
    assert folders(tmp_path, "a.csv.gz", gzip.compress(TABLE), content).outcome is UNKNOWN


@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [
        ({"a": [1, 2.0]}, {"a": [1, 2.0000001]}, TOLERATED),
        ({"a": [1, 2.0]}, {"a": [1, 3]}, DIFFERENT),
        ({"a": True}, {"a": 1}, DIFFERENT),
        ({"a": None}, {}, DIFFERENT),
        ({"a": "x"}, {"a": "y"}, DIFFERENT),
    ],
)
def test_json_is_judged_value_by_value(tmp_path, old, new, outcome):
    """Layout and order of keys do not count."""
    assert folders(tmp_path, "a.json", json.dumps(old).encode(), json.dumps(new, indent=1).encode()).outcome is outcome


def test_folders_are_compared_by_path_and_links_stay_unread(tmp_path):
    """What only one has is a difference, and so is a kind that has no reader."""
    for side in ("old", "new"):
        (tmp_path / side / "deep").mkdir(parents=True)
        (tmp_path / side / "deep" / "same.bin").write_bytes(b"1")
        (tmp_path / side / "other.bin").write_bytes(side.encode() * 2)
        (tmp_path / side / ".hidden").write_text(side)
    (tmp_path / "old" / "gone.txt").write_text("x")
    (tmp_path / "new" / "loop").symlink_to(tmp_path / "new")
    (tmp_path / "new" / "broken").symlink_to("nowhere")
    found = {file.path: file for file in compare(tmp_path / "old", tmp_path / "new", Tolerance()).files}
    assert {path: file.outcome for path, file in found.items()} == {
        "deep/same.bin": EQUAL,
        "other.bin": DIFFERENT,
        "gone.txt": DIFFERENT,
        "broken": DIFFERENT,
    }


@pytest.mark.parametrize("sides", [("file", "folder"), ("nothing", "file"), ("empty", "empty")])
def test_what_cannot_be_compared_is_a_usage_error(tmp_path, sides):
    """With a hint."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError) as raised:
        compare(tmp_path / sides[0], tmp_path / sides[1], Tolerance())
    assert raised.value.hint


def shown(kind: str, content: str) -> dict:
    return {"output_type": "display_data", "metadata": {}, "data": {kind: content, "text/plain": "<Figure>"}}


def figure(**changes) -> dict:
    return shown("image/png", base64.b64encode(plot(**changes)).decode())


def stream(text: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text}


CELLS = {
    "figure": (figure(), figure(), EQUAL),
    "other figure": (figure(), figure(seed=1), DIFFERENT),
    "number": (notebooks.result("0.5"), notebooks.result("0.6"), DIFFERENT),
    "printed": (stream("n = 3\n"), stream("n = 4\n"), DIFFERENT),
    "stderr": (stream("warning 1", "stderr"), stream("warning 2", "stderr"), TOLERATED),
    "plotly": (
        shown("application/vnd.plotly.v1+json", {"data": [{"y": [1, 2]}]}),
        shown("application/vnd.plotly.v1+json", {"data": [{"y": [1, 3]}]}),
        DIFFERENT,
    ),
    "html": (shown("text/html", "<b>1</b>"), shown("text/html", "<i>1</i>"), TOLERATED),
    "other html": (shown("text/html", "<b>1</b>"), shown("text/html", "<b>2</b>"), DIFFERENT),
    "widget": (
        shown("application/vnd.jupyter.widget-view+json", {"model_id": "a"}),
        shown("application/vnd.jupyter.widget-view+json", {"model_id": "b"}),
        TOLERATED,
    ),
    "kind": (figure(), notebooks.result("1"), DIFFERENT),
    "damaged": (figure(), shown("image/png", "AAAA"), UNKNOWN),
}


@pytest.mark.parametrize("case", CELLS)
def test_a_cell_is_judged_by_what_it_shows(tmp_path, case):
    """The verdict names the cell; the others stay equal."""
    old, new, outcome = CELLS[case]
    for side, output in (("old", old), ("new", new)):
        notebooks.write(tmp_path / side / "n.ipynb", "1", notebooks.code("x", outputs=[output]), "2")
    [file] = compare(tmp_path / "old", tmp_path / "new", Tolerance()).files
    if outcome is not EQUAL:
        assert [one.outcome for one in file.verdicts] == [EQUAL, outcome, EQUAL], file.verdicts
        assert file.verdicts[1].part == "cell 2"
    assert file.outcome is outcome


def test_a_new_cell_does_not_move_the_others(tmp_path):
    """Cells are matched by their source."""
    same = [notebooks.code(f"cell {n}", outputs=[notebooks.result(str(n))]) for n in range(4)]
    notebooks.write(tmp_path / "old.ipynb", *same)
    notebooks.write(tmp_path / "new.ipynb", "import new", *same)
    [file] = compare(tmp_path / "old.ipynb", tmp_path / "new.ipynb", Tolerance()).files
    different = [str(one) for one in file.verdicts if one.outcome is DIFFERENT]
    assert different == ["cell 1: different: added: 'import new'"]


@pytest.mark.parametrize("content", ["", "{}", '{"cells": [{}]}', '{"cells": 1}', "[" * 100_000, '{"cells": [{"cell_type": "code", "source": 1, "outputs": []}]}'])  # fmt: skip
def test_a_notebook_that_cannot_be_read_is_not_compared(tmp_path, content):
    """Whatever is in the file."""
    notebooks.write(tmp_path / "old.ipynb", "1")
    (tmp_path / "new.ipynb").write_text(content)
    assert compare(tmp_path / "old.ipynb", tmp_path / "new.ipynb", Tolerance()).outcome is UNKNOWN


def test_a_page_holds_hostile_texts_as_text(tmp_path):
    """Names and outputs are strangers'."""
    evil = "<script>alert(1)</script>\x1b[2J"
    notebooks.write(tmp_path / "old" / f"{evil.replace('/', '')}.ipynb", notebooks.code("1", outputs=[stream("a")]))
    notebooks.write(tmp_path / "new" / f"{evil.replace('/', '')}.ipynb", notebooks.code("1", outputs=[stream(evil)]))
    ended = cli.runner("compare", tmp_path / "old", tmp_path / "new", "--html", tmp_path / "page.html")
    assert (ended.code, "\x1b" in ended.out) == (0, False)
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_of_output_folders_end_results_and_products_are_compared(tmp_path):
    """The runner's own logs, pages and samples differ in each run, and are not compared."""
    for side, status, day, ari, digest in (("old", "SUCCEEDED", 0, 0.93, "a"), ("new", "FAILED", 1, 0.71, "b")):
        start = made.START + timedelta(days=day)
        record = made.metrics("n", status=Status[status], start=start, recorded={"ari": ari, "cells": 2700})
        outputs = dataclasses.replace(record.outputs, product_sha256={"same.csv": "c", "other.h5ad": digest})
        made.leave(tmp_path / side, dataclasses.replace(record, outputs=outputs))
        (tmp_path / side / "reports").mkdir()
        (tmp_path / side / "reports" / "summary.json").write_text(json.dumps({"side": side}))
    files = {file.path: file for file in compare(tmp_path / "old", tmp_path / "new", Tolerance()).files}
    assert set(files) == {"n.executed.ipynb", "n.metrics.json"}
    found = {one.part: (one.outcome, one.detail) for one in files["n.metrics.json"].verdicts}
    assert found["status"] == (DIFFERENT, "succeeded → failed")
    assert found["recorded ari"] == (DIFFERENT, "ari: 0.93 → 0.71")
    assert found["recorded cells"][0] is EQUAL
    assert found["product same.csv"][0] is EQUAL
    assert found["product other.h5ad"][0] is UNKNOWN
