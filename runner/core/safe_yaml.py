# SPDX-License-Identifier: Apache-2.0
"""Loading of untrusted YAML with bounds on its cost.

PyYAML's safe loader constructs nothing dangerous, but a few hundred bytes can keep it busy for minutes: multiplying
merge keys (`<<`), unbounded nesting. Integers that Python refuses to print would fail much later.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Sequence

_LARGEST_CHARACTERS = 4_000_000
_LARGEST_NODES = 200_000
_DEEPEST = 100
_LONGEST_NUMBER = 1000


def load(text: str) -> Any:
    """Return the value of one document.

    Raises
    ------
    yaml.YAMLError
        It is not valid YAML, repeats a key, or exceeds the limits on size, depth or numbers.
    """
    if len(text) > _LARGEST_CHARACTERS:
        raise yaml.YAMLError(f"{len(text)} characters, the limit is {_LARGEST_CHARACTERS}")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_repeated_keys(node)
        document = loader.construct_document(node)
    except (ValueError, OverflowError, RecursionError) as error:  # a date such as 2026-13-45, an alias of itself
        raise yaml.YAMLError(f"a value that cannot be read: {error}; put odd values in quotes") from error
    finally:
        loader.dispose()
    if _nodes(document, _LARGEST_NODES) <= 0:
        raise yaml.YAMLError(f"expands to more than {_LARGEST_NODES} values; use fewer aliases")
    return document


def load_all(text: str) -> list[Any]:
    """Return the values of all documents in a file; empty ones are omitted.

    Raises
    ------
    yaml.YAMLError
        One of them cannot be loaded.
    """
    documents = [load(part) for part in re.split(r"^---(?:\s.*)?$", text, flags=re.MULTILINE) if part.strip()]
    return [document for document in documents if document is not None]


class _Loader(yaml.SafeLoader):
    """The safe loader with bounds on depth, merge keys and numbers."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._merged = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, with a limit on depth."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _fault(f"nested deeper than {_DEEPEST} levels", self.peek_event())  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def flatten_mapping(self, node: Any) -> None:
        """Expand merge keys, with a limit on the number of values."""
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if isinstance(source, yaml.MappingNode):
                        self.flatten_mapping(source)
                        self._merged += len(source.value)
                    if self._merged > _LARGEST_NODES:
                        raise _fault(f"merge keys (<<) add more than {_LARGEST_NODES} values", key)
        super().flatten_mapping(node)

    def bounded_number(self, node: Any) -> Any:
        """Return a number, with a limit on its length."""
        if len(node.value) > _LONGEST_NUMBER:
            digits = f"a number of {len(node.value)} characters, the limit is {_LONGEST_NUMBER}"
            raise _fault(f"{digits}; put it in quotes if it is a string", node)
        is_integer = node.tag == "tag:yaml.org,2002:int"
        return self.construct_yaml_int(node) if is_integer else self.construct_yaml_float(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.bounded_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.bounded_number)


def tree(text: str) -> yaml.Node | None:
    """Return the node tree of a text that `load` accepts, for `line_of`."""
    loader = _Loader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
    finally:
        loader.dispose()
    return node


def line_of(node: yaml.Node | None, path: Sequence[str | int]) -> tuple[int | None, int]:
    """Return the line of the last existing key of a path, counted from 1, and the number of existing keys.

    >>> line_of(tree("a:\\n  b: 1"), ("a", "b")), line_of(tree("a:\\n  b: 1"), ("a", "c"))
    ((2, 2), (1, 1))
    """
    line, depth = (node.start_mark.line + 1 if node else None), 0
    for depth, part in enumerate(path):
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = (node.value[part], node.value[part])
        else:
            found = None
        if found is None:
            return line, depth
        line, node = found[0].start_mark.line + 1, found[1]
    return line, len(path)


def block_start(text: str, path: Sequence[str | int]) -> int | None:
    """Return the number of lines above the content of a literal block (``|``), None for other values."""
    node = tree(text)
    for part in path:
        assert isinstance(node, yaml.MappingNode)
        node = next(value for key, value in node.value if key.value == part)
    literal = isinstance(node, yaml.ScalarNode) and node.style == "|"
    return node.start_mark.line + 1 if literal and node else None


def _fault(what: str, place: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=place.start_mark)


def _refuse_repeated_keys(node: yaml.Node) -> None:
    """Check the node tree, because in a mapping the earlier of two equal keys is lost."""
    waiting, seen = [node], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys: set[Any] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                    if key.value in keys:
                        raise _fault(f"the key {key.value!r} appears twice; keep one", key)
                    keys.add(key.value)
                waiting.append(value)
        elif isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)


def _nodes(value: Any, left: int) -> int:
    """Return the rest of a budget of values, which aliases, even recursive ones, exhaust before the memory."""
    waiting = [value]
    left -= 1
    while waiting and left > 0:
        item = waiting.pop()
        if isinstance(item, dict | list):
            left -= len(item)
            waiting.extend(item.values() if isinstance(item, dict) else item)
    return left
