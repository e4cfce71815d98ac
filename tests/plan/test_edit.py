# SPDX-License-Identifier: Apache-2.0
"""Values in the text of a plan change in place; comments, order and quotes stay."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runner.core.errors import PlanError
from runner.plan.edit import with_values
from runner.plan.model import load, parse

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [
    path
    for folder in ("tekton/configs", "runner/demo", "examples")
    for path in sorted((ROOT / folder).rglob("*.yaml"))
    if re.search(r"^\s*notebooks:", path.read_text(), re.MULTILINE)
]
PLAN = """\
version: 1
name: mine
defaults: {kernel: python3}   # of all
notebooks:
  - name: flow   # the first
    path: a.ipynb
    requires: {gpus: 1, gpu_memory_gb: 24, memory_gb: 8}  # a card
  - {name: short, path: "b.ipynb"}
  - name: block
    path: c.ipynb
    requires:
      gpus: 1   # one
      # a comment of its own
      gpu_memory_gb: 24
    prepare:
      - replace: {find: x, with: "y"}
      - insert:
          before: z
          source: |
            a = 1
            b = 2
  # the last
  - name: bare
    path: d.ipynb
    requires: {}
"""


def test_values_are_replaced_and_added_and_nothing_else_moves():
    """In both styles, with and without the mapping they belong into."""
    gate = {("requires", "gpu_memory_gb"): "16", ("requires", "cpus"): "4", ("timeout",): "15m"}
    edited = with_values(PLAN, dict.fromkeys(range(4), gate), "Tuned today")
    assert (
        edited
        == """\
version: 1
name: mine
defaults: {kernel: python3}   # of all
# Tuned today
notebooks:
  - name: flow   # the first
    path: a.ipynb
    requires: {gpus: 1, gpu_memory_gb: 16, memory_gb: 8, cpus: 4}  # a card
    timeout: 15m
  - {name: short, path: "b.ipynb", requires: {gpu_memory_gb: 16, cpus: 4}, timeout: 15m}
  - name: block
    path: c.ipynb
    requires:
      gpus: 1   # one
      # a comment of its own
      gpu_memory_gb: 16
      cpus: 4
    prepare:
      - replace: {find: x, with: "y"}
      - insert:
          before: z
          source: |
            a = 1
            b = 2
    timeout: 15m
  # the last
  - name: bare
    path: d.ipynb
    requires: {gpu_memory_gb: 16, cpus: 4}
    timeout: 15m
"""
    )
    assert [one.timeout for one in parse(edited, "x").notebooks] == [900] * 4
    assert with_values(edited, {}, "Tuned tomorrow") == edited.replace("Tuned today", "Tuned tomorrow")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_shipped_plans_can_be_edited(path, tmp_path):
    """ConfigMaps around a plan too; each other line stays."""
    text = path.read_text()
    values = {("requires", "memory_gb"): "77", ("timeout",): "77m"}
    edited = with_values(text, {0: values})
    (tmp_path / "plan.yaml").write_text(edited)
    first = load(tmp_path / "plan.yaml").notebooks[0]
    assert (first.requires.memory_gb, first.timeout) == (77, 77 * 60)
    changed = set(text.splitlines()) ^ set(edited.splitlines())
    assert all("77" in line or "memory_gb" in line or "timeout" in line or "requires" in line for line in changed)


def test_what_other_notebooks_share_is_not_changed_behind_their_back():
    """An alias, and a plan that is not in a literal block."""
    shared = PLAN.replace("requires: {gpus: 1, gpu", "requires: &r {gpus: 1, gpu").replace(
        "requires: {}", "requires: *r"
    )
    with pytest.raises(PlanError, match=r"notebooks\[3\].requires.cpus comes from an alias"):
        with_values(shared, {3: {("requires", "cpus"): "1"}})
    folded = 'kind: ConfigMap\ndata:\n  plan.yaml: "version: 1\\nname: a\\nnotebooks: [{name: a, path: a.ipynb}]"\n'
    assert parse(folded, "x")  # valid all the same
    with pytest.raises(PlanError, match="not a literal block"):
        with_values(folded, {0: {("timeout",): "1h"}})
