# SPDX-License-Identifier: Apache-2.0
"""A whole plan on one machine: notebooks in order, each in its own process, and the report at the end.

What a notebook may do after another is decided by `runner run` itself (needs, stopping after a
failure), so that Tekton and this loop cannot disagree.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from runner.core import files, log
from runner.core.errors import RunnerError, UsageError
from runner.core.redact import Redactor, hidden_values
from runner.core.stop import exit_code, handling
from runner.machine.processes import RUN_TAG, end_with_parent
from runner.plan import Plan, load
from runner.plan.job import Options, checkout_of, resolve
from runner.run import needs, preflight
from runner.run.leftovers import clean_up_all

_COMMAND = (sys.executable, "-P", "-m", "runner", "run")
"""-P: a `runner.py` or `click.py` in the current folder is none of ours."""
_OPTIONS = "RUNNER_RUN_"


@dataclass(frozen=True, slots=True)
class WorkflowResult:
    """How the run of a plan ended."""

    exit_code: int
    text: str
    summary_path: Path | None


def run_all(
    options: Options,
    *,
    only: Sequence[str] = (),
    start: str | None = None,
    run_arguments: Sequence[str] = (),
) -> WorkflowResult:
    """Run a plan and write its report, whatever happened.

    Parameters
    ----------
    options
        The plan, and what counts for all its notebooks; they are checked before the first one runs.
    only, start
        Which part of the plan to run; needs are then met by a success of any run.
    run_arguments
        The same options as arguments of each ``runner run``.

    Raises
    ------
    PlanError
        The plan is none, or a name is not in it.
    UsageError
        No notebook is left to run, or an option cannot work.
    RecordError
        The output folder cannot be made.
    """
    plan_path, output_dir = options.plan, options.output_dir
    assert plan_path is not None
    plan = load(plan_path)
    names = select(plan, only, start)
    preflight.check_options([resolve(dataclasses.replace(options, notebook=name)) for name in names])
    given = (os.environ, *(notebook.env for notebook in plan.notebooks))
    hidden = hidden_values(options.secret_env, options.secrets_dir, given)
    files.make_folder(output_dir)
    clean_up_all(output_dir)
    run_id = options.run_id or str(uuid.uuid4())
    common = ["--plan", str(plan_path), "--output-dir", str(output_dir), "--run-id", run_id, *run_arguments]
    common += ["--checkout", str(checkout_of(plan_path, options.checkout))]
    if only or start:
        common.append("--any-run")
    log.info("run-all", plan=plan.name, notebooks=len(names), run_id=run_id, output_dir=output_dir)
    child = _Child(_environment(os.environ))
    with handling(child.receive):
        for number, name in enumerate(names, 1):
            if child.signalled is not None:
                break
            log.info("notebook", nb=name, number=f"{number}/{len(names)}")
            code = child.run([*_COMMAND, name, *common])
            recorded = needs.ended(output_dir, [name]).get(name)
            if recorded is None or recorded.run_id != run_id:
                log.error("notebook-process", nb=name, exit_code=code, reason="it left no record of this run")
            elif code not in {0, *range(1, 10)}:
                log.error("notebook-process", nb=name, exit_code=code)
        # Still heard: a signal does not stop the report, and the exit code tells of it.
        return _finish(plan, plan_path, output_dir, names if only or start else (), run_id, child, hidden)


def select(plan: Plan, only: Sequence[str], start: str | None) -> list[str]:
    """Return the names to run, in the plan's order.

    Raises
    ------
    PlanError
        A name is not in the plan.
    UsageError
        None is left.
    """
    names = [notebook.name for notebook in plan.notebooks]
    wanted = {plan.notebook(name).name for name in only} or set(names)
    first = names.index(plan.notebook(start).name) if start else 0
    chosen = [name for name in names[first:] if name in wanted]
    if not chosen:
        raise UsageError(
            f"--from {start} leaves nothing of --only {', '.join(only)}: what is asked for stands earlier in the plan",
            hint="leave one of them out",
        )
    return chosen


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the notebooks' processes: ours without options of `runner run`.

    What counts for a plan is given to `run-all`, as an option or as ``RUNNER_RUN_ALL_...``, and handed
    on. A ``RUNNER_RUN_NAME`` of the surroundings would give all notebooks one name.
    """
    ignored = [name for name in environ if name.startswith(_OPTIONS) and name != RUN_TAG]
    meant = sorted(name for name in ignored if not name.startswith(f"{_OPTIONS}ALL_") and environ[name])
    if meant:
        log.warning("environment", ignored=",".join(meant), hint="run-all takes its options from RUNNER_RUN_ALL_...")
    return {name: value for name, value in environ.items() if name not in ignored}


def _finish(
    plan: Plan,
    plan_path: Path,
    output_dir: Path,
    only: Sequence[str],
    run_id: str,
    child: _Child,
    hidden: Sequence[str],
) -> WorkflowResult:
    from runner import report

    try:
        result = report.build(
            output_dir,
            plan=plan,
            plan_source=str(plan_path),
            only=only,
            run_id=run_id,
            environ=os.environ,
            redactor=Redactor(hidden),
        )
    except RunnerError as error:
        log.error("report", reason=str(error))
        code = exit_code(child.signalled) if child.signalled else error.exit_code
        return WorkflowResult(code, f"no report: {error}", None)
    counts = ", ".join(f"{count} {status}" for status, count in result.counts.items() if count)
    code = exit_code(child.signalled) if child.signalled else int(not result.ok(fail_on_failure=True))
    return WorkflowResult(code, f"{counts}\nreport: {result.html_path}", result.summary_path)


class _Child:
    """The notebook's process; signals that reach us reach it once."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.signalled: int | None = None
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, command: Sequence[str]) -> int:
        with subprocess.Popen(
            command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            process_group=0,  # a Ctrl-C of the terminal would reach it twice otherwise
            preexec_fn=end_with_parent,  # noqa: PLW1509  (no other thread here could hold a lock)
        ) as process:
            self._process = process
            if self.signalled is not None:
                process.send_signal(self.signalled)
            return process.wait()

    def receive(self, number: int, _frame: FrameType | None) -> None:
        if self.signalled is None:
            self.signalled = number
            log.warning("signal", name=signal.Signals(number).name, action="ending the notebook, then the report")
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(number)
