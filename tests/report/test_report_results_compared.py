# SPDX-License-Identifier: Apache-2.0
"""What cells show, now and in the baseline, on the page of a report."""

from __future__ import annotations

import base64
import io
import json
from datetime import timedelta

import numpy as np
from PIL import Image
from support import notebooks
from support import records as made
from support.pages import Page

from runner.compare.page import MOST_FIGURE_BYTES
from runner.report import build


def figure(seed: int, size: int = 300) -> dict:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 6, 3)).astype("uint8")
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST).save(buffer, "PNG")
    data = {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": "<Figure>"}
    return {"output_type": "display_data", "metadata": {}, "data": data}


def run_of(folder, day: int, *outputs: dict):
    start = made.START + timedelta(days=day)
    made.leave(folder, made.metrics("a", start=start, run_id=f"run-{day}"), with_samples=False)
    path = folder / "a.executed.ipynb"
    document = json.loads(path.read_text())
    cells = [notebooks.code(f"plot({n})", cell_id=f"p{n}", outputs=[output]) for n, output in enumerate(outputs)]
    for n, cell in enumerate(cells):
        cell["metadata"] = {"runner": {"index": n}}
    document["cells"] = cells
    path.write_text(json.dumps(document))
    return folder


def page(folder, *baselines) -> Page:
    result = build(folder, watch=lambda paths, seconds: {}, baselines=baselines)
    return Page(result.html_path.read_text())


def pairs(html: Page) -> list[str]:
    return [
        one.attributes["alt"]
        for one in html.elements
        if one.tag == "img" and "gallery" not in one.path and one.attributes["alt"].endswith((", old", ", new"))
    ]


def test_figures_stand_side_by_side_where_they_differ_and_only_there(tmp_path):
    """A figure that is the same, and a report without a baseline, have none."""
    before = run_of(tmp_path / "1", 0, figure(1), figure(2), notebooks.result("0.5"))
    now = run_of(tmp_path / "2", 1, figure(1), figure(3), notebooks.result("0.25"))
    assert pairs(page(before)) == []
    found = page(now, before)
    assert pairs(found) == ["cell 2, old", "cell 2, new"]
    text = " ".join(
        one.text for one in found.elements if one.tag == "section" and one.attributes.get("id") == "comparison"
    )
    assert "cell 2: different: figure: perceptual hash" in text
    assert "cell 3: different: text: line 1 '0.5' → '0.25'" in text
    assert "1 other part is equal" in text
    assert pairs(page(now, before / "reports" / "summary.json")) == ["cell 2, old", "cell 2, new"]


def test_a_run_is_not_compared_with_itself(tmp_path):
    """A summary in the same folder is of an earlier run, whose notebook no longer exists."""
    now = run_of(tmp_path / "1", 0, figure(1))
    page(now)
    assert "Outputs of cells" not in page(now, now).html


def test_figures_of_a_comparison_are_bounded(tmp_path):
    """However many differ: a page can be sent and opened."""
    before = run_of(tmp_path / "1", 0, *(noise(n) for n in range(12)))
    now = run_of(tmp_path / "2", 1, *(noise(100 + n) for n in range(12)))
    page(before)
    found = page(now, before)
    shown = pairs(found)
    assert 0 < len(shown) < 24
    sources = [one.attributes["src"] for one in found.elements if one.tag == "img" and one.attributes["alt"] in shown]
    assert sum(map(len, sources)) <= MOST_FIGURE_BYTES
    assert "this page has no room for them" in found.html


def noise(seed: int) -> dict:
    pixels = np.random.default_rng(seed).integers(0, 255, (480, 480, 3)).astype("uint8")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    data = {"image/png": base64.b64encode(buffer.getvalue()).decode()}
    return {"output_type": "display_data", "metadata": {}, "data": data}


def test_a_damaged_notebook_of_the_baseline_is_told(tmp_path):
    """It costs nothing but its verdict."""
    before = run_of(tmp_path / "1", 0, figure(1))
    page(before)
    (before / "a.executed.ipynb").write_text("{")
    assert "not compared: cannot be read" in page(run_of(tmp_path / "2", 1, figure(1)), before).html
