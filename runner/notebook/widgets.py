# SPDX-License-Identifier: Apache-2.0
"""Widgets as text: a page without scripts cannot draw them, but a progress bar has a last state.

Jupyter stores the state of all widgets in the notebook's metadata. Boxes, labels and bars are
read from there (a tqdm bar is a box of label, bar, label); for any other widget the plain text
that its output carries is shown instead.
"""

from __future__ import annotations

from typing import Any

_STATE = "application/vnd.jupyter.widget-state+json"
_MAX_DEPTH = 8
_MAX_PARTS = 200
_BAR_CHARACTERS = 20


class Widgets:
    """Last states of the widgets of a notebook.

    Parameters
    ----------
    metadata
        Metadata of the notebook.
    """

    def __init__(self, metadata: object) -> None:
        stored = _mapping(_mapping(metadata).get("widgets")).get(_STATE)
        self._models = _mapping(_mapping(stored).get("state"))

    def text(self, view: object) -> str:
        """Return the last state of a view as one line of text; empty where that is not known."""
        parts = self._parts(_mapping(view).get("model_id"), 0)
        return " ".join(part for part in parts[:_MAX_PARTS] if part).strip()

    def _parts(self, model: object, depth: int) -> list[str]:
        entry = _mapping(self._models.get(model) if isinstance(model, str) else None)
        state, name = _mapping(entry.get("state")), entry.get("model_name")
        if name in {"HBoxModel", "VBoxModel", "BoxModel"} and depth < _MAX_DEPTH:
            children = state.get("children")
            listed = children[:_MAX_PARTS] if isinstance(children, list) else []
            found = [self._parts(str(child).removeprefix("IPY_MODEL_"), depth + 1) for child in listed]
            return [part for parts in found for part in parts]
        if name in {"HTMLModel", "LabelModel", "HTMLMathModel"}:
            return [_plain(str(state.get("value", "")))]
        if name in {"FloatProgressModel", "IntProgressModel"}:
            return [_bar(state)]
        return []


def _bar(state: dict[str, Any]) -> str:
    value, low, high = state.get("value"), state.get("min", 0), state.get("max")
    if not (isinstance(value, int | float) and isinstance(low, int | float) and isinstance(high, int | float)):
        return ""
    done = 0.0 if high <= low else min(1.0, max(0.0, (value - low) / (high - low)))
    filled = round(done * _BAR_CHARACTERS)
    return "|" + "█" * filled + " " * (_BAR_CHARACTERS - filled) + "|"


def _plain(html: str) -> str:
    from runner.notebook.markdown import plain_text

    return plain_text(html[:10_000])


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
