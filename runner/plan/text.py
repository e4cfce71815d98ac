# SPDX-License-Identifier: Apache-2.0
"""The text of a plan as a document: YAML or a ConfigMap around it, with defaults filled in.

What a plan means is in `runner.plan`; here is what can be wrong with it before it means
anything. What keeps hostile YAML from doing harm is in `runner.core.safe_yaml`.
"""

from __future__ import annotations

from typing import Any

from runner.core.errors import PlanError
from runner.plan.matrix import expanded

_DEFAULTABLE = {
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


def document_of(text: str, where: str) -> tuple[dict[str, Any], str]:
    """Return the mapping that a plan's text holds, and how to call its place in messages.

    Raises
    ------
    PlanError
        The text is not valid YAML, no mapping, or a ConfigMap without a plan.
    """
    document = _yaml(text, where)
    if isinstance(document, dict) and document.get("kind") == "ConfigMap":
        inner = (document.get("data") or {}).get("plan.yaml")
        if not isinstance(inner, str):
            raise PlanError(f"{where}: the ConfigMap has no data['plan.yaml']", hint="put the plan under that key")
        where = f"{where} data['plan.yaml']"
        document = _yaml(inner, where)
    if not isinstance(document, dict):
        raise PlanError(
            f"{where}: a plan is a mapping, this is {type(document).__name__}", hint="see `runner plan schema`"
        )
    return document, where


def with_defaults(document: dict[str, Any]) -> dict[str, Any]:
    """Fill each notebook from `defaults`: mappings are merged, lists and values replaced.

    Raises
    ------
    PlanError
        `defaults` has a key that a notebook cannot take from it.
    """
    defaults = document.get("defaults") or {}
    if not isinstance(defaults, dict) or not isinstance(document.get("notebooks"), list):
        return document
    unknown = sorted(str(key) for key in set(defaults) - _DEFAULTABLE)
    if unknown:
        raise PlanError(f"defaults: unknown key {unknown[0]!r}", hint=f"allowed: {', '.join(sorted(_DEFAULTABLE))}")
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
    return {**document, "notebooks": expanded(notebooks)}


def _yaml(text: str, where: str) -> Any:
    import yaml

    from runner.core import safe_yaml

    try:
        return safe_yaml.load(text)
    except yaml.YAMLError as error:
        raise PlanError(
            f"{where}: not valid YAML: {' '.join(str(error).split())}", hint="correct the plan there"
        ) from error
