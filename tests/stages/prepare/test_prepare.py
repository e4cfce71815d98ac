# SPDX-License-Identifier: Apache-2.0
"""A notebook of somebody else becomes one that runs unattended, and every change is told."""

from __future__ import annotations

import copy
import json

import nbformat
import pytest
from support import notebooks

from runner.core.errors import BrokenInputError
from runner.core.notebook_document import code_cells, read_notebook
from runner.plan.model import Rule
from runner.stages.prepare.cell_source import edited
from runner.stages.prepare.prepare import prepare

URL = "https://data.example.org/raw/dli_census.h5ad"


@pytest.fixture
def notebook(tmp_path):
    """Give a maker of notebooks that went through a file."""

    def make(*cells, **metadata):
        return read_notebook(notebooks.write(tmp_path / "nb.ipynb", *cells, **metadata))

    return make


def sources(prepared) -> list[str]:
    """Return the sources of the cells that will run."""
    return [cell.source for cell in code_cells(prepared.notebook) if "dropped" not in cell.metadata.runner]


def drop(*texts, times=None) -> Rule:
    return Rule(drop_cells={"containing": list(texts), "times": times})


def replace(find, new, times=1) -> Rule:
    return Rule(replace={"find": find, "with": new, "times": times})


# Reading


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"{", "is not valid JSON: .* in line 1"),
        (b'{"cells": [\xff\xfe]}', "is not valid UTF-8: byte 11 is 0xff"),
        (b"[]", "is JSON but not a notebook"),
        (b'{"a": 1}', "is JSON but not a notebook"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b'{"nbformat": 2, "cells": []}', "has nbformat 2"),
        (b'{"nbformat": 5, "cells": []}', "has nbformat 5"),
        (b'{"nbformat": 4}', "has no list of `cells`"),
        (b'{"nbformat": 4, "cells": [], "metadata": 3}', "`metadata` that is not a mapping"),
        (b'{"nbformat": 4, "cells": [1]}', r"has an invalid cell at cells\[0\]"),
        (b'{"nbformat": 4, "cells": [{"cell_type": "heading"}]}', r"has an invalid cell at cells\[0\]"),
        (b'{"nbformat": 4, "cells": [{"cell_type": "code", "source": 1}]}', r"not text at cells\[0\]"),
        (b'{"nbformat": 4, "cells": []}', "no code cells: nothing to run"),
        (b'{"nbformat": 4, "cells": [{"cell_type": "markdown", "source": "x"}]}', "nothing to run"),
        (b'{"nbformat": 3, "worksheets": [{"cells": [{"cell_type": "code"}]}]}', "cannot be converted"),
        (b"[" * 200_000, "nested|no JSON"),
    ],
)
def test_a_file_that_is_no_notebook_is_told_apart(tmp_path, content, message):
    """Each way of being no notebook has a message that names the file and the fault."""
    path = tmp_path / "bad.ipynb"
    path.write_bytes(content)
    with pytest.raises(BrokenInputError, match=message) as caught:
        read_notebook(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_a_missing_file_and_a_folder_are_broken_input(tmp_path):
    """What cannot be opened says why."""
    with pytest.raises(BrokenInputError, match="does not exist"):
        read_notebook(tmp_path / "none.ipynb")
    with pytest.raises(BrokenInputError, match="cannot be read"):
        read_notebook(tmp_path)


def test_missing_ids_are_the_same_at_every_reading(tmp_path):
    """Cells without id, with a bad one or with one of another cell get a stable id of their own."""
    cells = [notebooks.code("a", cell_id=cell_id) for cell_id in (None, "same", "same", "not valid!", "x" * 65)]
    path = tmp_path / "nb.ipynb"
    document = {"nbformat": 4, "nbformat_minor": 2, "metadata": {}, "cells": cells}
    path.write_text(json.dumps(document))
    first, second = ([cell.id for cell in read_notebook(path).cells] for _ in range(2))
    assert first == second
    assert len(set(first)) == 5
    assert first[1] == "same"
    nbformat.validate(read_notebook(path))


def test_a_version_3_notebook_is_read_with_stable_ids(tmp_path):
    """What Jupyter can upgrade, runs."""
    cell = {"cell_type": "code", "collapsed": False, "input": ["n = 1\n", "n"], "language": "python", "outputs": []}
    document = {"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"cells": [cell]}]}
    path = tmp_path / "old.ipynb"
    path.write_text(json.dumps(document))
    assert [cell.source for cell in read_notebook(path).cells] == ["n = 1\nn"]
    assert read_notebook(path).cells[0].id == read_notebook(path).cells[0].id


# The copy


def test_the_source_is_never_edited_and_its_outputs_stay_behind(notebook):
    """The prepared notebook is a copy: no outputs, no traces of an earlier run, valid."""
    cell = notebooks.code("n = 1", cell_id="a", outputs=[notebooks.image()])
    cell["metadata"] = {"papermill": {"status": "completed"}, "runner": {"dropped": "x"}, "mine": {"kept": [1]}}
    source = notebook(cell, "")
    before = copy.deepcopy(source)
    prepared = prepare(source, parameters={"n": 2}).notebook
    assert source == before
    assert prepared.cells[0].outputs == []
    assert prepared.cells[0].metadata == {"mine": {"kept": [1]}, "runner": {"index": 0}}
    nbformat.validate(prepared)


def test_indices_count_the_code_cells_of_the_source(notebook):
    """Markdown does not count, inserted cells have no index, dropped ones keep theirs."""
    source = notebook(notebooks.markdown("# title"), "a = 1", notebooks.markdown("text"), "b = 2", notebooks.SHUTDOWN)
    rule = Rule(insert={"source": "x = 0", "before": "b = 2"})
    cells = code_cells(prepare(source, rules=[rule]).notebook)
    assert [cell.metadata.runner.get("index") for cell in cells] == [0, None, 1, 2]
    assert cells[1].metadata.runner.inserted


def test_half_a_character_becomes_a_question_mark(notebook):
    """JSON can hold one and no kernel can be sent it; the cell is Python again, so parameters reach it as well."""
    cells = [f"n = '{URL}'  # \ud800 \ud800\udc00", "k = 1; '\udc00'", notebooks.markdown("\ud800")]
    prepared = prepare(notebook(*cells), parameters={"k": 2}, replacements={URL: "LOCAL"})
    assert sources(prepared) == ["n = 'LOCAL'  # ? \U00010000", "k = 2; '?'"]
    assert [(c.rule, c.cell_index, c.old, c.new) for c in prepared.changes[:2]] == [
        ("replace", 0, "\\ud800", "?"),
        ("replace", 1, "\\udc00", "?"),
    ]


def test_half_a_character_in_a_text_is_kept_by_an_edit():
    """An edit beside it changes what it is told to and nothing else."""
    assert edited("a\ud800b".encode("utf-8", "surrogatepass"), [(0, 1, "x")]) == "x\ud800b"


# drop_cells


def test_the_shutdown_cell_is_dropped_and_stays_visible(notebook):
    """Without any rule the kernel's shutdown cell is marked with the reason; both texts must stand in it."""
    prepared = prepare(notebook("1", "'IPython.Application.instance()'", notebooks.SHUTDOWN, ""))
    assert [change.cell_index for change in prepared.changes] == [2]
    cell = prepared.notebook.cells[2]
    assert cell.source == notebooks.SHUTDOWN
    assert cell.metadata.runner.dropped == "shuts down its own kernel"
    assert sources(prepared) == ["1", "'IPython.Application.instance()'", ""]


@pytest.mark.parametrize(
    "cell",
    [
        "# IPython.Application.instance().kernel.do_shutdown(True)\nopen('out', 'w').write('work')",
        '"""IPython.Application.instance().kernel.do_shutdown(True)"""\nwork()',
        "print('IPython.Application.instance().kernel.do_shutdown(True)')",
        "%%bash\necho 'IPython.Application.instance().kernel.do_shutdown(True)'",
    ],
)
def test_words_about_a_shutdown_drop_nothing(notebook, cell):
    """In a comment, a docstring, a text or another language they shut nothing down."""
    assert prepare(notebook(cell)).changes == ()


@pytest.mark.parametrize(
    "cell",
    [
        notebooks.SHUTDOWN + "  # frees the GPU\n",
        "from IPython import Application\n" + notebooks.SHUTDOWN + ";",
        "import IPython\napp = IPython.Application.instance()\napp.kernel.do_shutdown(True)",
        "'free the GPU'\n" + notebooks.SHUTDOWN,
    ],
)
def test_a_cell_that_only_shuts_down_is_dropped(notebook, cell):
    """With its imports and however the kernel is looked up."""
    assert sources(prepare(notebook("1", cell))) == ["1"]


@pytest.mark.parametrize(
    "cell",
    [
        "import IPython\ngot.append(1)\nIPython.Application.instance().kernel.do_shutdown(True)\n",
        "import IPython\nif True: IPython.Application.instance().kernel.do_shutdown(True); got.append(1)",
        "import IPython\ndone = IPython.Application.instance().kernel.do_shutdown(True)\ngot.append(1)",
    ],
)
def test_work_beside_the_shutdown_is_done(notebook, cell):
    """Such a cell runs, but for the call; source and change show that it was kept from running."""
    prepared = prepare(notebook(cell))
    got: list[int] = []
    exec(sources(prepared)[0], {"got": got})
    assert got == [1]
    call = "IPython.Application.instance().kernel.do_shutdown(True)"
    assert sources(prepared) == [cell.replace(call, f"(None and {call})")]
    assert [(c.rule, c.old, c.new) for c in prepared.changes] == [("replace", call, f"(None and {call})")]
    assert prepare(prepared.notebook).changes == ()


def test_a_magic_beside_the_shutdown_is_work_too(notebook):
    """The tree does not show it, and it runs all the same."""
    assert sources(prepare(notebook("!echo done\n" + notebooks.SHUTDOWN)))[0].startswith("!echo done\n")


def test_a_notebook_without_shutdown_cell_needs_none(notebook):
    """The default rule alone may match nothing."""
    assert prepare(notebook("1")).changes == ()


def test_a_drop_rule_may_name_the_shutdown_cell_too(notebook):
    """The rule that everybody copies from an example does not collide with the default."""
    rule = drop("do_shutdown(True)", "IPython.Application.instance()")
    assert len(prepare(notebook("1", notebooks.SHUTDOWN), rules=[rule]).changes) == 1


def test_dropping_counts_the_cells(notebook):
    """Every matching cell goes; a number that is given must be right."""
    cells = ["!pip install a", "x", "!pip install b"]
    assert sources(prepare(notebook(*cells), rules=[drop("!pip")])) == ["x"]
    with pytest.raises(BrokenInputError, match=r"prepare\[0\]: drop_cells containing '!pip' matched 2 cells, not one"):
        prepare(notebook(*cells), rules=[drop("!pip", times=1)])


# replace


def test_replace_counts_occurrences_over_cells(notebook):
    """The count is of places, not of cells, and each cell's change is recorded with its own."""
    prepared = prepare(notebook("f(8) + 8", "x", "8"), rules=[replace("8", "n", times=3)])
    assert sources(prepared) == ["f(n) + n", "x", "n"]
    changes = [(c.cell_index, c.cell_id, c.times, c.old, c.new) for c in prepared.changes]
    assert changes == [(0, "c0", 2, "8", "n"), (2, "c2", 1, "8", "n")]


def test_rules_build_on_each_other_in_order(notebook):
    """A later rule sees what an earlier one wrote."""
    assert sources(prepare(notebook("a"), rules=[replace("a", "b"), replace("b", "c")])) == ["c"]


@pytest.mark.parametrize(
    ("find", "message"),
    [
        (
            "adata[:500_000, :]",
            r"occurs nowhere, the rule requires once \(nearest text: 'adata = adata\[:1_000_000, :\]",
        ),
        ("threads", r"occurs 2 times \(code cells 0, 1\), the rule requires once"),
        ("do_shutdown", "occurs nowhere.*occurs only in a dropped cell"),
        ("Title", "occurs nowhere.*occurs only in a cell that is not code"),
        ("δ" * 50, "occurs nowhere.*upstream changed the notebook"),
    ],
)
def test_a_rule_that_does_not_fit_stops_the_run(notebook, find, message):
    """The message has rule, notebook and what is there instead."""
    source = notebook(
        "cluster(threads=1)",
        "adata = adata[:1_000_000, :].copy()  # threads",
        notebooks.SHUTDOWN,
        notebooks.markdown("# Title"),
    )
    rules = [drop("do_shutdown"), replace(find, "x")]
    with pytest.raises(BrokenInputError, match=message) as caught:
        prepare(source, rules=rules, name="06_brain")
    assert "notebook '06_brain', prepare[1]: replace" in str(caught.value)


def test_the_nearest_text_is_found_in_long_lines_and_over_several(notebook):
    """A rule's text may be a small part of a line, or a block."""
    long = "x" * 300 + " rechunk(n + 8 - 1) // 8 " + "y" * 300
    with pytest.raises(BrokenInputError, match=r"rechunk\(n \+ 8"):
        prepare(notebook(long), rules=[replace("rechunk(n + 4 - 1) // 4", "x")])
    with pytest.raises(BrokenInputError, match=r"nearest text: 'b = 2\\nc = 3'"):
        prepare(notebook("a = 1\nb = 2\nc = 3\nd = 4"), rules=[replace("b = 2\nc = 4", "x")])


# insert


def test_inserted_cells_stand_where_the_text_says(notebook):
    """Before and after, in the order of the rules, with ids of their own."""
    rules = [
        Rule(insert={"source": "first", "after": "a"}),
        Rule(insert={"source": "second", "after": "a"}),
        Rule(insert={"source": "third", "before": "b"}),
    ]
    prepared = prepare(notebook("a", "b"), rules=rules)
    assert sources(prepared) == ["a", "first", "second", "third", "b"]
    assert len({cell.id for cell in prepared.notebook.cells}) == 5
    nbformat.validate(prepared.notebook)


@pytest.mark.parametrize(("anchor", "message"), [("nope", "is in no cell"), ("a", "is in 2 cells, not in exactly one")])
def test_an_anchor_must_be_one_cell(notebook, anchor, message):
    """None or several are refused."""
    with pytest.raises(BrokenInputError, match=message):
        prepare(notebook("a", "aa"), rules=[Rule(insert={"source": "x", "before": anchor})])


# Parameters


def test_without_a_parameters_cell_the_assignment_is_changed(notebook):
    """Every top-level assignment of the name gets the value, recorded with cell and old value."""
    prepared = prepare(notebook("%%time\nn_top = 5", "x = n_top", "n_top = f()"), parameters={"n_top": 7})
    assert sources(prepared) == ["%%time\nn_top = 7", "x = n_top", "n_top = 7"]
    assert [(c.cell_index, c.old, c.new) for c in prepared.changes] == [(0, "5", "7"), (2, "f()", "7")]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            ["n_tops = 5", "m = 1"],
            r"no cell assigns it at top level \(did you mean 'n_tops'\? assigned names: n_tops, m",
        ),
        (["import os"], "assigns nothing at top level"),
        (["for n_top in x: pass\nfor i in x:\n    n_top = i"], "only in a loop"),
        (["n_top += 1"], "only from its own value"),
        (["%%bash\nn_top=5", "n_top = ("], "2 cells are not valid Python"),
        (["import IPython\nn_top = IPython.Application.instance()\nn_top.kernel.do_shutdown(True)"], "no cell assigns"),
    ],
)
def test_a_parameter_that_changes_nothing_is_an_error(notebook, cells, message):
    """The assignments that exist are listed, the nearest name first."""
    with pytest.raises(BrokenInputError, match=message) as caught:
        prepare(notebook(*cells), parameters={"n_top": 7}, name="02")
    assert "notebook '02', parameter 'n_top'" in str(caught.value)


@pytest.mark.parametrize("name", ["n-top", "import", "", "n top", "a.b", "x=1;y"])
def test_a_parameter_must_be_a_name(notebook, name):
    """Nothing but a variable's name gets near the source."""
    with pytest.raises(BrokenInputError, match="is not a valid variable name"):
        prepare(notebook("n = 1"), parameters={name: 1})


def test_with_a_parameters_cell_values_are_injected_behind_it(notebook):
    """Names of the tagged cell and names that only are read are injected; others are changed in place."""
    tagged = notebooks.code("n = 1", cell_id="p", tags=["parameters"])
    prepared = prepare(notebook(tagged, "x = n + k", "m = 3"), parameters={"n": 2, "k": "a'b", "m": None})
    assert sources(prepared) == ["n = 1", '# Parameters\nn = 2\nk = "a\'b"\n', "x = n + k", "m = None"]
    injected = code_cells(prepared.notebook)[1]
    assert injected.metadata.runner == {"inserted": True}
    assert injected.metadata.tags == ["injected-parameters"]
    assert [change.detail for change in prepared.changes] == ["injected: n, k", "m = 3 -> None"]


def test_a_later_assignment_does_not_undo_an_injected_parameter(notebook):
    """It gets the value too and is told; what comes before the tagged cell or derives from the name stays."""
    tagged = notebooks.code("n = 5", cell_id="p", tags=["parameters"])
    cells = ["n = 1", tagged, "n = 10", "n += 1\nif x:\n    n = 3", "print(n)"]
    prepared = prepare(notebook(*cells), parameters={"n": 7})
    assert sources(prepared) == [
        "n = 1",
        "n = 5",
        "# Parameters\nn = 7\n",
        "n = 7",
        "n += 1\nif x:\n    n = 7",
        "print(n)",
    ]
    assert [change.detail for change in prepared.changes] == ["injected: n", "n = 10 -> 7", "n = 3 -> 7"]


def test_a_function_with_an_argument_of_that_name_reads_no_parameter(notebook):
    """Its argument is another variable, so the injected value would have no effect."""
    cells = [notebooks.code("n = 1", tags=["parameters"]), "def f(k):\n    return k\n[k for k in x]"]
    with pytest.raises(BrokenInputError, match="parameter 'k'"):
        prepare(notebook(*cells), parameters={"k": 1})


def test_a_parameter_nobody_reads_is_an_error_with_a_parameters_cell_too(notebook):
    """Papermill would inject it without effect."""
    with pytest.raises(BrokenInputError, match="parameter 'typo'"):
        prepare(notebook(notebooks.code("n = 1", tags=["parameters"])), parameters={"typo": 1})


def test_parameters_of_an_earlier_papermill_run_are_dropped(notebook):
    """An executed notebook as the source keeps its old values visible, but not in force."""
    cells = [notebooks.code("n = 1", tags=["parameters"]), notebooks.code("n = 5", tags=["injected-parameters"]), "n"]
    prepared = prepare(notebook(*cells), parameters={"n": 2})
    assert sources(prepared) == ["n = 1", "# Parameters\nn = 2\n", "n"]
    assert [change.rule for change in prepared.changes] == ["drop_cells", "parameter"]


def test_an_earlier_value_of_a_name_that_only_is_read_does_not_count_as_its_assignment(notebook):
    """What papermill once injected is dropped first, then names are judged."""
    old = notebooks.code("n = 5\nk = 3", tags=["injected-parameters"])
    prepared = prepare(
        notebook(notebooks.code("n = 1", tags=["parameters"]), old, "n + k"), parameters={"n": 2, "k": 4}
    )
    assert sources(prepared) == ["n = 1", "# Parameters\nn = 2\nk = 4\n", "n + k"]


def test_other_languages_need_a_parameters_cell(notebook):
    """R gets papermill's injection with the tag and a clear refusal without."""
    r = {"language": "R", "kernel": "ir"}
    prepared = prepare(notebook(notebooks.code("n <- 1", tags=["parameters"]), **r), parameters={"n": 2})
    assert "n = 2" in sources(prepared)[1]
    with pytest.raises(BrokenInputError, match="this notebook is 'R'"):
        prepare(notebook("n <- 1", **r), parameters={"n": 2})


# Dataset URLs


@pytest.mark.parametrize(
    "cell",
    [
        f"url = '{URL}'",
        f'os.system(f"wget {URL} -O {{output}}")',
        f"!wget {URL} -O x",
        f"%%bash\ncurl {URL}; echo",
        f"f('{URL}', '{URL}')",
        f"get('--url={URL}', 'simplecache::{URL}', 'wget -q\\t{URL}')",
    ],
)
def test_urls_are_replaced_as_they_stand(notebook, cell):
    """Literals, f-strings, shell lines and cells of another language are all served."""
    prepared = prepare(notebook(cell), replacements={URL: "http://127.0.0.1:1/x"})
    assert sources(prepared) == [cell.replace(URL, "http://127.0.0.1:1/x")]


@pytest.mark.parametrize(
    "cells",
    [
        ['base = "https://data.example.org"', 'url = f"{base}/raw/{name}.h5ad"', 'name = "dli_census"'],
        ['url = "https://data.example.org/raw/" + "dli_census.h5ad"'],
        ['url = ("https://data.example.org"\n       "/raw/dli_census.h5ad")'],
        ['host = "data.example.org"\nget(f"https://{host}/raw/dli_census.h5ad", out)'],
    ],
)
def test_urls_put_together_from_constants_are_found(notebook, cells):
    """f-strings, sums and adjacent literals of names that are bound once make a URL as well."""
    prepared = prepare(notebook(*sorted(cells)), replacements={URL: "LOCAL"})
    assert "'LOCAL'" in "".join(sources(prepared))
    for source in sources(prepared):
        compile(source, "cell", "exec")


DOWNLOADS = [
    ('url = ("https://data.example.org/raw/"\n       "dli_census.h5ad")', 'f"wget -q {url} -O {output}"'),
    ("url = 'https://data.example.org' + '/raw/' + 'dli_census.h5ad'", 'f"wget -q {url} -O {output}"'),
    ("b, n = 1, 2\nhost = 'https://data.example.org/raw'", 'f"wget -q {host}/dli_census.h5ad -O {output}"'),
    ("base = 'https://data.example.org'\nurl: str = f'{base}/raw/dli_census.h5ad'", 'f"wget -q {url!s} -O {output}"'),
    ("b = 'https://data.example.org'", "f'wget -q {b}/{\"raw\"}/dli_census.h5ad' f' -O {output}'"),
    ("b = 'https://data.example.org'", "f'''wget -q {b + '/raw/dli_census.h5ad'} -O {output}'''"),
    ("names = {'b': 1}", "f\"wget -q {'https://data.example.org' + '/raw/dli_census.h5ad'} -O {output}\""),
    (f"url = '{URL}'", 'f"wget -q {url} -O {output}"'),
    (f"print('source: {URL}')\nb = 'https://data.example.org/raw/'", 'f"wget -q {b}dli_census.h5ad -O {output}"'),
]


@pytest.mark.parametrize(("before", "command"), DOWNLOADS)
@pytest.mark.parametrize("local", ["http://127.0.0.1:1/x", URL])
def test_the_command_around_a_url_stays_whole(notebook, before, command, local):
    """The rewritten cells run, and the shell gets the mirror's URL with all that stood around it."""
    output = 'import os\noutput = os.path.join(".", "got.bin")'
    prepared = prepare(notebook(f"{before}\n{output}", f"system({command})"), replacements={URL: local})
    got: list[str] = []
    exec("\n".join(sources(prepared)), {"system": got.append})
    assert got == [f"wget -q {local} -O ./got.bin"]


def test_a_name_keeps_its_use_where_its_value_is_rewritten(notebook):
    """One change at the assignment is enough; what uses the name stays as the author wrote it."""
    cells = ['url = ("https://data.example.org"\n  "/raw/dli_census.h5ad")', 'os.system(f"wget {url} -O {output}")']
    prepared = prepare(notebook(*cells), replacements={URL: "LOCAL"})
    assert sources(prepared) == ["url = ('LOCAL')", cells[1]]
    assert [change.times for change in prepared.changes] == [1]


@pytest.mark.parametrize(
    "part",
    [
        "{x!r:>{10}}",
        "{d['a']}",
        '{d["a"]}',
        "{{x}}",
        "é\\n\\'\\\"",
        "{x=}",
        "{ {1: 2}[1] }",
        "{(lambda: x)()}",
        "{f'{x}'}",
    ],
)
def test_an_f_string_that_is_written_anew_says_the_same(notebook, part):
    """Conversions, formats, quotes, braces and escapes of the parts that stay are kept."""
    cells = ["b = 'https://data.example.org/raw'", f"got = f'''{part} {{b}}/dli_census.h5ad {part}'''"]
    scopes: list[dict[str, object]] = [{"x": 7, "d": {"a": "'"}}, {"x": 7, "d": {"a": "'"}}]
    exec("\n".join(cells), scopes[0])
    exec("\n".join(sources(prepare(notebook(*cells), replacements={URL: "LOCAL"}))), scopes[1])
    assert scopes[1]["got"] == str(scopes[0]["got"]).replace(URL, "LOCAL")


def test_a_url_in_a_message_does_not_hide_the_download(notebook):
    """What is printed is rewritten, and what the code puts together is as well."""
    cells = [f"print('source: {URL}')", "base = 'https://data.example.org'", "get(f'{base}/raw/dli_census.h5ad')"]
    prepared = prepare(notebook(*cells), replacements={URL: "LOCAL"})
    assert sources(prepared) == ["print('source: LOCAL')", cells[1], "get('LOCAL')"]
    assert [change.cell_index for change in prepared.changes] == [0, 2]


def test_a_long_sum_of_texts_is_read(notebook):
    """A tree that is deeper than the interpreter's stack is no reason to give up."""
    cell = "x = " + " + ".join(["y", *["'a'"] * 990]) + "\nget('https://data.example.org' + '/raw/dli_census.h5ad')"
    assert sources(prepare(notebook(cell), replacements={URL: "LOCAL"}))[0].endswith("get('LOCAL')")


@pytest.mark.parametrize(
    "cells",
    [
        [f"url = '{URL}.gz'"],
        [f"url = '{URL}?download=1'"],
        [f"# url = '{URL}'"],
        [f"'{URL}'\n" + notebooks.SHUTDOWN],
        [f"url = 'https://doi.org/{URL}'"],
        [f"url = 'https://proxy.example.org?url={URL}'"],
        [f"get(f'{{proxy}}{URL}')"],
        [f"get(f'{URL}{{suffix}}')"],
        ["b = 'https://data.example.org'", "get(f'{b}/raw/dli_census.h5ad{suffix}')"],
        ["b = 'https://data.example.org'", "get(f'{proxy}{b}/raw/dli_census.h5ad')"],
        ["b = 'https://data.example.org'", "import settings as b", "get(f'{b}/raw/dli_census.h5ad')"],
        ["for name in names:\n    url = f'https://data.example.org/raw/{name}.h5ad'"],
        ["b = 'https://data.example.org'", "b = 'https://other.example.org'", "u = f'{b}/raw/dli_census.h5ad'"],
    ],
)
def test_a_dataset_that_the_source_does_not_fetch_is_an_error(notebook, cells):
    """Longer URLs, comments, dropped cells and values known only at run time do not count."""
    with pytest.raises(
        BrokenInputError, match="no cell contains the URL, and the dataset has neither `place` nor `hook`"
    ):
        prepare(notebook(*cells), replacements={URL: "LOCAL"})


def test_a_placed_dataset_need_not_stand_in_the_source(notebook):
    """A library finds it by itself; where the URL does stand it is served all the same."""
    assert prepare(notebook("1"), replacements={URL: "LOCAL"}, placed={URL}).changes == ()
    assert sources(prepare(notebook(f"'{URL}'"), replacements={URL: "LOCAL"}, placed={URL})) == ["'LOCAL'"]


def test_a_url_that_begins_another_is_kept_apart(notebook):
    """The longer one is not cut by the shorter."""
    replacements = {"https://a.org/x": "SHORT", "https://a.org/x.gz": "LONG"}
    prepared = prepare(notebook("f('https://a.org/x', 'https://a.org/x.gz')"), replacements=replacements)
    assert sources(prepared) == ["f('SHORT', 'LONG')"]


def test_a_parameters_cell_that_stays_is_not_recorded_as_replaced(notebook):
    """A report strikes out what is `old`; the tagged cell still runs, and the injected one is added to it."""
    prepared = prepare(notebook(notebooks.code("n = 1", tags=["parameters"]), "print(n)"), parameters={"n": 2})

    (change,) = prepared.changes
    assert (change.rule, change.old) == ("parameter", None)
    assert "n = 2" in (change.new or "")
    assert [cell.source for cell in prepared.notebook.cells if cell.metadata.runner.get("index") == 0] == ["n = 1"]


def test_a_parameter_that_already_has_the_value_is_recorded_as_kept(notebook):
    """With a parameters cell and without: nothing changed, and the record says so."""
    tagged = notebooks.code("n = 1\nm = 2", cell_id="p", tags=["parameters"])
    injected = prepare(notebook(tagged, "print(n, m)"), parameters={"n": 1, "m": 3})
    assert [change.detail for change in injected.changes] == ["injected: n, m", "n = 1, kept"]
    in_place = prepare(notebook("k = 'a'", "k = 'b'", "m = [1]"), parameters={"k": "a", "m": [1]})
    assert [change.detail for change in in_place.changes] == ["k = 'a', kept", "k = 'b' -> 'a'", "m = [1], kept"]
