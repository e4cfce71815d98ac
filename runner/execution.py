# SPDX-License-Identifier: Apache-2.0
"""Preparation, execution, release and expectations of one notebook, from records to records.

Brings together what knows the notebook and what knows the machine; neither knows the other.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import log, provenance
from runner.draft import Draft
from runner.errors import BrokenInputError
from runner.gate import GateDecision, visibility_env
from runner.job import EXECUTED_SUFFIX, Job
from runner.machine.joins import Span
from runner.probing import Probing
from runner.records import Cell, CellStatus, Failure, Status
from runner.stop import Stopper, StopKind
from runner.units import format_bytes, format_seconds
from runner.watch import Watch

if TYPE_CHECKING:
    from runner.notebook.engine import Manager
    from runner.notebook.kernel import Kernel
    from runner.notebook.status import CellEvent, Facts, Verdict
    from runner.progress import Progress

_LOOPBACK = "127.0.0.1,localhost"


class Execution:
    """One notebook between the gate and its record.

    Parameters
    ----------
    job
        What to do.
    draft
        Takes what is found out.
    decision
        The GPUs that the gate chose.
    """

    def __init__(
        self, job: Job, draft: Draft, decision: GateDecision, stopper: Stopper, recorder: Any, progress: Progress
    ) -> None:
        self.job = job
        self.draft = draft
        self.decision = decision
        self.stopper = stopper
        self.recorder = recorder
        self.progress = progress
        self.kernel: Kernel | None = None
        self.watch: Watch | None = None
        self.manager: Manager | None = None
        self.facts: Facts | None = None
        self.verdict: Verdict | None = None
        self._marked_as: Status | None = None

    def prepare(self) -> None:
        """Read the notebook and apply rules and parameters.

        Raises
        ------
        BrokenInputError
            Notebook, kernel, rule, parameter or dataset is not what it should be.
        """
        from runner.notebook.document import read_notebook
        from runner.notebook.prepare import prepare

        job = self.job
        self.source_notebook = read_notebook(job.source)
        if not job.cwd.is_dir():
            raise BrokenInputError(f"the working directory {job.cwd} does not exist", hint="give --cwd or the plan's cwd")
        wanted = job.kernel or self.source_notebook.metadata.get("kernelspec", {}).get("name") or "python3"
        from runner.notebook.kernel import check_kernel

        self.kernel_name = check_kernel(wanted)
        self.draft.source = provenance.source_record(job, self.source_notebook, job.source.read_bytes(), wanted)
        prepared = prepare(self.source_notebook, rules=job.rules, parameters=job.parameters, name=job.name)
        self.draft.preparation = prepared.changes
        self.notebook = prepared.notebook
        for change in prepared.changes:
            log.info("prepared", nb=job.name, rule=change.rule, cell=change.cell_index, detail=change.detail)

    def execute(self) -> None:
        """Run the cells; afterwards the kernel is gone and the verdict stands."""
        from jupyter_core.utils import run_sync

        from runner.notebook.kernel import Kernel, runs_here

        self.watch = Watch(
            samples=self.job.path(".samples.csv"),
            started_monotonic=self.draft.started_monotonic,
            gpus=self.decision.gpus,
            held=bool(self.decision.gpus),
            guard_fraction=self.job.options.memory_guard,
            on_breach=self._on_breach,
        )
        self.watch.sampler.on_tick.append(lambda latest: self.progress.memory(_total(latest), latest.host_bytes))
        self.probing = Probing(self.job.options.allocator_probe, self.watch)
        environ = self._kernel_environment() | self.probing.variables()
        self.kernel = Kernel(self.kernel_name, cwd=self.job.cwd, env=environ, startup=self.probing.startup)
        self.draft.environment = provenance.environment(self.job, self.kernel_name, self.kernel.transport)
        with self.watch:
            try:
                self.watch.follow(run_sync(self.kernel.start)())
            except OSError as error:
                raise BrokenInputError(
                    f"the kernel {self.kernel_name!r} cannot be started: {error}", hint="check its kernel spec"
                ) from error
            # The kernel takes most of a second to answer; what is imported meanwhile costs nothing.
            self.provenance = provenance.Provenance(self.job.source, here=runs_here(self.kernel_name))
            self._execute_cells()

    def _execute_cells(self) -> None:
        import papermill.engines  # noqa: F401  (first: it imports our engine by its entry point)

        from runner.notebook import engine
        from runner.notebook.execute import Limits, Session

        assert self.kernel is not None
        assert self.watch is not None
        self.notebook.metadata.setdefault("papermill", {})
        self.manager = engine.Manager(self.notebook, str(self.job.path(EXECUTED_SUFFIX)), progress_bar=False)
        self.manager.notebook_start()
        observer = _make_observer(self)
        session = Session(
            self.manager,
            self.kernel,
            self.stopper,
            limits=Limits(notebook_seconds=self.job.notebook_seconds, cell_seconds=self.job.cell_seconds),
            observer=observer,
            redactor=self.recorder.redactor,
            log_name=self.job.path(".log").name,
            courtesy=self.job.options.cleanup_between_notebooks and bool(self.decision.gpus),
            save=self.manager.saver.save_if_due if self.manager.saver else None,
            oom_kills=self.watch.oom_kills,
        )
        self.facts, self.verdict = engine.execute(self.manager, session)
        self._last_words()
        self.probing.collect(self.kernel.folder)
        self._judge(self.facts, self.verdict)

    def _on_breach(self, used_bytes: int) -> None:
        """Kill first, explain later: called by the guard with the container nearly full."""
        if self.kernel is not None:
            self.kernel.signal_group(signal.SIGKILL)
        limit = self.watch.container.limit_bytes if self.watch else None
        detail = f"{format_bytes(used_bytes)} of {format_bytes(limit)} were in use and could not be reclaimed"
        self.stopper.request(StopKind.MEMORY_GUARD, detail)

    def _kernel_environment(self) -> dict[str, str]:
        """Return the kernel's environment: ours without our own options, then GPUs, plan and run tag."""
        assert self.watch is not None
        environ = {key: value for key, value in os.environ.items() if not key.startswith("RUNNER_")}
        if self.job.options.gpu_visibility == "chosen":
            environ |= visibility_env(self.decision.gpus, environ)
        environ |= self.job.env
        environ |= self.watch.kernel_environment()
        if any(environ.get(name) for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy")):
            for name in ("no_proxy", "NO_PROXY"):
                environ[name] = ",".join(filter(None, [environ.get(name), _LOOPBACK]))
        return environ

    def _last_words(self) -> None:
        """Move what the dying kernel wrote into the log."""
        assert self.kernel is not None
        fault, stderr = (self.recorder.redactor.text(text) for text in self.kernel.last_words())
        self.last_words = f"{fault}\n{stderr}"
        died = self.verdict is not None and self.verdict.status in {Status.KERNEL_DIED, Status.INCOMPLETE}
        for title, text in (("faulthandler", fault), ("kernel stderr", stderr if died else "")):
            if text.strip():
                self.recorder.runlog.event(f"--- {title} ---")
                self.recorder.runlog.printed(text)

    def _judge(self, facts: Facts, verdict: Verdict) -> None:
        """Record status, cells and failure, and mark the notebook."""
        self.draft.end(verdict.status, verdict.reason, verdict.exit_code)
        self.draft.failure = self._failure(facts, verdict)
        self.draft.cells = self._cells(facts, verdict)
        self.draft.note_outputs(figures=sum(cell.figures for cell in self.draft.cells))
        self._mark()

    def _failure(self, facts: Facts, verdict: Verdict) -> Failure | None:
        from runner.machine.host import shm_free_bytes
        from runner.notebook.diagnose import Evidence, diagnose
        from runner.runlog import without_colours

        if verdict.status is Status.SUCCEEDED:
            return None
        event = facts.cells.get(verdict.cell_id or "")
        raised = event if event is not None and event.outcome == "error" else None
        traceback = without_colours("\n".join(raised.traceback)) if raised else ""
        diagnosis = diagnose(
            Evidence(
                status=verdict.status,
                error_name=(raised.error_name if raised else "") or "",
                message=(raised.error_message if raised else "") or "",
                traceback=traceback,
                last_words=self.last_words,
                signal=verdict.signal,
                oom_kills=facts.oom_kills,
                guard_acted=facts.stop is not None and facts.stop.kind is StopKind.MEMORY_GUARD,
                shm_free_bytes=shm_free_bytes(),
                gpu_peak_fraction=self._gpu_fraction(),
            )
        )
        cell = next((c for c in self.notebook.cells if c.id == verdict.cell_id), None)
        failure = Failure(
            message=(raised.error_message if raised and raised.error_message else verdict.reason)[:10_000],
            cell_index=cell.metadata.runner.get("index") if cell is not None else None,
            cell_id=verdict.cell_id,
            error_name=raised.error_name if raised else None,
            traceback_tail=_tail(traceback) or _tail(self.last_words) or None,
            signal=verdict.signal,
            cause=diagnosis.cause if diagnosis else None,
            hint=diagnosis.hint if diagnosis else None,
        )
        return self.probing.explain(failure)

    def _gpu_fraction(self) -> float | None:
        """Return the largest share of a GPU's memory in use at the last tick."""
        latest = self.watch.sampler.latest if self.watch else None
        if latest is None:
            return None
        shares = [
            used / gpu.total_bytes
            for gpu in self.decision.gpus
            if gpu.total_bytes and (used := latest.gpu_used_bytes.get(gpu.uuid)) is not None
        ]
        return max(shares, default=None)

    def _cells(self, facts: Facts, verdict: Verdict) -> tuple[Cell, ...]:
        from runner.notebook.outputs import is_figure, output_bytes

        cells = []
        for cell in self.notebook.cells:
            index = cell.metadata.get("runner", {}).get("index")
            if cell.cell_type != "code" or index is None:
                continue
            event = facts.cells.get(cell.id)
            cells.append(
                Cell(
                    index=index,
                    id=cell.id,
                    status=verdict.cells.get(cell.id, CellStatus.NOT_RUN),
                    started_at=event.started_at if event else None,
                    wall_seconds=_wall(event),
                    output_bytes=sum(map(output_bytes, cell.outputs)),
                    figures=sum(map(is_figure, cell.outputs)),
                    title=_title(cell.source),
                )
            )
        return tuple(sorted(cells, key=lambda cell: cell.index))

    def _mark(self) -> None:
        """Make the notebook say how it ended, once for each end."""
        from runner.notebook.marks import add_banners

        assert self.verdict is not None
        assert self.draft.status is not None
        if self._marked_as is self.draft.status:
            return
        self._marked_as = self.draft.status
        verdict = dataclasses.replace(
            self.verdict, status=self.draft.status, reason=self.draft.reason, exit_code=self.draft.exit_code
        )
        self.notebook.metadata.runner = {
            "status": verdict.status.value,
            "reason": self.recorder.redactor.text(verdict.reason),
            "exit_code": verdict.exit_code,
            "run_id": self.job.run_id,
        }
        add_banners(self.notebook, verdict, self.draft.failure.hint if self.draft.failure else None)
        if self.manager is not None:
            self.manager.save()

    def save(self) -> None:
        """Write the executed notebook if it has changed since the last save.

        Raises
        ------
        RecordError
            It cannot be written.
        """
        saver = self.manager.saver if self.manager else None
        if saver is not None and saver.dirty:
            saver.save()
            self.draft.note_outputs(saves=saver.saves, save_seconds=round(saver.seconds, 6))

    def release(self, *, seconds: float | None = None) -> None:
        """End what is left of the run, prove the release, and join samples with cells."""
        assert self.watch is not None
        options = {} if seconds is None else {"seconds": seconds}
        release = self.watch.release(cleanup=self.job.options.cleanup_between_notebooks, **options)
        self.draft.release = release
        left = [f"{process.name} (pid {process.pid}, {process.ended_by})" for process in release.swept]
        log.info("release", nb=self.job.name, released=release.released, seconds=release.seconds, swept=len(left))
        if left:
            self.draft.warnings.append(f"processes outlived the kernel: {', '.join(left)}")
        if release.released is False and not self.job.options.strict_release:
            self.draft.warnings.append(f"GPU memory was not released: {release.reason}")
        self._join()

    def _join(self) -> None:
        assert self.watch is not None
        assert self.facts is not None
        start = self.draft.started_monotonic
        spans = [
            Span(cell.index, event.started_monotonic - start, event.ended_monotonic - start)
            for cell in self.draft.cells
            if (event := self.facts.cells.get(cell.id)) is not None
        ]
        by_cell = self.watch.cells(spans)
        self.draft.cells = tuple(
            dataclasses.replace(
                cell,
                peak_gpu_memory_bytes=use.peak_gpu_memory_bytes,
                gpu_utilization_mean_percent=use.gpu_utilization_mean_percent,
                gpu_energy_joules=use.gpu_energy_joules,
                peak_host_memory_bytes=use.peak_host_memory_bytes,
            )
            if (use := by_cell.get(cell.index)) is not None
            else cell
            for cell in self.draft.cells
        )
        uses = self.watch.gpu_uses(self.decision.driver, held_seconds=self.draft.seconds())
        self.draft.cells, self.draft.gpus = self.probing.join(self.draft.cells, uses, spans)
        self.draft.allocator_probe = self.probing.record()
        if self.probing.warning:
            self.draft.warnings.append(self.probing.warning)
        self.draft.host = self.watch.host()
        self.draft.sampler = self.watch.sampling()
        self.draft.versions = self.provenance.versions
        if self.draft.source is not None:
            self.draft.source = dataclasses.replace(self.draft.source, commit=self.provenance.commit)

    def expect(self) -> None:
        """Compare what a successful notebook left with what the plan expects, then judge the release."""
        from runner.notebook import expect

        if self.draft.status is Status.SUCCEEDED and self.job.expect is not None:
            self.draft.expectations = expect.check(
                self.job.expect,
                checkout=self.job.checkout,
                started_at_epoch=self.draft.started_epoch,
                figures=self.draft.outputs.figures,
                executed_nb=self.notebook,
                source_nb=self.source_notebook,
            )
            unmet = [e for e in self.draft.expectations if not e.met]
            for e in unmet:
                self.draft.warnings.append(f"expected {e.kind} {e.target}: {e.seen}, needed {e.needed}")
            errors = [e for e in unmet if e.severity == "error"]
            if errors:
                first = errors[0]
                reason = f"{first.kind} {first.target}: {first.seen}, needed {first.needed}"
                self.draft.end(Status.UNEXPECTED_RESULTS, reason)
        release = self.draft.release
        if release is not None and release.released is False and self.job.options.strict_release:
            self.draft.end(Status.NOT_RELEASED, release.reason)
        if self.verdict is not None:
            self._mark()

    def html(self) -> str:
        """Return the executed notebook as a page."""
        from runner.notebook.convert import convert_notebook

        title = (self.draft.source.title if self.draft.source else None) or self.job.name
        return convert_notebook(self.notebook, title=title, trust=self.job.options.trust_html)

    def close(self) -> None:
        """Leave nothing behind."""
        if self.watch is not None:
            self.watch.stop()
        if self.kernel is not None:
            self.kernel.signal_group(signal.SIGKILL)
            self.kernel.remove_folder()


def _make_observer(execution: Execution) -> Any:
    """Return the observer that turns events of cells into log, heartbeat, samples and progress."""
    from runner.notebook.execute import Observer

    job, recorder, watch = execution.job, execution.recorder, execution.watch
    assert watch is not None
    assert execution.manager is not None
    saver = execution.manager.saver
    count = sum(1 for cell in execution.notebook.cells if cell.cell_type == "code")

    class Reporter(Observer):
        def cell_started(self, cell: Any, position: int) -> None:
            index = cell.metadata.runner.get("index")
            recorder.claim.update(cell_index=index, cell_count=count)
            title = _title(cell.source)
            log.info("cell-start", nb=job.name, cell=_place(index), of=count, title=title)
            execution.progress.cell(job.name, (index or 0) + 1, count, title)

        def cell_ended(self, cell: Any, position: int, event: CellEvent) -> None:
            watch.sampler.sample_now()
            latest = watch.sampler.latest
            index = cell.metadata.runner.get("index")
            gpu = _total(latest) if latest else None
            log.info(
                "cell-end",
                nb=job.name,
                cell=_place(index),
                of=count,
                outcome=event.outcome,
                wall=format_seconds(event.ended_monotonic - event.started_monotonic),
                gpu=format_bytes(gpu) if gpu is not None else None,
                host=format_bytes(latest.host_bytes) if latest and latest.host_bytes is not None else None,
                error=event.error_name,
            )

        def printed(self, name: str, text: str) -> None:
            recorder.runlog.printed(text)

        def changed(self) -> None:
            if saver is not None:
                saver.dirty = True

    return Reporter()


def _place(index: int | None) -> int | str:
    return "inserted" if index is None else index


def _total(latest: Any) -> int | None:
    known = [used for used in latest.gpu_used_bytes.values() if used is not None]
    return sum(known) if known else None


def _wall(event: CellEvent | None) -> float | None:
    return round(event.ended_monotonic - event.started_monotonic, 6) if event else None


def _title(source: str, limit: int = 80) -> str | None:
    """Return the first line of a cell that says something."""
    for line in source.splitlines():
        text = line.strip()
        if text and not text.startswith("%%"):
            return text if len(text) <= limit else f"{text[: limit - 1]}…"
    return None


def _tail(text: str, lines: int = 25) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
