# SPDX-License-Identifier: Apache-2.0
"""Writes manifests as YAML, with short mappings on one line and explanatory comments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_INLINE_WIDTH = 100
_LONG = 110
_INLINE_KEYS = (
    {"name", "value"},
    {"name", "workspace"},
    {"name", "kind"},
    {"cpu", "memory", "nvidia.com/gpu"},
    {"key", "operator", "effect"},
    {"key", "operator", "values"},
    {"input", "operator", "values"},
)


class _Dumper(yaml.SafeDumper):
    """Block style, with parameters and other short mappings on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        """Repeat equal parts instead of writing aliases."""
        return True

    def represent_dict(self, data: Any) -> yaml.MappingNode:
        """Represent mappings with certain keys in flow style."""
        node = self.represent_mapping("tag:yaml.org,2002:map", data.items(), flow_style=False)
        keys = set(data)
        if any(keys <= allowed or keys == allowed for allowed in _INLINE_KEYS) and _short(data):
            node.flow_style = True
            for _, value in node.value:
                if isinstance(value, yaml.SequenceNode):
                    value.flow_style = True
        return node

    def represent_text(self, data: str) -> yaml.ScalarNode:
        """Represent multi-line text, such as a plan, as a block scalar."""
        style = "|" if "\n" in data else ">" if len(data) > _LONG else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    def write_folded(self, text: str) -> None:
        """Fold early: lines break at the first space beyond the width, and words such as statuses are long."""
        width, self.best_width = self.best_width, 50
        super().write_folded(text)
        self.best_width = width

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists below their key."""
        super().increase_indent(flow, False)


_Dumper.add_representer(dict, _Dumper.represent_dict)
_Dumper.add_representer(str, _Dumper.represent_text)


def _short(data: Mapping[Any, Any]) -> bool:
    flat = all(not isinstance(value, dict | list) or _scalars(value) for value in data.values())
    return flat and len(str(dict(data))) < _INLINE_WIDTH


def _scalars(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str | int | float | bool) for item in value)


def text(documents: Sequence[Mapping[str, Any]], comments: Mapping[str, str] | None = None) -> str:
    """Return documents as YAML.

    Parameters
    ----------
    comments
        A line of the YAML without indentation -> the comment above its first occurrence.
    """
    dumped = [yaml.dump(dict(doc), Dumper=_Dumper, sort_keys=False, width=150, allow_unicode=True) for doc in documents]
    return "---\n".join(_annotated(one, comments or {}) for one in dumped)


def _annotated(dumped: str, comments: Mapping[str, str]) -> str:
    left = dict(comments)
    lines = []
    for line in dumped.splitlines():
        bare = line.strip()
        if bare in left:
            indent = line[: len(line) - len(line.lstrip())]
            lines += [f"{indent}# {part}" for part in left.pop(bare).splitlines()]
        lines.append(line)
    return "\n".join(lines) + "\n"
