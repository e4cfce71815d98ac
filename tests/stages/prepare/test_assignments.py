# SPDX-License-Identifier: Apache-2.0
"""A named assignment gets another value, and nothing else in the cell changes."""

from __future__ import annotations

import ast
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.stages.prepare.cell_source import parse
from runner.stages.prepare.parameters import assignments, literal, rewritten


def rewrite(source: str, name: str, value: object) -> tuple[str, list[str]]:
    cell = parse(source)
    assert cell is not None
    return rewritten(cell, name, literal(value))


@pytest.mark.parametrize(
    ("source", "expected", "old"),
    [
        ("n = 5", "n = 7", ["5"]),
        ("n = 5  # a comment", "n = 7  # a comment", ["5"]),
        ("n: int = 5", "n: int = 7", ["5"]),
        ("n = (\n    5\n)", "n = (\n    7\n)", ["5"]),
        ("n = [\n    1,\n    2,\n]\nm = 3", "n = 7\nm = 3", ["[\n    1,\n    2,\n]"]),
        ("n, m = 5, 6", "n, m = 7, 6", ["5"]),
        ("(a, [n, b]), c = (1, (2, 3)), 4", "(a, [n, b]), c = (1, (7, 3)), 4", ["2"]),
        ("if big:\n    n = 5\nelse:\n    n = 6", "if big:\n    n = 7\nelse:\n    n = 7", ["5", "6"]),
        ("try:\n    n = f()\nexcept E:\n    n = 0\nfinally:\n    n = 1", None, ["f()", "0", "1"]),
        ("with open(p) as f: n = f.read()", "with open(p) as f: n = 7", ["f.read()"]),
        ("match x:\n    case 1: n = 2", "match x:\n    case 1: n = 7", ["2"]),
        ('n = f"{x} and {y!r}" "tail"', "n = 7", ['f"{x} and {y!r}" "tail"']),
        ("n = 'é'; m = 'ü'", "n = 7; m = 'ü'", ["'é'"]),
        ("m = 'é'; n = 'ü'", "m = 'é'; n = 7", ["'ü'"]),
        ("n = await f()", "n = 7", ["await f()"]),
        ("n = [n for n in r]", "n = 7", ["[n for n in r]"]),
        ("n = {n: m for n, m in r}", "n = 7", ["{n: m for n, m in r}"]),
        ("n = lambda n: n + 1", "n = 7", ["lambda n: n + 1"]),
        ("n = 1\r\nm = 2\r\nn = 3", "n = 7\r\nm = 2\r\nn = 7", ["1", "3"]),
    ],
)
def test_the_value_is_replaced_where_it_stands(source, expected, old):
    """Plain, annotated, paired and conditional assignments get the value in place."""
    new, olds = rewrite(source, "n", 7)
    assert olds == old
    if expected is not None:
        assert new == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("n = m = 5", "n = m = 5; n = 7"),
        ("n, m = f()  # both", "n, m = f(); n = 7  # both"),
        ("n, *rest = 1, 2, 3", "n, *rest = 1, 2, 3; n = 7"),
        ("if x: a, n = f()", "if x: a, n = f(); n = 7"),
        ("a, n = f();", "a, n = f(); n = 7;"),
        ("n = (k := 3) * 2", "n = (k := 3) * 2; n = 7"),
        ("n: int = f(k := 3)  # both", "n: int = f(k := 3); n = 7  # both"),
        ("n, m = (k := 3), 6", "n, m = (k := 3), 6; n = 7"),
        ("n = [(k := y) for y in z]", "n = [(k := y) for y in z]; n = 7"),
    ],
)
def test_a_shared_value_stays_for_the_other_names(source, expected):
    """Where the value belongs to several names, the one name is assigned once more behind it."""
    assert rewrite(source, "n", 7)[0] == expected


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("n += 1", "derived"),
        ("n = n * 2", "derived"),
        ("n = f(lambda: n)", "derived"),
        ("n = [n for n in n]", "derived"),
        ("n = lambda m=n: m", "derived"),
        ("n = (  # a comment\n    await f(n))", "derived"),
        ("n, m = n + m, n", "derived"),
        ("for i in range(3):\n    n = i", "loop"),
        ("while x:\n    n = 1", "loop"),
    ],
)
def test_what_the_notebook_computes_from_the_value_stays(source, kind):
    """Augmented, self-referring and looping assignments are seen, named and left alone."""
    cell = parse(source)
    assert [place.kind for place in assignments(cell) if place.name == "n"] == [kind]
    assert rewrite(source, "n", 7) == (source, [])


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    n = 5",
        "class A:\n    n = 5",
        "import n",
        "for n in x: pass",
        "n.x = 5",
        "n[0] = 5",
        "n: int",
        "f(n=5)",
    ],
)
def test_other_bindings_are_no_assignments(source):
    """Functions, classes, imports, loop variables, attributes and keyword arguments are not touched."""
    assert rewrite(source, "n", 7) == (source, [])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("%%time\nn = 5", "%%time\nn = 7"),
        ("\n%%capture out\n%%time\nn = 5\n", "\n%%capture out\n%%time\nn = 7\n"),
        ("%matplotlib inline\nn = 5", "%matplotlib inline\nn = 7"),
        ("%load_ext a\n!ls {\n!echo don't\nn = 5", "%load_ext a\n!ls {\n!echo don't\nn = 7"),
        ("files = !ls\nn = 5\nn?", "files = !ls\nn = 7\nn?"),
        ("!curl \\\n  --data '(' \\\n  x\nn = 5", "!curl \\\n  --data '(' \\\n  x\nn = 7"),
        ("if x:\n    %time f()\n    n = 5", "if x:\n    %time f()\n    n = 7"),
        ('s = """\n%magic? """; n = 5', 's = """\n%magic? """; n = 7'),
    ],
)
def test_magics_do_not_hide_an_assignment(source, expected):
    """Line magics, shell lines, help and Python cell magics leave the rest readable and in its place."""
    assert rewrite(source, "n", 7)[0] == expected


@pytest.mark.parametrize(
    "source", ["%%bash\nn=5", "%%writefile f.py\nn = 5", "%%time\n%%html\nn = 5", "n = (", "n = 5\x00", "n = '\ud800'"]
)
def test_what_is_no_python_is_not_read(source):
    """Cells of another language and broken ones give nothing, instead of a wrong change."""
    assert parse(source) is None


@pytest.mark.parametrize(
    "value", [None, True, False, 0, -5, 2.5, 1e300, "", "a'b\"c\n\\", [1, [2.5, None]], {"a": [True], "b": {"c": "é"}}]
)
def test_values_come_back_as_they_were_given(value):
    """What is written into the source evaluates to the value, type included."""
    back = eval(literal(value))
    assert back == value
    assert type(back) is type(value)


def test_numbers_that_python_has_no_literal_for_are_written_as_calls():
    """Infinity and not-a-number survive, also inside lists."""
    inf, nan = eval(literal([-math.inf, math.nan]))
    assert inf == -math.inf
    assert math.isnan(nan)


NAMES = st.sampled_from(["n", "m", "data", "résumé"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
EXPRESSIONS = st.sampled_from(
    [
        "5",
        "'é'",
        "f(x)",
        "(1,\n 2)",
        "[i for i in y]",
        "x if y else z",
        "lambda: 0",
        'f"{x}"',
        "-1",
        "m + 1",
        "(yield_)",
        "(k := 3) * 2",
        "f((m := 1), n)",
        "[(k := i) for i in y]",
        "[n for n in y]",
        "lambda data: data",
    ]
)


@st.composite
def statements(draw, depth: int = 0) -> str:
    """Draw one line or block of a cell."""
    target, other, value = draw(NAMES), draw(NAMES), draw(EXPRESSIONS)
    forms = [
        f"{target} = {value}",
        f"{target}: object = {value}",
        f"{target}, {other} = {value}, 'b'",
        f"{target} = {other} = {value}  # both",
        f"{target}, *{other} = f()",
        f"{target} += 1; {other} = 2",
        f"print({target})",
        "%time f()",
        "!ls 'x",
        "# é " + target + " = 1",
        f"def f():\n    {target} = 1",
    ]
    form = draw(st.sampled_from(forms))
    if depth < 2 and draw(st.booleans()):
        inner = draw(st.lists(statements(depth + 1), min_size=1, max_size=3))
        head = draw(st.sampled_from(["if x:", "for i in y:", "with a as b:", "try:"]))
        tail = "\nfinally:\n    pass" if head == "try:" else ""
        body = "\n".join([*inner, "pass"]).replace("(1,\n 2)", "(1, 2)").replace("\n", "\n    ")
        return f"{head}\n    {body}{tail}"
    return form


@given(st.lists(statements(), min_size=1, max_size=5), NAMES, VALUES, st.sampled_from(["\n", "\r\n"]))
def test_the_rewritten_source_parses_and_nothing_but_the_named_assignment_changes(lines, name, value, end):
    """Whatever the cell: it still parses, the name has the value, all other statements are the same."""
    source = end.join(line.replace("\n", end) for line in lines)
    cell = parse(source)
    assert cell is not None
    before = assignments(cell)
    new, olds = rewritten(cell, name, literal(value))
    after = parse(new)
    assert after is not None
    assert len(olds) == sum(place.name == name and place.settable for place in before)
    values = [place.value for place in assignments(after) if place.name == name and place.kind == "value"]
    assert all(_tree_of(text) == _tree_of(literal(value)) for text in values)
    assert _without(cell.tree, name) == _without(after.tree, name)
    assert _bound_on_the_way(cell.tree) == _bound_on_the_way(after.tree)


def _bound_on_the_way(tree: ast.Module) -> list[str]:
    """Return the names that expressions bind, which no later cell must miss."""
    return [node.target.id for node in ast.walk(tree) if isinstance(node, ast.NamedExpr)]


def _tree_of(expression: str) -> str:
    return ast.dump(ast.parse(expression, mode="eval").body)


def _without(tree: ast.Module, name: str) -> str:
    """Dump a tree without the assignments of one name that may change; all the rest must not."""

    class Blank(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return node

        def visit_For(self, node):
            return node

        def visit_Assign(self, node):
            target = node.targets[0]
            if len(node.targets) == 1 and isinstance(target, ast.Name) and target.id == name:
                if any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(node.value)):
                    return node if name not in _own_names(node.value) else None
                return None
            if len(node.targets) == 1 and isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for position, part in enumerate(target.elts):
                    if isinstance(part, ast.Name) and part.id == name:
                        node.value.elts[position] = ast.Constant(0)
            return node

        def visit_AnnAssign(self, node):
            return None if isinstance(node.target, ast.Name) and node.target.id == name else node

    copied = ast.parse(ast.unparse(tree))
    return ast.dump(Blank().visit(copied))


def _own_names(value: ast.expr) -> list[str]:
    """Return the names that comprehensions and lambdas have for themselves."""
    inner = [part for part in ast.walk(value) if isinstance(part, ast.comprehension | ast.arguments)]
    nodes = [node for part in inner for node in ast.walk(getattr(part, "target", part))]
    return [getattr(node, "id", getattr(node, "arg", "")) for node in nodes]
