# SPDX-License-Identifier: Apache-2.0
"""Whether code reads a name of the namespace that it runs in, or only names of its own.

The rules are those of the language reference ("Naming and binding"), applied to the tree. The
standard library's symtable gives the compiler's view instead, which differs between Python
versions: since 3.12 the variables of an inlined comprehension are listed as the module's.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_Binding = Literal["own", "global", "nonlocal"]


def reads_global(tree: ast.AST, name: str) -> bool:
    """Return True if a cell, or an expression at its top level, may read a name of the notebook's namespace.

    A name that a function, a lambda or a comprehension binds for itself is another one. ``n += 1``
    reads ``n``. Where nesting is too deep to follow, the answer is True.
    """
    try:
        return _Reader(name, ()).reads(tree)
    except RecursionError:
        return True


@dataclass(frozen=True, slots=True)
class _Reader:
    """Looks for reads of one name in code below the given function scopes, the innermost last."""

    name: str
    scopes: tuple[_Binding | None, ...]
    bound_by_class: bool = False
    """The class whose body is being read has bound the name before this statement."""

    @property
    def _is_global(self) -> bool:
        """Return True if a load here reads the notebook's namespace."""
        for binding in reversed(self.scopes):
            if binding in {"own", "global"}:
                return binding == "global"
        return not self.bound_by_class

    def reads(self, node: ast.AST) -> bool:
        """Return True if evaluating a node, or calling what it defines, may read the name."""
        if isinstance(node, ast.Name):
            return node.id == self.name and isinstance(node.ctx, ast.Load) and self._is_global
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id == self.name:
            return self._is_global or self.reads(node.value)
        if isinstance(node, _FUNCTIONS):
            return self._in_function(node)
        if isinstance(node, ast.ClassDef):
            return self._in_class(node)
        if isinstance(node, _COMPREHENSIONS):
            return self._in_comprehension(node)
        if hasattr(node, "type_params"):  # `type X[T] = ...`
            return any(self._generic(node).reads(child) for child in ast.iter_child_nodes(node))
        return any(self.reads(child) for child in ast.iter_child_nodes(node))

    def within(self, binding: _Binding | None) -> _Reader:
        """Return the reader of a function's scope; names of a class around it are not seen from there."""
        return _Reader(self.name, (*self.scopes, binding))

    def _generic(self, node: ast.AST) -> _Reader:
        """Return the reader of what sees the type parameters of a definition (Python 3.12)."""
        parameters = getattr(node, "type_params", [])
        bound = any(parameter.name == self.name for parameter in parameters)
        return self.within("own") if bound else self

    def _in_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> bool:
        arguments = node.args
        defaults = [*arguments.defaults, *filter(None, arguments.kw_defaults)]
        if any(self.reads(outside) for outside in [*defaults, *getattr(node, "decorator_list", [])]):
            return True
        generic = self._generic(node)
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        named += [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
        annotations = [argument.annotation for argument in named] + [getattr(node, "returns", None)]
        annotations += getattr(node, "type_params", [])
        if any(generic.reads(annotation) for annotation in annotations if annotation):
            return True
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        is_argument = any(argument.arg == self.name for argument in named)
        inside = generic.within("own" if is_argument else _binding(body, self.name))
        return any(inside.reads(part) for part in body)

    def _in_class(self, node: ast.ClassDef) -> bool:
        if any(self.reads(decorator) for decorator in node.decorator_list):
            return True
        generic = self._generic(node)
        if any(generic.reads(base) for base in [*node.bases, *node.keywords, *getattr(node, "type_params", [])]):
            return True
        bound = False
        for statement in node.body:  # a class reads the notebook's name until it has bound its own
            if _Reader(self.name, generic.scopes, bound_by_class=bound).reads(statement):
                return True
            bound = bound or _binding([statement], self.name) == "own"
        return False

    def _in_comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> bool:
        if self.reads(node.generators[0].iter):
            return True
        targets = (generator.target for generator in node.generators)
        inside = self.within("own" if any(_stores(target, self.name) for target in targets) else None)
        parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for position, generator in enumerate(node.generators):
            parts += [generator.target, *([generator.iter] if position else []), *generator.ifs]
        return any(inside.reads(part) for part in parts)


def _binding(body: list[ast.stmt] | list[ast.expr], name: str) -> _Binding | None:
    """Return what a block makes of a name, whatever functions and classes in it do with theirs."""
    bound: _Binding | None = None
    for node in _block(body):
        if isinstance(node, ast.Global | ast.Nonlocal) and name in node.names:
            return "global" if isinstance(node, ast.Global) else "nonlocal"
        if _binds(node, name):
            bound = "own"
    return bound


def _binds(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.Name):
        return node.id == name and not isinstance(node.ctx, ast.Load)
    if isinstance(node, ast.Import | ast.ImportFrom):
        return any((alias.asname or alias.name.partition(".")[0]) == name for alias in node.names)
    if isinstance(node, ast.MatchMapping):
        return node.rest == name
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler):
        return node.name == name
    return isinstance(node, ast.MatchAs | ast.MatchStar) and node.name == name


def _stores(target: ast.expr, name: str) -> bool:
    return any(_binds(node, name) for node in ast.walk(target))


def _block(body: list[ast.stmt] | list[ast.expr]) -> Iterator[ast.AST]:
    """Return the nodes of a block without those of the scopes in it; of a comprehension only what `:=` binds."""
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, _COMPREHENSIONS):
            yield from (walrus.target for walrus in ast.walk(node) if isinstance(walrus, ast.NamedExpr))
        elif not isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            waiting.extend(ast.iter_child_nodes(node))
