# SPDX-License-Identifier: Apache-2.0
"""Folders that tests build hold nothing that no run ever writes.

A helper that fills in a field by hand keeps every test of its readers green while no run writes it. So
what the helper leaves is compared with what a real run and a killed one leave, field by field.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from support import cli, notebooks
from support import records as made

PLAN = """
version: 1
name: p
notebooks:
  - name: a
    path: a.ipynb
    requires: {memory_gb: 0.1, shm_gb: 0.001}
    parameters: {n: 2}
    env: {COLOUR: green}
    prepare: [{drop_cells: {containing: [never]}}, {replace: {find: old, with: new}}]
    products: [out.csv]
    expect: {files: [out.csv], min_figures: 1}
"""
CELLS = (
    notebooks.markdown("# A title"),
    "n = 1",
    "print('old')",
    "raise SystemExit('never')",
    "open('out.csv', 'w').write('x')",
    f"from IPython.display import display\ndisplay({{'image/png': {notebooks.PNG!r}}}, raw=True)\nimport time; time.sleep(2)",
)
FREE = {"bytes", "versions", "variables", "parameters", "unavailable", "stages_seconds"}
"""Mappings whose keys are not names of fields."""
OF_THE_MACHINE = {
    ".gate.checks[].hint",
    ".host.memory_limit_bytes",
    ".host.guard.cpu_seconds",
    ".host.guard.limit_bytes",
    ".host.guard.peak_unreclaimable_bytes",
}
"""What only some machines have: a memory limit to guard, something to warn of."""
OF_GPUS = {".gate.driver_version", ".gate.cuda_version"}


def fields(value: Any, at: str = "") -> set[str]:
    """Return the places in a document that hold something."""
    if isinstance(value, dict) and at.rpartition(".")[2] not in FREE:
        return {place for key, item in value.items() for place in fields(item, f"{at}.{key}")}
    if isinstance(value, list):
        return {place for item in value for place in fields(item, f"{at}[]")}
    return set() if value in (None, {}, "") else {at}


def test_a_record_has_only_fields_that_a_run_writes(tmp_path: Path) -> None:
    """Of a run without a GPU, to its end."""
    notebooks.write(tmp_path / "a.ipynb", *CELLS)
    (tmp_path / "plan.yaml").write_text(PLAN)
    arguments = ("--plan", tmp_path / "plan.yaml", "--output-dir", tmp_path / "out", "--secret-env", "TOKEN")
    for _ in range(2):
        ended = cli.runner("run", "a", *arguments, env={"TOKEN": "t" * 20, "RUNNER_IMAGE": "image@sha256:0"})
        assert ended.code == 0, ended.err
    made.leave(tmp_path / "made", made.metrics("a", gpus=0))

    written, ours = (fields(cli.metrics(tmp_path / name, "a")) for name in ("out", "made"))
    assert ours - written <= OF_THE_MACHINE | OF_GPUS | {".source.commit"}
    written, ours = (fields(cli.executed(tmp_path / name, "a")) for name in ("out", "made"))
    assert ours <= written
    heads = [(tmp_path / name / "a.samples.csv").read_text().splitlines()[0] for name in ("out", "made")]
    assert heads[0] == heads[1]


def test_a_run_in_flight_has_only_fields_that_a_run_writes(tmp_path: Path) -> None:
    """Of a run that was killed: what it leaves is what a report of a lost run is tested with."""
    notebooks.write(tmp_path / "a.ipynb", "print(1)", "print('begun', flush=True)\nimport time\ntime.sleep(300)")
    (tmp_path / "plan.yaml").write_text("version: 1\nname: p\nnotebooks: [{name: a, path: a.ipynb}]\n")
    out = tmp_path / "out"
    process = cli.start("run", "a", "--plan", tmp_path / "plan.yaml", "--output-dir", out)

    def second_save() -> bool:
        executed, claim = out / "a.executed.ipynb", out / "a.running"
        if not executed.exists() or r'"begun\n"' not in executed.read_text() or not claim.exists():
            return False
        content = json.loads(claim.read_text())
        return content["last_save_at"] is not None and content["cell_index"] == 1

    try:
        cli.until(second_save, "a save in the second cell")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    made.running(tmp_path, "a")
    made.executed_notebook(tmp_path / "a.executed.ipynb", done=8)

    assert fields(json.loads((tmp_path / "a.running").read_text())) <= fields(
        json.loads((out / "a.running").read_text())
    )
    assert fields(cli.executed(tmp_path, "a")) <= fields(cli.executed(out, "a"))
