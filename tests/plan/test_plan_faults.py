# SPDX-License-Identifier: Apache-2.0
"""Each fault of a plan has one line: file and line, notebook, key, problem, suggestion."""

from __future__ import annotations

import json
import textwrap

import jsonschema
import pytest
import yaml

from runner.core.errors import PlanError
from runner.plan.model import parse

PLAN = """\
version: 1
name: p
defaults:
  timeout: 90
  requires: {cpus: 1}
notebooks:
  - name: one
    path: one.ipynb
    kernal: python3
    requires: {memory_gb: much}
  - name: sweep
    path: sweep.ipynb
    matrix: {k: [1, 2]}
    env: {1A: x}
  - name: last
    path: ../last.ipynb
"""


def lines_of(text: str, where: str = "plan.yaml") -> list[str]:
    """Return the lines of the error."""
    with pytest.raises(PlanError) as caught:
        parse(text, where)
    return caught.value.message.splitlines()


def test_every_fault_stands_with_its_line_and_notebook():
    """In the order of the file; a default that is wrong is named once, in its own line, however many take it."""
    head, *lines = lines_of(PLAN)
    assert head == "plan.yaml: 5 errors"
    assert [line.partition(": ")[0] for line in lines] == [f"plan.yaml:{n}" for n in (4, 9, 10, 14, 16)]
    assert lines[0].startswith("plan.yaml:4: defaults.timeout: 90 is not a valid duration")
    assert lines[1] == "plan.yaml:9: notebook 'one': kernal: unknown key (did you mean 'kernel'?)"
    assert "notebook 'one': requires.memory_gb: 'much'" in lines[2]
    assert "notebook 'sweep': env" in lines[3]
    assert "notebook 'last': path: '../last.ipynb' leaves" in lines[4]


def test_in_a_config_map_the_lines_are_those_of_the_file():
    """Where the plan is a literal block; folded or quoted, its key is named instead."""
    inner = textwrap.indent(PLAN, "    ")
    block = f"kind: ConfigMap\nmetadata: {{name: x}}\ndata:\n  plan.yaml: |\n{inner}"
    assert lines_of(block, "map.yaml")[1].startswith("map.yaml:8: defaults.timeout")
    quoted = yaml.safe_dump({"kind": "ConfigMap", "data": {"plan.yaml": PLAN}}, default_style='"')
    assert lines_of(quoted, "map.yaml")[1].startswith("map.yaml data['plan.yaml']: defaults.timeout")
    broken = block.replace("name: one\n", "name: [one\n")
    assert lines_of(broken, "map.yaml")[0].startswith("map.yaml:12: not valid YAML")


def test_wrong_references_are_all_named_at_once():
    """Unknown needs and datasets, names that appear twice."""
    text = """\
version: 1
name: p
notebooks:
  - {name: load, path: a.ipynb}
  - {name: fit, path: b.ipynb, needs: [laod], datasets: [d]}
  - {name: fit, path: c.ipynb}
datasets:
  x: {url: 'https://x.org/a', path: a}
"""
    assert lines_of(text)[1:] == [
        "plan.yaml:5: notebook 'fit': needs[0]: unknown notebook 'laod' (did you mean 'load'? it has load, fit, fit)",
        "plan.yaml:5: notebook 'fit': datasets[0]: unknown dataset 'd' (it has x)",
        "plan.yaml:6: notebooks[2].name: the name 'fit' appears twice; names are unique",
    ]


def test_a_plan_that_is_wrong_everywhere_fills_no_screen():
    """The first twenty lines, and how many there are."""
    entries = "\n".join(f"  - {{name: n{n}, path: n.ipynb, x: 1}}" for n in range(100))
    lines = lines_of(f"version: 1\nname: p\nnotebooks:\n{entries}")
    assert lines[0] == "plan.yaml: 100 errors"
    assert lines[-1] == "and 80 more"
    assert len(lines) == 22


def test_the_published_schema_accepts_what_the_model_accepts():
    """Durations, sizes and defaults as people write them; an editor must not mark a plan that runs."""
    from runner.commands.plan import schema_text

    schema = json.loads(schema_text("plan"))
    assert schema["$id"]
    check = jsonschema.Draft202012Validator(schema)
    text = """\
version: 1
name: p
defaults: {timeout: 1h30m, requires: {memory_gb: 4}, env: {A: 1}}
notebooks:
  - {name: a, path: a.ipynb, cell_timeout: 90s, requires: {gpu_memory_gb: 22.5GiB}, env: {B: n}}
"""
    parse(text, "plan.yaml")
    check.validate(yaml.safe_load(text))
    for wrong in ("timeout: 90", "requires: {memory: 4}", "path: a.ipynb"):
        document = yaml.safe_load(f"version: 1\nname: p\nnotebooks: [{{name: a, path: a}}]\ndefaults: {{{wrong}}}")
        assert not check.is_valid(document), wrong
