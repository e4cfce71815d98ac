# SPDX-License-Identifier: Apache-2.0
"""`runner run-all`: a plan on one machine, each notebook in its own process, with a report at the end.

`runner run` itself decides on needs, stopping after a failure and reuse, so that Tekton and this loop behave alike.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runner.core import files, log
from runner.core.errors import AlreadyRunningError, RunnerError, UsageError
from runner.core.hash_cache import HashCache
from runner.core.redact import Redactor, hidden_values
from runner.core.stop import exit_code, handling
from runner.core.units import format_count
from runner.machine.processes import RUN_TAG
from runner.outputs.attempts import clean_up_all
from runner.outputs.claim import Claim
from runner.plan.job import Options, checkout_of, resolve
from runner.plan.model import Plan, load
from runner.run import needs, preflight
from runner.run.progress import watched
from runner.workflow.children import Children
from runner.workflow.live_page import LivePage
from runner.workflow.schedule import Machine, Schedule, tasks_of

if TYPE_CHECKING:
    from runner.plan.job import Job
    from runner.run.progress import Progress

_OPTIONS = "RUNNER_RUN_"
_MOST_LINES = 60
"""Lines on failures for a terminal; the report lists all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Notebooks of a plan to run, and how many in parallel."""

    only: Sequence[str] = ()
    start: str | None = None
    failed: bool = False
    rerun: Sequence[str] = ()
    jobs: int | Literal["auto"] = 1

    @property
    def part(self) -> bool:
        """Whether only a part of the plan runs, so that a success of any run satisfies needs."""
        return bool(self.only or self.start or self.failed)


@dataclass(frozen=True, slots=True)
class WorkflowResult:
    """Outcome of the run of a plan."""

    exit_code: int
    text: str
    summary_path: Path | None = None


def run_all(options: Options, choice: Choice, run_arguments: Sequence[str] = (), verbosity: int = 0) -> WorkflowResult:
    """Run a plan and write its report in any case.

    Parameters
    ----------
    options
        The plan and options for all notebooks, checked before the first one runs.
    run_arguments
        The same options as arguments of each ``runner run``.
    verbosity
        Detail shown on a terminal, see `runner.run.progress.watched`.

    Raises
    ------
    PlanError
        The plan is not valid, or a name is not in it.
    UsageError
        No notebook is left to run, or an option is invalid.
    RecordError
        The output folder cannot be created.
    """
    plan_path, output_dir = options.plan, options.output_dir
    assert plan_path is not None
    plan = load(plan_path)
    options = dataclasses.replace(options, run_id=options.run_id or str(uuid.uuid4()), any_run=choice.part)
    jobs = _jobs(plan, options, choice)
    if not jobs:
        return WorkflowResult(0, "nothing to run: all notebooks succeeded")
    preflight.check_options(jobs)
    given = (os.environ, *(notebook.env for notebook in plan.notebooks))
    hidden = hidden_values(options.secret_env, options.secrets_dir, given)
    files.make_folder(output_dir)
    clean_up_all(output_dir)
    common = ["--plan", str(plan_path), "--output-dir", str(output_dir), "--run-id", str(options.run_id)]
    common += [*run_arguments, "--checkout", str(checkout_of(plan_path, options.checkout))]
    common += ["--any-run"] if choice.part else []
    with watched(len(jobs), verbosity) as progress:
        schedule = _schedule(plan, jobs, choice.jobs)
        log.info("run-all", plan=plan.name, notebooks=len(jobs), run_id=options.run_id, output_dir=output_dir)
        children = Children(_environment(os.environ), progress, quiet=verbosity < 0)
        with children, handling(children.receive):
            page = LivePage(output_dir, plan, str(options.run_id), [job.name for job in jobs])
            _run(schedule, {job.name: job for job in jobs}, children, common, page, progress)
            # Signals are still handled: they do not stop the report, but set the exit code.
            only = [job.name for job in jobs] if choice.part else ()
            return _finish(plan, options, only, children.signalled, hidden)


def dry_run(options: Options, choice: Choice, *, as_json: bool) -> str:
    """Return the notebooks that a resumed run would reuse and run, without writing anything but cached hashes.

    Raises
    ------
    PlanError, UsageError
        As `run_all`.
    """
    from runner.workflow import preview

    assert options.plan is not None
    jobs = _jobs(load(options.plan), options, choice)
    if jobs:
        preflight.check_options(jobs)
    previews = preview.preview(jobs)
    if as_json:
        return json.dumps({"notebooks": [dataclasses.asdict(one) for one in previews]}, indent=1, ensure_ascii=False)
    return preview.table(previews)


def _jobs(plan: Plan, options: Options, choice: Choice) -> list[Job]:
    names = select(plan, choice.only, choice.start)
    forced = {plan.notebook(name).name for name in choice.rerun}
    if choice.failed:
        names = _failed(plan, names, options.output_dir)
    options = dataclasses.replace(options, checkout=checkout_of(options.plan, options.checkout))
    jobs = [resolve(dataclasses.replace(options, notebook=name, rerun=name in forced)) for name in names]
    if left_out := sorted(forced - set(names)):
        raise UsageError(f"--rerun {left_out[0]} is not one of the notebooks to run", hint="see --only, --from")
    return jobs


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
            f"--from {start} excludes all of --only {', '.join(only)}, which come earlier in the plan",
            hint="omit one of the options",
        )
    return chosen


def _failed(plan: Plan, names: Sequence[str], output_dir: Path) -> list[str]:
    """Return the notebooks that failed or did not run, and those that need them."""
    ended = needs.ended(output_dir, names)
    bad: set[str] = set()
    for name in names:
        result = ended.get(name)
        bad |= {name} if result is None or result.provisional or not needs.passed(result) else set()
        bad |= {name} if bad & set(plan.notebook(name).needs) else set()
    return [name for name in names if name in bad]


def _schedule(plan: Plan, jobs: Sequence[Job], at_once: int | Literal["auto"]) -> Schedule:
    """Return the schedule of a run, with the capacity of this machine if notebooks may run in parallel."""
    if at_once == 1:
        return Schedule(machine=Machine(jobs=1), tasks=tasks_of(plan, jobs, {}, count_all=False))
    from runner.machine.gpus import DriverProblem, open_driver
    from runner.machine.host import read_limits
    from runner.workflow.preview import seconds_before

    limits = read_limits()
    sizes: tuple[float, ...] = ()
    try:
        with open_driver() as driver:
            sizes = tuple(float(gpu.total_bytes or 0) for gpu in driver.visible(os.environ))
    except DriverProblem as problem:
        log.info("gpus", reason=str(problem))
    machine = Machine(
        jobs=len(jobs) if at_once == "auto" else at_once,
        gpu_bytes=sizes,
        cpus=limits.cpus,
        memory_gb=limits.memory_bytes / 1e9 if limits.memory_bytes else None,
    )
    seconds = {one.name: took for one in jobs if (took := seconds_before(one.output_dir, one.name)) is not None}
    return Schedule(machine=machine, tasks=tasks_of(plan, jobs, seconds, count_all=at_once == "auto"))


def _run(
    schedule: Schedule,
    jobs: Mapping[str, Job],
    children: Children,
    common: Sequence[str],
    page: LivePage,
    progress: Progress | None,
) -> None:
    """Start notebooks as the schedule allows, until all have ended."""
    hashes: HashCache | None = None
    started = 0
    while not schedule.over:
        while children.signalled is None and (name := schedule.next()) is not None:
            schedule.start(name)
            started += 1
            job = jobs[name]
            if job.options.resume:
                from runner.run.resume import HASHES

                hashes = hashes or HashCache(job.output_dir / HASHES)
                if _reused(job, children, hashes):
                    schedule.end(name, succeeded=True)
                    if progress:
                        progress.passed(f"{name}: reused")
                    continue
            log.info("notebook", nb=name, number=f"{started}/{len(jobs)}")
            children.start(job, [*common, *(["--rerun"] if job.options.rerun else [])])
        if children.signalled is not None:
            schedule.drop()
        page.show()
        if schedule.running:
            for name, code in children.wait(page.seconds).items():
                schedule.end(name, succeeded=code == 0)
                lines = progress.end(name) if progress else []
                if not _check_record(jobs[name], code):
                    sys.stderr.writelines(f"{line}\n" for line in lines)


def _reused(job: Job, children: Children, hashes: HashCache) -> bool:
    """Reuse an earlier success within this process, a hundred times as fast as starting another one."""
    from runner.run.resume import resume

    plan = job.plan.name if job.plan else None
    try:
        with Claim.of(job.output_dir, job.name, job.run_id, plan, sleep=children.stopper.sleep):
            return resume(job, children.stopper, hashes).record is not None
    except (AlreadyRunningError, RunnerError):
        return False  # its own process gets the same error and records it


def _check_record(job: Job, code: int) -> bool:
    """Return False if a process wrote no record of this run."""
    recorded = needs.ended(job.output_dir, [job.name]).get(job.name)
    if recorded is None or recorded.run_id != job.run_id:
        log.error("notebook-process", nb=job.name, exit_code=code, reason="it wrote no record of this run")
        return False
    if code not in {0, *range(1, 10)}:
        log.error("notebook-process", nb=job.name, exit_code=code)
    return True


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the notebooks' processes, without options of `runner run`.

    Options of a plan are given to `run-all`, on the command line or as ``RUNNER_RUN_ALL_...``, and passed on. An
    inherited ``RUNNER_RUN_NAME`` would give all notebooks the same name.
    """
    ignored = [name for name in environ if name.startswith(_OPTIONS) and name != RUN_TAG]
    reported = sorted(name for name in ignored if not name.startswith(f"{_OPTIONS}ALL_") and environ[name])
    if reported:
        log.warning("environment", ignored=",".join(reported), hint="run-all reads its options from RUNNER_RUN_ALL_...")
    return {name: value for name, value in environ.items() if name not in ignored}


def _finish(
    plan: Plan, options: Options, only: Sequence[str], signalled: int | None, hidden: Sequence[str]
) -> WorkflowResult:
    from runner import report

    try:
        result = report.build(
            options.output_dir,
            plan=plan,
            plan_source=str(options.plan),
            only=only,
            run_id=options.run_id,
            environ=os.environ,
            redactor=Redactor(hidden),
        )
    except RunnerError as error:
        log.error("report", reason=str(error))
        code = exit_code(signalled) if signalled else error.exit_code
        return WorkflowResult(code, f"no report: {error}")
    counts = [
        format_count(count, "notebook") if word == "notebooks" else f"{count} {word}"
        for word, count in result.counts.items()
        if count
    ]
    code = exit_code(signalled) if signalled else int(not result.ok(fail_on_failure=True))
    lines = [", ".join(counts), *result.explained[:_MOST_LINES]]
    if len(result.explained) > _MOST_LINES:
        lines.append("… more in the report")
    return WorkflowResult(
        code, "\n".join([*lines, f"report: {result.html_path.resolve().as_uri()}"]), result.summary_path
    )
