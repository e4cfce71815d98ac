# SPDX-License-Identifier: Apache-2.0
"""The text of a plan as a document: YAML or a ConfigMap around it, with defaults filled in.

What a plan means is in `runner.plan`; here is what can be wrong with it before it means
anything: no YAML, a key twice (YAML takes the last one silently), a document that unfolds.
"""

from __future__ import annotations

from typing import Any

from runner.errors import PlanError

_DEFAULTABLE = {
    "kernel",
    "timeout",
    "cell_timeout",
    "cwd",
    "env",
    "requires",
    "optional",
    "prepare",
    "stage",
    "parameters",
    "expect",
}
_LARGEST_CHARACTERS = 4_000_000
_LARGEST_NODES = 200_000


def document_of(text: str, where: str) -> tuple[dict[str, Any], str]:
    """Return the mapping that a plan's text holds, and how to call its place in messages.

    Raises
    ------
    PlanError
        The text is no YAML, no mapping, or a ConfigMap without a plan.
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
    return {**document, "notebooks": notebooks}


def _yaml(text: str, where: str) -> Any:
    import yaml

    if len(text) > _LARGEST_CHARACTERS:
        raise PlanError(f"{where}: {len(text)} characters, the limit is {_LARGEST_CHARACTERS}", hint="split the plan")
    try:
        _refuse_repeated_keys(yaml.compose(text, Loader=yaml.SafeLoader), where)
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PlanError(
            f"{where}: no YAML: {' '.join(str(error).split())}", hint="check the indentation there"
        ) from error
    except (ValueError, RecursionError) as error:  # a date such as 2026-13-45, or nesting without end
        raise PlanError(f"{where}: no YAML that can be read: {error}", hint="put odd values in quotes") from error
    if _nodes(document, _LARGEST_NODES) <= 0:
        raise PlanError(f"{where}: unfolds to more than {_LARGEST_NODES} values", hint="write it with fewer aliases")
    return document


def _refuse_repeated_keys(node: Any, where: str) -> None:
    """Look at the tree before it becomes mappings, in which the earlier of two keys is lost."""
    waiting, seen = [node], set()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if node.id == "mapping":
            keys: set[Any] = set()
            for key, value in node.value:
                if key.value in keys and key.id == "scalar" and key.value != "<<":
                    line = key.start_mark.line + 1
                    raise PlanError(f"{where}: line {line}: the key {key.value!r} stands twice", hint="keep one")
                if key.id == "scalar":
                    keys.add(key.value)
                waiting.append(value)
        elif node.id == "sequence":
            waiting.extend(node.value)


def _nodes(value: Any, left: int) -> int:
    """Return what is left of a budget of values; aliases, also of themselves, use it up instead of the memory."""
    waiting = [value]
    left -= 1
    while waiting and left > 0:
        item = waiting.pop()
        if isinstance(item, dict | list):
            left -= len(item)
            waiting.extend(item.values() if isinstance(item, dict) else item)
    return left
