# SPDX-License-Identifier: Apache-2.0
"""A whole plan on one machine: notebooks in order, each in its own process, and the report at the end.

What a notebook may do after another is decided by `runner run` itself (needs, stopping after a
failure), so that Tekton and this loop cannot disagree.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from runner import files, log
from runner.errors import RunnerError
from runner.plan import Plan, load
from runner.run.job import checkout_of


@dataclass(frozen=True, slots=True)
class WorkflowResult:
    """How the run of a plan ended."""

    exit_code: int
    text: str
    summary_path: Path | None


def run_all(
    plan_path: Path,
    *,
    checkout: Path | None = None,
    output_dir: Path,
    only: Sequence[str] = (),
    start: str | None = None,
    run_id: str | None = None,
    run_arguments: Sequence[str] = (),
) -> WorkflowResult:
    """Run a plan and write its report, whatever happened.

    Parameters
    ----------
    only, start
        Which part of the plan to run; needs are then met by a success of any run.
    run_arguments
        Options for each ``runner run``.

    Raises
    ------
    PlanError
        The plan is none, or a name is not in it.
    RecordError
        The output folder cannot be made.
    """
    plan = load(plan_path)
    names = select(plan, only, start)
    files.make_folder(output_dir)
    run_id = run_id or str(uuid.uuid4())
    common = ["--plan", str(plan_path), "--output-dir", str(output_dir), "--run-id", run_id, *run_arguments]
    common += ["--checkout", str(checkout_of(plan_path, checkout))]
    if only or start:
        common.append("--any-run")
    log.info("run-all", plan=plan.name, notebooks=len(names), run_id=run_id, output_dir=output_dir)
    child = _Child()
    with child.forwarding_signals():
        for number, name in enumerate(names, 1):
            if child.signalled is not None:
                break
            log.info("notebook", nb=name, number=f"{number}/{len(names)}")
            code = child.run([sys.executable, "-m", "runner", "run", name, *common])
            if code not in {0, *range(1, 10)}:
                log.error("notebook-process", nb=name, exit_code=code)
    return _finish(plan, plan_path, output_dir, names if only or start else (), run_id, child.signalled)


def select(plan: Plan, only: Sequence[str], start: str | None) -> list[str]:
    """Return the names to run, in the plan's order.

    Raises
    ------
    PlanError
        A name is not in the plan.
    """
    names = [notebook.name for notebook in plan.notebooks]
    wanted = {plan.notebook(name).name for name in only} or set(names)
    first = names.index(plan.notebook(start).name) if start else 0
    return [name for name in names[first:] if name in wanted]


def _finish(
    plan: Plan, plan_path: Path, output_dir: Path, only: Sequence[str], run_id: str, signalled: int | None
) -> WorkflowResult:
    from runner import report

    try:
        result = report.build(
            output_dir, plan=plan, plan_source=str(plan_path), only=only, run_id=run_id, environ=os.environ
        )
    except RunnerError as error:
        log.error("report", reason=str(error))
        return WorkflowResult(128 + signalled if signalled else error.exit_code, f"no report: {error}", None)
    counts = ", ".join(f"{count} {status}" for status, count in result.counts.items() if count)
    code = 128 + signalled if signalled else int(not result.ok(fail_on_failure=True))
    return WorkflowResult(code, f"{counts}\nreport: {result.html_path}", result.summary_path)


class _Child:
    """The notebook's process; signals that reach us reach it once."""

    def __init__(self) -> None:
        self.signalled: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, command: Sequence[str]) -> int:
        # A group of its own: a Ctrl-C of the terminal would reach it twice otherwise.
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, stdout=sys.stderr) as process:
            self._process = process
            if self.signalled is not None:
                process.send_signal(self.signalled)
            return process.wait()

    def forwarding_signals(self) -> _Forwarding:
        return _Forwarding(self)

    def receive(self, number: int, _frame: FrameType | None) -> None:
        if self.signalled is None:
            self.signalled = number
            log.warning("signal", name=signal.Signals(number).name, action="ending the notebook, then the report")
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(number)


class _Forwarding:
    """Hands SIGTERM and SIGINT on for the length of a block."""

    def __init__(self, child: _Child) -> None:
        self._child = child

    def __enter__(self) -> None:
        self._previous = {n: signal.signal(n, self._child.receive) for n in (signal.SIGTERM, signal.SIGINT)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
