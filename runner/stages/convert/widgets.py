# SPDX-License-Identifier: Apache-2.0
"""Show the last state of widgets, as a page without scripts cannot render them.

Jupyter stores the state of all widgets in the notebook's metadata. Boxes, labels and bars are read
from there (a tqdm bar is a box of label, bar, label), as are captured outputs of Output widgets and
plotly's FigureWidgets; for any other widget the plain text of its output is shown.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from runner.stages.convert.figures import dict_of

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_STATE = "application/vnd.jupyter.widget-state+json"
_BOXES = ("HBoxModel", "VBoxModel", "BoxModel", "GridBoxModel", "AccordionModel", "TabModel", "StackModel")
_MAX_DEPTH = 8
DEEPEST = 4
"""Maximum nesting of outputs in widgets."""
_MAX_PARTS = 200
_BAR_CHARACTERS = 20
_NUMBERS = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)} | {"float32", "float64"}


class Widgets:
    """Last states of the widgets of a notebook.

    Parameters
    ----------
    metadata
        Metadata of the notebook.
    """

    def __init__(self, metadata: object) -> None:
        stored = dict_of(dict_of(metadata).get("widgets")).get(_STATE)
        self._models = dict_of(dict_of(stored).get("state"))
        self._figures = {key: figure for key, model in self._models.items() if (figure := _figure(dict_of(model)))}

    def text(self, view: object) -> str:
        """Return the last state of a view as a line of text, empty if unknown."""
        parts = self._parts(dict_of(view).get("model_id"), 0)
        return " ".join(part for part in parts[:_MAX_PARTS] if part).strip()

    def name(self, view: object) -> str | None:
        """Return the kind of a widget, None if its state was not saved."""
        name, _ = self._model(dict_of(view).get("model_id"))
        return str(name)[:80].removesuffix("Model") if name else None

    def every(self, outputs: object) -> Iterator[dict[str, Any]]:
        """Yield outputs, each followed by those in its widgets."""
        for output in outputs if isinstance(outputs, list) else ():
            if isinstance(output, dict):
                opened: set[object] = set()
                yield output
                yield from self._inside(output, opened, 0)

    def _inside(self, output: dict[str, Any], opened: set[object], depth: int) -> Iterator[dict[str, Any]]:
        for held in self.held(output, opened) if depth < DEEPEST else ():
            if isinstance(held, dict):
                yield held
                yield from self._inside(held, opened, depth + 1)

    def held(self, output: dict[str, Any], opened: set[object]) -> list[Any]:
        """Return the captured outputs and figures in the widgets of an output, except widgets already opened."""
        models = [(dict_of(dict_of(output.get("data")).get(WIDGET_VIEW)).get("model_id"), 0)]
        found: list[Any] = []
        for model, depth in models:  # grows during the iteration
            if not isinstance(model, str) or model in opened:
                continue
            opened.add(model)
            name, state = self._model(model)
            outputs = state.get("outputs")
            if name == "OutputModel" and isinstance(outputs, list):
                found += outputs
            if model in self._figures:
                found.append(self._figures[model])
            if depth < _MAX_DEPTH and len(models) < _MAX_PARTS:
                models += [(child, depth + 1) for child in _children(name, state)]
        return found

    def _model(self, model: object) -> tuple[object, dict[str, Any]]:
        entry = dict_of(self._models.get(model) if isinstance(model, str) else None)
        return entry.get("model_name"), dict_of(entry.get("state"))

    def _parts(self, model: object, depth: int) -> list[str]:
        name, state = self._model(model)
        if depth < _MAX_DEPTH and (children := _children(name, state)):
            return [part for child in children for part in self._parts(child, depth + 1)]
        if name in {"HTMLModel", "LabelModel", "HTMLMathModel"}:
            return [_plain(str(state.get("value", "")))]
        if name in {"FloatProgressModel", "IntProgressModel"}:
            return [_bar(state)]
        return [_setting(state)]


def _figure(model: dict[str, Any]) -> dict[str, Any] | None:
    """Return a plotly FigureWidget as an output with its figure when first displayed, None for other widgets."""
    state = dict_of(model.get("state"))
    parts = {part: state.get(f"_widget_{part}", state.get(f"_{part}")) for part in ("data", "layout")}
    if not isinstance(parts["data"], list) or not isinstance(parts["layout"], dict):
        return None
    parts, buffers = deepcopy(parts), model.get("buffers")
    for buffer in buffers if isinstance(buffers, list) else ():
        with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError):
            part, *path, name, _ = buffer["path"]
            _fill(parts[str(part).rpartition("_")[2]], path, name, buffer["data"])
    return {"output_type": "display_data", "data": {"application/vnd.plotly.v1+json": parts}}


def _fill(place: Any, path: list[Any], name: Any, encoded: str) -> None:
    """Insert the numbers of a binary buffer into a widget's state."""
    import numpy as np

    for key in path:
        place = place[key]
    if place[name]["dtype"] in _NUMBERS:
        place[name] = np.frombuffer(base64.b64decode(encoded), place[name]["dtype"]).tolist()


def _children(name: object, state: dict[str, Any]) -> list[Any]:
    """Return the child models of a box."""
    children = state.get("children") if name in _BOXES else None
    listed = children[:_MAX_PARTS] if isinstance(children, list) else []
    return [str(child).removeprefix("IPY_MODEL_") for child in listed]


def _setting(state: dict[str, Any]) -> str:
    """Return the value of a control with its description: `k: 7`, `method: leiden`."""
    value, index, labels = state.get("value"), state.get("index"), state.get("_options_labels")
    if isinstance(labels, list) and type(index) is int and 0 <= index < len(labels):
        value = labels[index]
    if not isinstance(value, str | int | float):
        return ""
    what = _plain(str(state.get("description") or ""))
    return f"{what}: {_plain(str(value))}" if what else _plain(str(value))


def _bar(state: dict[str, Any]) -> str:
    value, low, high = state.get("value"), state.get("min", 0), state.get("max")
    if not (isinstance(value, int | float) and isinstance(low, int | float) and isinstance(high, int | float)):
        return ""
    done = 0.0 if high <= low else min(1.0, max(0.0, (value - low) / (high - low)))
    filled = round(done * _BAR_CHARACTERS)
    return "|" + "█" * filled + " " * (_BAR_CHARACTERS - filled) + "|"


def _plain(html: str) -> str:
    from runner.stages.convert.markdown import plain_text

    return plain_text(html[:10_000])
