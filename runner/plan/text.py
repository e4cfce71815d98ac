# SPDX-License-Identifier: Apache-2.0
"""The text of a plan: YAML, or a ConfigMap that contains it, and the line of each value.

`runner.core.safe_yaml` guards against hostile YAML; `runner.plan.model` validates the document.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from runner.core import safe_yaml
from runner.core.errors import PlanError, did_you_mean
from runner.plan.faults import FaultyError, Path

DEFAULTABLE = {
    "kernel",
    "timeout",
    "cell_timeout",
    "start_timeout",
    "allow_errors",
    "on_failure",
    "cwd",
    "env",
    "requires",
    "optional",
    "prepare",
    "stage",
    "parameters",
    "expect",
    "resume",
}
"""Keys that a notebook can take from `defaults`."""


@dataclass(frozen=True, slots=True)
class PlanText:
    """The text of a plan and its document."""

    document: dict[str, Any]
    text: str
    where: str
    """The file, and the key in it if it is a ConfigMap."""
    file: str
    before: int | None
    """Lines of the file above the first line of the plan; None if folding moved its lines."""

    def place(self, line: int | None) -> str:
        """Return file and line in the form that editors and terminals open."""
        known = line is not None and self.before is not None
        return f"{self.file}:{(line or 0) + (self.before or 0)}" if known else self.where

    def find(self, node: yaml.Node | None, at: Path) -> tuple[int | None, Path]:
        """Return line and key path of a value, which may come from `defaults`."""
        line, depth = safe_yaml.line_of(node, at)
        if at[:1] == ("notebooks",) and len(at) > 2:
            default: Path = ("defaults", *at[2:])
            default_line, default_depth = safe_yaml.line_of(node, default)
            if default_depth > 1 and default_depth - 1 > depth - 2:
                return default_line, default
        return line, at


def read(text: str, file: str) -> PlanText:
    """Parse the text of a plan.

    Raises
    ------
    PlanError
        The text is not valid YAML, not a mapping, or a ConfigMap without a plan.
    """
    where, document = file, _yaml(text, file, 0)
    before: int | None = 0
    if isinstance(document, dict) and document.get("kind") == "ConfigMap":
        inner = (document.get("data") or {}).get("plan.yaml")
        if not isinstance(inner, str):
            raise PlanError(f"{file}: the ConfigMap has no data['plan.yaml']", hint="put the plan under that key")
        where, before = f"{file} data['plan.yaml']", safe_yaml.block_start(text, ("data", "plan.yaml"))
        text = inner
        document = _yaml(text, where if before is None else file, before or 0)
    if not isinstance(document, dict):
        what = f"{where}: a plan must be a mapping, this is {type(document).__name__}"
        raise PlanError(what, hint="see `runner plan schema`")
    return PlanText(document, text, where, file, before)


def with_defaults(document: dict[str, Any]) -> dict[str, Any]:
    """Apply `defaults` to each notebook: mappings are merged, lists and values replaced.

    Raises
    ------
    FaultyError
        `defaults` has a key that is not allowed there.
    """
    defaults = document.get("defaults") or {}
    if not isinstance(defaults, dict) or not isinstance(document.get("notebooks"), list):
        return document
    for key in defaults:
        if key not in DEFAULTABLE:
            known = f"{did_you_mean(str(key), DEFAULTABLE)}allowed: {', '.join(sorted(DEFAULTABLE))}"
            raise FaultyError(("defaults", key), f"unknown key ({known})")
    notebooks = []
    for notebook in document["notebooks"]:
        if not isinstance(notebook, dict):
            notebooks.append(notebook)
            continue
        filled = dict(defaults)
        for key, value in notebook.items():
            base = defaults.get(key)
            filled[key] = {**base, **value} if isinstance(base, dict) and isinstance(value, dict) else value
        notebooks.append(filled)
    return {**document, "notebooks": notebooks}


def _yaml(text: str, file: str, before: int) -> Any:
    try:
        return safe_yaml.load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{file}:{mark.line + 1 + before}" if mark else file
        what = " ".join(str(getattr(error, "problem", None) or error).split())
        raise PlanError(f"{place}: not valid YAML: {what}", hint="correct the plan there") from error
