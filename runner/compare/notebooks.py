# SPDX-License-Identifier: Apache-2.0
"""Comparison of executed notebooks by the outputs of each cell: figures, numbers and text."""

from __future__ import annotations

import base64
import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.compare.images import compare_images
from runner.compare.texts import compare_svg, compare_texts, compare_trees, without
from runner.compare.verdict import Outcome, Tolerance, Verdict, verdict, worst

LARGEST_BYTES = 200_000_000
_IMAGES = ("image/png", "image/jpeg", "image/webp", "image/gif")
_TREES = ("application/vnd.plotly.v1+json", "application/geo+json", "application/json")
_WIDGET = "application/vnd.jupyter.widget-view+json"
_TAG = re.compile(r"<[^<>]{0,5000}>")
_UNSEEN = tuple(re.compile(mark, re.IGNORECASE) for mark in (r"<(?:style|script)\b", r"</(?:style|script)>"))


def read_cells(path: Path, renamed: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Return the code cells of a notebook.

    Parameters
    ----------
    renamed
        Replacements in the text of the file, such as names of folders.

    Raises
    ------
    ValueError
        It is too large, or not a notebook.
    """
    if path.stat().st_size > LARGEST_BYTES:
        raise ValueError(f"it has more than {LARGEST_BYTES // 10**6} MB")
    text = path.read_text(encoding="utf-8")
    for old, new in (renamed or {}).items():
        text = text.replace(old, new)
    document = json.loads(text)
    if not isinstance(document, dict) or not isinstance(document.get("cells"), list):
        raise ValueError("it is not a notebook of format 4")  # noqa: TRY004  (of a file, not of a call)
    return [cell for cell in document["cells"] if cell["cell_type"] == "code"]


def compare_notebooks(old: Path, new: Path, tolerance: Tolerance) -> list[Verdict]:
    """Compare two executed notebooks; added or removed cells do not shift the others."""
    try:
        one, two = read_cells(old), read_cells(new)
        return list(compare_cells(one, two, tolerance))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return [verdict("", Outcome.UNKNOWN, f"cannot be read: {error}")]


def compare_cells(old: Sequence[Any], new: Sequence[Any], tolerance: Tolerance) -> Iterator[Verdict]:
    """Yield a verdict for each cell, numbered from 1 as in the new notebook."""
    sources = [["".join(cell["source"]) for cell in cells] for cells in (old, new)]
    matcher = difflib.SequenceMatcher(None, sources[0], sources[1], autojunk=False)
    for _, i, end_i, j, end_j in matcher.get_opcodes():
        paired = min(end_i - i, end_j - j)
        for k in range(paired):
            yield compare_cell(_number(new[j + k], j + k), old[i + k], new[j + k], tolerance)
        for k in range(i + paired, end_i):
            yield verdict(_number(old[k], k), Outcome.DIFFERENT, f"removed: {sources[0][k].strip()!r:.80}")
        for k in range(j + paired, end_j):
            yield verdict(_number(new[k], k), Outcome.DIFFERENT, f"added: {sources[1][k].strip()!r:.80}")


def _number(cell: Mapping[str, Any], position: int) -> str:
    """Return a cell's number as in the report: that of the source notebook, without added cells."""
    ours = cell["metadata"].get("runner")
    index = position if ours is None else ours.get("index")
    return f"cell {index + 1}" if isinstance(index, int) else "added cell"


def compare_cell(part: str, old: Mapping[str, Any], new: Mapping[str, Any], tolerance: Tolerance) -> Verdict:
    """Return one verdict for all outputs of a cell, that of the worst one."""
    if _canonical(old["outputs"]) == _canonical(new["outputs"]):
        return verdict(part, Outcome.EQUAL)
    one, two = list(_visible(old["outputs"])), list(_visible(new["outputs"]))
    if [kind for kind, _ in one] != [kind for kind, _ in two]:
        kinds = [", ".join(kind for kind, _ in shown) or "nothing" for shown in (one, two)]
        return verdict(part, Outcome.DIFFERENT, f"outputs {kinds[0]:.100} → {kinds[1]:.100}")
    found = [
        _output(f"{part}, {kind}", kind, before, after, tolerance)
        for (kind, before), (_, after) in zip(one, two, strict=True)
    ]
    outcome = worst([Outcome.TOLERATED, *(one.outcome for one in found)])
    chosen = next((one for one in found if one.outcome is outcome and one.detail), None)
    if chosen is None:
        return verdict(part, Outcome.TOLERATED, "no visible difference")
    what = chosen.part.removeprefix(f"{part}, ")
    return verdict(part, outcome, f"{what}: {chosen.detail}", scores=chosen.scores, figures=chosen.figures)


def _canonical(outputs: Any) -> str:
    """Return outputs without execution counts and metadata."""
    kept = [
        {key: value for key, value in output.items() if key not in {"execution_count", "metadata"}}
        for output in outputs
    ]
    return json.dumps(kept, sort_keys=True)


def _visible(outputs: Any) -> Iterator[tuple[str, Any]]:
    """Yield kind and content of the visible outputs, without stderr, which has only warnings and progress."""
    printed: list[str] = []
    for output in outputs:
        if output["output_type"] == "stream":
            printed += ["".join(output["text"])] if output["name"] == "stdout" else []
            continue
        if printed:
            yield "text", "".join(printed)
            printed = []
        if output["output_type"] == "error":
            yield "error", f"{output['ename']}: {output['evalue']}"
            continue
        if _WIDGET not in output["data"]:
            yield _representation(output["data"])
    if printed:
        yield "text", "".join(printed)


def _representation(data: Mapping[str, Any]) -> tuple[str, Any]:
    """Return kind and content of the representation that a browser shows."""
    kind = next((kind for kind in (*_IMAGES, "image/svg+xml", *_TREES) if kind in data), None)
    if kind in _IMAGES:
        return "figure", base64.b64decode("".join(data[kind]))
    if kind is not None:
        return ("drawing", "".join(data[kind])) if kind == "image/svg+xml" else ("data", data[kind])
    if "text/html" in data and "".join(data.get("text/plain", "<")).startswith("<"):
        return "text", _TAG.sub(" ", without("".join(data["text/html"]), *_UNSEEN))
    return "text", "".join(data.get("text/plain", data.get("text/markdown", data.get("text/latex", ""))))


def _output(part: str, kind: str, old: Any, new: Any, tolerance: Tolerance) -> Verdict:
    compare: Any = {"figure": compare_images, "drawing": compare_svg, "data": compare_trees}.get(kind, compare_texts)
    found: Verdict = compare(part, old, new, tolerance)
    return found
