# SPDX-License-Identifier: Apache-2.0
"""Alert rules and the dashboard speak of figures that a report really gives."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support import records as made

from runner.report import build

FOLDER = Path(__file__).parents[2] / "tekton" / "monitoring"
NAME = re.compile(r"\bnotebook_[a-z_]+")
LABELS = {"notebook"}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Give the names of all figures of a report on every status, with a GPU."""
    folder = tmp_path_factory.mktemp("every")
    plan = made.every_status(folder)
    result = build(folder, plan=plan, watch=lambda paths, seconds: dict.fromkeys(paths, False))
    text = result.html_path.with_name("metrics.prom").read_text()
    return {family.name for family in text_string_to_metric_families(text)}


def promtool(*arguments):
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)


def test_rules_are_valid():
    """`promtool check rules` accepts them."""
    done = promtool("check", "rules", "alert-rules.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_fire_when_they_should_and_not_otherwise():
    """`promtool test rules` passes all cases."""
    done = promtool("test", "rules", "alert-rules.test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_rule_has_a_case_that_fires_and_one_that_does_not():
    """No alert is left untested in either direction."""
    rules = yaml.safe_load((FOLDER / "alert-rules.yaml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    cases = [
        c
        for test in yaml.safe_load((FOLDER / "alert-rules.test.yaml").read_text())["tests"]
        for c in test["alert_rule_test"]
    ]
    assert {c["alertname"] for c in cases if c["exp_alerts"]} == alerts
    assert {c["alertname"] for c in cases if not c["exp_alerts"]} == alerts


@pytest.mark.parametrize("name", ["alert-rules.yaml", "alert-rules.test.yaml", "dashboard.json"])
def test_only_figures_that_exist_are_spoken_of(name, given):
    """A figure that is renamed does not silence an alert or empty a panel."""
    spoken = set(NAME.findall((FOLDER / name).read_text())) - LABELS
    assert spoken
    assert spoken <= given


def test_dashboard_can_be_imported():
    """Panels have distinct ids, do not overlap, and ask the chosen Prometheus."""
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    assert dashboard["uid"]
    assert dashboard["schemaVersion"] >= 36
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells
        taken |= cells
        assert all(target["expr"] for target in panel["targets"])
