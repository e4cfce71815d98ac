# SPDX-License-Identifier: Apache-2.0
"""Changes values in the text of a plan without touching any other byte, comments included.

PyYAML gives the position of each value in the text, so a value is replaced in place and a new one is added in the
style of its mapping. A YAML library that keeps comments would be a dependency for this alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import yaml

from runner.core.errors import PlanError

if TYPE_CHECKING:
    from yaml.nodes import Node

Values = Mapping[tuple[str, ...], str]
"""Values in YAML syntax by key path within a notebook."""


def with_values(text: str, changes: Mapping[int, Values], comment: str = "") -> str:
    """Return the text of a plan, or of a ConfigMap that contains one, with changed values of notebooks.

    Parameters
    ----------
    text
        Text that `runner.plan.parse` accepts.
    changes
        Values by the position of the notebook in the text.
    comment
        Added above ``notebooks:``, replacing one that starts with the same word.

    Raises
    ------
    PlanError
        A value comes from an alias, or the plan in the ConfigMap is not a literal block (``|``).
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    data = _child(root, "data")
    inner = None if _child(root, "notebooks") else _child(data, "plan.yaml") if data else None
    if inner is not None:
        return _in_block(text, inner, changes, comment)
    for position, values in changes.items():
        for path, value in values.items():
            text = _with_value(text, position, path, value)
    return _with_comment(text, comment) if comment else text


def _in_block(text: str, inner: Node, changes: Mapping[int, Values], comment: str) -> str:
    """Change a plan in a literal block of another document."""
    lines = text.splitlines(keepends=True)
    first, last = inner.start_mark.line + 1, inner.end_mark.line + (inner.end_mark.column > 0)
    block = lines[first:last]
    indent = next((len(line) - len(line.lstrip(" ")) for line in block if line.strip()), 0)
    plan = "".join(line[indent:] if line.strip() else "\n" for line in block)
    if getattr(inner, "style", None) != "|" or plan.rstrip("\n") != inner.value.rstrip("\n"):
        raise PlanError(
            "the ConfigMap's data['plan.yaml'] is not a literal block, so it cannot be edited in place",
            hint="write it as `plan.yaml: |` with the plan below",
        )
    edited = with_values(plan, changes, comment).splitlines(keepends=True)
    return "".join([*lines[:first], *(" " * indent + line if line.strip() else line for line in edited), *lines[last:]])


def _with_value(text: str, position: int, path: tuple[str, ...], value: str) -> str:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    notebooks = _child(root, "notebooks")
    assert isinstance(notebooks, yaml.SequenceNode)
    node = notebooks.value[position]
    for depth, key in enumerate(path):
        found = _child(node, key)
        if found is None:
            rest = value
            for outer in reversed(path[depth + 1 :]):
                rest = f"{{{outer}: {rest}}}"
            return _with_key(text, node, key, rest)
        if not node.start_mark.index <= found.start_mark.index < node.end_mark.index:
            raise PlanError(
                f"notebooks[{position}].{'.'.join(path)} comes from an alias (*), so it cannot be edited in place",
                hint="write it out for this notebook",
            )
        node = found
    return text[: node.start_mark.index] + value + text[node.end_mark.index :]


def _with_key(text: str, node: Node, key: str, value: str) -> str:
    """Add a key at the end of a mapping, in its style."""
    assert isinstance(node, yaml.MappingNode)
    if not node.value:  # `{}`
        return f"{text[: node.start_mark.index]}{{{key}: {value}}}{text[node.end_mark.index :]}"
    last = node
    while isinstance(last, yaml.CollectionNode) and last.value and (last is node or not last.flow_style):
        last = last.value[-1][1] if isinstance(last, yaml.MappingNode) else last.value[-1]
    end = last.end_mark.index
    if node.flow_style:
        return f"{text[:end]}, {key}: {value}{text[end:]}"
    line = " " * node.start_mark.column + f"{key}: {value}"
    if last.end_mark.column == 0:  # after a literal block, which includes its line break
        return f"{text[:end]}{line}\n{text[end:]}"
    end = text.find("\n", end) if "\n" in text[end:] else len(text)
    return f"{text[:end]}\n{line}{text[end:]}"


def _with_comment(text: str, comment: str) -> str:
    word = re.escape(comment.partition(" ")[0])
    text = re.sub(rf"^# {word} [^\n]*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"^notebooks:", lambda _: f"# {comment}\nnotebooks:", text, count=1, flags=re.MULTILINE)


def _child(node: Node | None, key: str) -> Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if getattr(name, "value", None) == key), None)
