# SPDX-License-Identifier: Apache-2.0
"""What counts as reading a notebook's name, on every Python alike."""

from __future__ import annotations

import ast
import sys

import pytest

from runner.stages.prepare.cell_source import reads_global

READS = [
    "print(n)",
    "n += 1",
    "x = n = n + 1",
    "[i for i in n]",
    "[n for n in n]",
    "[n for m in y]",
    "[m for m in y if n]",
    "[m for m in y for k in n]",
    "{m: n for m in y}",
    "lambda: n",
    "lambda x=n: x",
    "def f():\n    return n",
    "def f(x=n):\n    pass",
    "@n\ndef f():\n    pass",
    "def f():\n    global n\n    n += 1",
    "def f(n):\n    def g():\n        global n\n        return n",
    "def f():\n    class C:\n        n = 1\n        def g(self):\n            return n",
    "class C(n):\n    pass",
    "class C:\n    n = n",
    "class C:\n    n = 1\n    def g(self):\n        return n",
    "class C:\n    n = 1\n    x = [n for m in y]",
    "f'{n:>{m}}'",
    "async def f():\n    async for x in n:\n        pass",
    "await n",
    "match n:\n    case 1:\n        pass",
    "match x:\n    case n.value:\n        pass",
    "n.x = 1",
    "n[0] = 1",
    "try:\n    pass\nexcept n:\n    pass",
]
OTHERS = [
    "n = 1",
    "del n",
    "import n",
    "from x import y as n",
    "[n for n in y]",
    "{n: 1 for n in y}",
    "(n for n in y if n)",
    "[m for n in y for m in n]",
    "[(n := m) for m in y]",
    "lambda n: n",
    "lambda *n: n",
    "def f(n):\n    return n",
    "def f(*, n=1):\n    return lambda: n",
    "def f():\n    n = 1\n    return n",
    "def f():\n    n = 1\n    def g():\n        nonlocal n\n        n += 1",
    "def f():\n    import n\n    return n",
    "def f():\n    for n in y:\n        print(n)",
    "def f():\n    with y as n:\n        return [n for m in n]",
    "def f():\n    [(n := m) for m in y]\n    return n",
    "def f():\n    try:\n        pass\n    except E as n:\n        print(n)",
    "def f(x):\n    match x:\n        case [n, *rest]:\n            return n",
    "def f(x):\n    match x:\n        case {**n}:\n            return n",
    "def f():\n    def n():\n        pass\n    return n",
    "def f():\n    global n\n    n = 1",
    "class C:\n    n = 1\n    m = n",
    "def f():\n    del n\n    return n",
    "x.n = 1",
    "f(n=1)",
    "'n'",
]
NEWER = {
    True: ["def f[T: n](x: T):\n    pass", "class C[T](n):\n    pass", "type X = n"],
    False: ["def f[n](x: n) -> n:\n    return n", "class C[n](list[n]):\n    pass", "type X[n] = list[n]"],
}
"""Syntax of Python 3.12."""


def answers(source: str, name: str = "n") -> bool:
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    return reads_global(compile(source, "<cell>", "exec", flags), name)


@pytest.mark.parametrize("source", READS)
def test_what_uses_the_notebooks_value_reads_it(source):
    """A use of the value counts wherever it stands."""
    assert answers(source)


@pytest.mark.parametrize("source", OTHERS)
def test_a_name_of_its_own_is_another_one(source):
    """Names that functions, lambdas and comprehensions bind are theirs; binding alone reads nothing."""
    assert not answers(source)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="syntax of Python 3.12")
@pytest.mark.parametrize(("source", "reads"), [(source, reads) for reads in NEWER for source in NEWER[reads]])
def test_type_parameters_are_names_of_their_definition(source, reads):
    """Type parameters hide the notebook's name within their definition only."""
    assert answers(source) is reads


def test_nesting_that_is_too_deep_counts_as_read():
    """Where nobody can follow, the safe answer is that the value is used."""
    tree = ast.parse("x", mode="eval").body
    for _ in range(100_000):
        tree = ast.UnaryOp(ast.USub(), tree, lineno=1, col_offset=0, end_lineno=1, end_col_offset=1)
    assert reads_global(tree, "n")
