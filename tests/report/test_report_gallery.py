# SPDX-License-Identifier: Apache-2.0
"""Figures on the report page: selection, links, and invalid figures."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from support import cli, notebooks

from runner.report import gallery as module
from runner.report.assemble import assemble
from runner.report.folder import read_folder

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SHOW = (
    f"from IPython.display import display\nshow = lambda data: display({{'image/png': data}}, raw=True)\nPNG = '{PNG}'"
)
SPLIT = "show(PNG[:20] + '\\n' + PNG[20:])"
FALSE = ["show('not base64!')", "show('\"><script>alert(1)</script>')", "show('aGVsbG8=')", "show(['x', 5])", "show(7)"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run two notebooks: one with valid and invalid figures, one with a tagged figure."""
    folder = tmp_path_factory.mktemp("gallery")
    notebooks.write(folder / "a.ipynb", SHOW, "show(PNG)", SPLIT, *FALSE)
    tagged = notebooks.code("show(PNG)  # <b>", tags=["gallery"])
    notebooks.write(folder / "b c.ipynb", SHOW, tagged, "show(PNG)", "show(PNG)")
    for name in ("a", "b c"):
        options = ("--output-dir", folder / "out", "--name", name.replace(" ", "-"))
        ended = cli.runner("run", folder / f"{name}.ipynb", *options)
        assert ended.code == 0, ended.err
    return folder / "out"


def shown(outputs: Path) -> list[tuple[str, int]]:
    report = assemble(read_folder(outputs, watch=lambda paths, seconds: {}))
    found = module.gallery(report, outputs)
    total = sum(entry.metrics.outputs.figures for entry in report.entries if entry.metrics)
    assert found.left_out == total - len(found.figures)
    return [(figure.entry.name, figure.cell) for figure in found.figures]


@pytest.mark.slow
def test_the_page_shows_figures_that_lead_to_their_cells(outputs: Path) -> None:
    """Each is an embedded image; invalid images and markup are omitted."""
    assert cli.runner("report", outputs).code == 0
    page = max((outputs / "reports").glob("*.html")).read_text()
    section = page.partition('<section id="figures"')[2].partition("</section>")[0]
    links = re.findall(r'<a href="\.\./([^"]+)"><img src="([^"]+)"', section)
    assert [link for link, _ in links] == [
        "a.html#cell-2", "a.html#cell-3", "b-c.html#cell-2", "b-c.html#cell-3", "b-c.html#cell-4",
    ]  # fmt: skip
    assert {source for _, source in links} == {f"data:image/png;base64,{PNG}"}
    assert 'alt="Figure of cell 2 of b-c: show(PNG) # &lt;b&gt;"' in section
    assert "script" not in section
    assert "img-src data:;" in page.partition("Content-Security-Policy")[2].partition(">")[0]
    for link, _ in links:
        name, _, anchor = link.partition("#")
        assert f'id="{anchor}"' in (outputs / name).read_text()


@pytest.mark.slow
def test_tagged_figures_come_first_and_then_the_last_ones(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page without room for all shows those, in the order of the report."""
    size = len(f"data:image/png;base64,{PNG}")
    for count, kept in [
        (5, [("a", 1), ("a", 2), ("b-c", 1), ("b-c", 2), ("b-c", 3)]),
        (3, [("a", 2), ("b-c", 1), ("b-c", 3)]),
        (2, [("a", 2), ("b-c", 1)]),
        (1, [("b-c", 1)]),
        (0, []),
    ]:
        monkeypatch.setattr(module, "MOST_BYTES", count * size + size // 2)
        assert shown(outputs) == kept


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["{", "[]", '{"cells": 5}', '{"cells": [{"metadata": {"runner": 5}}]}', None])
def test_a_damaged_notebook_costs_its_figures_alone(outputs: Path, tmp_path: Path, damage: str | None) -> None:
    """The report is made, with the figures of the others."""
    copy = tmp_path / "out"
    shutil.copytree(outputs, copy)
    notebook = copy / "a.executed.ipynb"
    notebook.unlink() if damage is None else notebook.write_text(damage)
    assert {name for name, _ in shown(copy)} == {"b-c"}
    assert cli.runner("report", copy).code == 0


@pytest.mark.slow
def test_without_figures_the_page_may_hold_no_image(tmp_path: Path) -> None:
    """The policy of such a page allows none."""
    cli.runner("run", notebooks.write(tmp_path / "a.ipynb", "1"), "--output-dir", tmp_path / "out")
    assert cli.runner("report", tmp_path / "out").code == 0
    page = next((tmp_path / "out" / "reports").glob("*.html")).read_text()
    assert 'id="figures"' not in page
    assert "img-src" not in page
    assert json.loads((tmp_path / "out" / "reports" / "summary.json").read_text())["notebooks"][0]["figures"] == 0
