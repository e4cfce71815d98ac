# SPDX-License-Identifier: Apache-2.0
"""Preparation, execution, release and expectations of one notebook, from records to records.

Brings together what knows the notebook and what knows the machine; neither knows the other.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from runner.core import log, proxies
from runner.core.errors import BrokenInputError
from runner.core.records import Cause, Failure, Status
from runner.core.stop import StopKind, Stopper
from runner.core.units import format_bytes
from runner.machine.allocator_probe.probing import Probing
from runner.machine.cuda_processes import shown
from runner.machine.run_monitor import Watch
from runner.plan.job import EXECUTED_SUFFIX, Job
from runner.stages.execute.kernel_environment import kernel_environment
from runner.stages.gate.gate import GateDecision, visibility_env
from runner.stages.record import provenance
from runner.stages.release import sweep

if TYPE_CHECKING:
    from runner.machine.sampler import Latest
    from runner.run.preflight import Checked
    from runner.run.progress import Progress
    from runner.run.recorder import Recorder
    from runner.stages.execute.kernel import Kernel
    from runner.stages.execute.outcome import Facts, Verdict
    from runner.stages.execute.papermill_engine import Manager
    from runner.stages.prepare.staging import Staging
    from runner.stages.record.metrics_builder import Draft


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
        self, job: Job, draft: Draft, decision: GateDecision, stopper: Stopper, recorder: Recorder, progress: Progress
    ) -> None:
        self.job = job
        self.draft = draft
        self.decision = decision
        self.stopper = stopper
        self.recorder = recorder
        self.progress = progress
        self.staging: Staging | None = None
        self.kernel: Kernel | None = None
        self.watch: Watch | None = None
        self.manager: Manager | None = None
        self.facts: Facts | None = None
        self.verdict: Verdict | None = None
        self._marked_as: tuple[Status, bool] | None = None

    def prepare(self, checked: Checked) -> None:
        """Stage data and apply rules and parameters to the notebook that was checked.

        Raises
        ------
        BrokenInputError
            A dataset is not what it should be.
        """
        from runner.stages.prepare.prepare import prepare

        job = self.job
        self.source_notebook, self.kernel_name, source = checked.notebook, checked.kernel, checked.source
        self.source_bytes = checked.source_bytes
        self.draft.source = source
        if job.plan is not None or job.options.offline:  # else nothing is staged, and what that imports stays out
            from runner.stages.prepare.staging import Staging

            self.staging = Staging(job, source.sha256 or "")
            self.draft.warnings += self.staging.served.warnings
        served = self.staging.served if self.staging is not None else None
        prepared = prepare(
            self.source_notebook,
            rules=job.rules,
            parameters=job.parameters,
            replacements=served.replacements if served else {},
            placed=served.placed if served else frozenset(),
            name=job.name,
        )
        self.draft.preparation = prepared.changes
        if self.staging is not None:
            moved = self.staging.set_products_aside(self.stopper.sleep)
            self.draft.note_outputs(products_moved=moved)
            self.draft.preparation = (*self.staging.changes(moved), *prepared.changes)
        if job.expect is not None:
            from runner.stages.expect import expectations

            self.expected_before = expectations.before(job.expect, job.checkout)
        self.notebook = prepared.notebook
        for change in self.draft.preparation:
            log.info("prepared", nb=job.name, rule=change.rule, cell=_number(change.cell_index), detail=change.detail)

    def execute(self) -> None:
        """Run the cells; afterwards the kernel is gone and the verdict stands."""
        from jupyter_core.utils import run_sync

        from runner.stages.execute import shell
        from runner.stages.execute.diagnose import lacks_cuda
        from runner.stages.execute.kernel import Kernel, runs_here

        self.watch = Watch(
            tag=self.recorder.claim.tag,
            samples=self.job.path(".samples.csv"),
            started_monotonic=self.draft.started_monotonic,
            gpus=self.decision.gpus,
            guard_fraction=self.job.options.memory_guard,
            on_breach=self._on_breach,
        )
        self.recorder.opened("samples", ".samples.csv")
        self.watch.sampler.on_tick.append(self._show_memory)
        self.probing = Probing(self.job.options.allocator_probe, self.watch)
        environ = self._kernel_environment() | self.probing.variables()
        self.ucx_tls = environ.get("UCX_TLS")
        if self.decision.gpus and lacks_cuda(self.ucx_tls):
            self.draft.warnings.append(f"UCX_TLS={self.ucx_tls} has no cuda_copy: UCX cannot send arrays on a GPU")
        self.kernel = Kernel(
            self.kernel_name, cwd=self.job.cwd, env=environ, startup=(shell.STARTUP, *self.probing.startup)
        )
        self.draft.environment = provenance.environment(self.job, self.kernel_name, self.kernel.transport)
        with self.watch:
            try:
                self.watch.follow(run_sync(self.kernel.start)())
            except OSError as error:
                raise BrokenInputError(
                    f"the kernel {self.kernel_name!r} cannot be started: {error}", hint="check its kernel spec"
                ) from error
            # The kernel takes most of a second to answer; what is imported meanwhile costs nothing.
            self.provenance = provenance.Provenance(
                self.job.source, self.source_bytes, here=runs_here(self.kernel_name)
            )
            self._execute_cells()

    def _execute_cells(self) -> None:
        import papermill.engines  # noqa: F401  (first: it imports our engine by its entry point)

        from runner.run.observer import Reporter
        from runner.stages.execute import papermill_engine
        from runner.stages.execute.session import Limits, Session

        assert self.kernel is not None
        assert self.watch is not None
        self.notebook.metadata.setdefault("papermill", {})
        self.manager = papermill_engine.Manager(self.notebook, str(self.job.path(EXECUTED_SUFFIX)), progress_bar=False)
        self.manager.redactor = self.recorder.redactor
        if self.manager.saver is not None:
            self.manager.saver.on_saved = self.recorder.claim.saved
        # Whose it is, for a report that finds it without a record: a run that died left it so.
        self.notebook.metadata.runner = {"run_id": self.job.run_id}
        self.manager.notebook_start()
        observer = Reporter(
            self.job.name,
            sum(1 for cell in self.notebook.cells if cell.cell_type == "code"),
            sampler=self.watch.sampler,
            saver=self.manager.saver,
            runlog=self.recorder.runlog,
            claim=self.recorder.claim,
            progress=self.progress,
        )
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
        self.facts, self.verdict = papermill_engine.execute(self.manager, session)
        self._last_words()
        self.probing.collect(self.kernel.folder)
        self._judge(self.facts, self.verdict)

    def _show_memory(self, latest: Latest) -> None:
        self.progress.memory(latest.gpu_total_bytes, latest.host_bytes)

    def _on_breach(self, used_bytes: int) -> None:
        """Kill first, explain later: called by the guard with the container nearly full, until it is not.

        First the kernel's group in one call, then all others of the run, whatever session they are in.
        """
        if self.kernel is not None:
            self.kernel.signal_group(signal.SIGKILL)
        if self.watch is not None:
            self.watch.family.kill()
        limit = self.watch.container.limit_bytes if self.watch else None
        detail = f"{format_bytes(used_bytes)} of {format_bytes(limit)} were in use and could not be reclaimed"
        self.stopper.request(StopKind.MEMORY_GUARD, detail)

    def _kernel_environment(self) -> dict[str, str]:
        """Return the kernel's environment: ours without our own options, then GPUs, plan and run tag."""
        assert self.watch is not None
        environ = kernel_environment(os.environ) | dict(self.job.env)
        if self.job.options.gpu_visibility == "chosen":
            visible = visibility_env(self.decision.gpus, environ)
            self._tell_visibility(visible)
            environ |= visible
        if self.staging is not None:
            environ |= self.staging.served.env
        environ |= self.watch.kernel_environment()
        if proxies.is_set(environ):
            environ |= proxies.exceptions(environ, proxies.LOCAL)
        return environ

    def _tell_visibility(self, visible: Mapping[str, str]) -> None:
        """Say in the log which GPUs the kernel sees, and where the plan or an option wanted others."""
        shown = visible["CUDA_VISIBLE_DEVICES"]
        why = "chosen by the gate" if shown else f"hidden: {self.decision.record.reason}"
        log.info("gpu-visibility", nb=self.job.name, CUDA_VISIBLE_DEVICES=shown, reason=why)
        wanted = self.job.env.get("CUDA_VISIBLE_DEVICES")
        if wanted is not None and wanted != shown:
            self.draft.warnings.append(
                f"CUDA_VISIBLE_DEVICES={wanted!r} was replaced by {shown!r}: the kernel sees the GPUs that the gate "
                "chose (--min-gpus), unless --gpu-visibility all"
            )

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
        from runner.stages.execute import cell_records

        self.draft.end(verdict.status, verdict.reason, verdict.exit_code)
        self.draft.failure = self._failure(facts, verdict)
        self.draft.cells = cell_records.cells(self.notebook, facts, verdict)
        self._warn_of_commands(facts)
        self.draft.note_outputs(figures=sum(cell.figures for cell in self.draft.cells))
        self._mark(judged=self.draft.status is not Status.SUCCEEDED)

    def _warn_of_commands(self, facts: Facts) -> None:
        """Say what a green cell hides: commands that failed, and work that the kernel's end cut off."""
        from runner.stages.execute import shell

        assert self.kernel is not None
        for warning in shell.read(self.kernel.folder, facts.cells):
            cell = next((cell for cell in self.draft.cells if cell.id == warning.cell_id), None)
            if cell is not None:
                self.draft.cells = tuple(
                    dataclasses.replace(each, warnings=(*each.warnings, warning.text)) if each is cell else each
                    for each in self.draft.cells
                )
            where = f"cell {cell.index + 1}: " if cell is not None else ""
            self.draft.warnings.append(f"{where}{warning.text}")

    def _failure(self, facts: Facts, verdict: Verdict) -> Failure | None:
        from runner.machine.host import shm_free_bytes
        from runner.stages.execute import cell_records

        failure = cell_records.failure(
            self.notebook,
            facts,
            verdict,
            last_words=self.last_words,
            shm_free_bytes=shm_free_bytes(),
            gpu_fraction=self._gpu_fraction(),
            cwd=self.job.cwd,
            ucx_tls=self.ucx_tls,
        )
        return self.probing.explain(self._without_gpu(failure)) if failure else None

    def _without_gpu(self, failure: Failure) -> Failure:
        """Name our own part in it where a kernel that was given no GPU looked for one."""
        hidden = self.job.options.gpu_visibility == "chosen" and not self.decision.gpus
        if failure.cause is not Cause.NO_DEVICE or not hidden:
            return failure
        hint = (
            f"the kernel was given no GPU ({self.decision.record.reason}): ask the gate for one with --min-gpus 1 "
            "(plan: requires.gpus), or show the kernel every GPU with --gpu-visibility all"
        )
        return dataclasses.replace(failure, hint=hint)

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

    def mark_lost(self, error: Exception) -> None:
        """Have notebook and page say that the run is lost: no success is shown beside a record that says so."""
        self.draft.fault(error)
        self._mark()

    def _mark(self, *, judged: bool = True) -> None:
        """Make the notebook say how it ended, once for each end.

        Parameters
        ----------
        judged
            False before expectations and release were judged: the success is provisional, as in the record.
        """
        from runner.stages.execute.annotate import add_banners

        assert self.verdict is not None
        assert self.draft.status is not None
        if self._marked_as == (self.draft.status, judged):
            return
        self._marked_as = self.draft.status, judged
        verdict = dataclasses.replace(
            self.verdict, status=self.draft.status, reason=self.draft.reason, exit_code=self.draft.exit_code
        )
        self.notebook.metadata.runner = {
            "status": verdict.status.value,
            "reason": self.recorder.redactor.text(verdict.reason),
            "exit_code": verdict.exit_code,
            "run_id": self.job.run_id,
            **({} if judged else {"provisional": True}),
        }
        add_banners(self.notebook, verdict, self.draft.failure.hint if self.draft.failure else None)
        if self.manager is not None:
            self.manager.save()

    def save(self) -> None:
        """Write the executed notebook if it, or its file, has changed since the last save.

        Raises
        ------
        RecordError
            It cannot be written.
        """
        saver = self.manager.saver if self.manager else None
        if saver is not None and (saver.dirty or not saver.intact):
            saver.save()
            self.draft.note_outputs(saves=saver.saves, save_seconds=round(saver.seconds, 6))

    def release(self, *, seconds_left: Callable[[], float]) -> None:
        """End what is left of the run, prove the release, and join samples with cells.

        Parameters
        ----------
        seconds_left
            How much time there is, asked again and again: a signal may come meanwhile.
        """
        assert self.watch is not None
        cleanup = self.job.options.cleanup_between_notebooks
        release = sweep.release(self.watch, cleanup=cleanup, seconds_left=seconds_left)
        self.draft.release = release
        left = [f"{process.name} (pid {process.pid}, {process.ended_by})" for process in release.swept]
        log.info("release", nb=self.job.name, released=release.released, seconds=release.seconds, swept=len(left))
        if left:
            self.draft.warnings.append(f"processes outlived the kernel: {', '.join(left)}")
        if release.released is False and not self.job.options.strict_release:
            self.draft.warnings.append(f"GPU memory was not released: {release.reason}")
        if release.released is None and self.decision.gpus:
            self.draft.warnings.append(f"whether GPU memory was released is unknown: {release.reason}")
        self._join()

    def _join(self) -> None:
        from runner.stages.execute import cell_records

        assert self.watch is not None
        assert self.facts is not None
        spans = cell_records.spans(self.draft.cells, self.facts, self.draft.started_monotonic)
        self.draft.cells = cell_records.with_use(self.draft.cells, self.watch.cells(spans))
        uses = self.watch.gpu_uses(self.decision.driver, held_seconds=self.draft.seconds())
        self.draft.cells, self.draft.gpus = self.probing.join(self.draft.cells, uses, spans)
        self.draft.allocator_probe = self.probing.record()
        self.draft.warnings += [
            f"others used {gpu.uuid} too, its peaks and utilization are not this notebook's alone: "
            + shown(gpu.neighbours)
            for gpu in self.draft.gpus
            if gpu.neighbours
        ]
        if self.probing.warning:
            self.draft.warnings.append(self.probing.warning)
        self.draft.host = self.watch.host()
        self.draft.sampler = self.watch.sampling()
        if self.watch.guard.problem:
            self.draft.warnings.append(f"the memory guard ended before the run: {self.watch.guard.problem}")
        self.draft.versions = self.provenance.versions
        if self.draft.source is not None:
            self.draft.source = self.provenance.complete(self.draft.source)

    def expect(self) -> None:
        """Compare what a successful notebook left with what the plan expects, then judge the release."""
        from runner.stages.expect import expectations

        if self.draft.status is Status.SUCCEEDED and self.staging is not None:
            self.draft.warnings += self.staging.warnings()
        if self.draft.status is Status.SUCCEEDED and self.job.expect is not None:
            self.draft.expectations = expectations.check(
                self.job.expect,
                checkout=self.job.checkout,
                before=self.expected_before,
                figures=self.draft.outputs.figures,
                executed_nb=self.notebook,
                source_nb=self.source_notebook,
                standing=self.staging.standing if self.staging is not None else (),
            )
            unmet = [e for e in self.draft.expectations if not e.met]
            for e in unmet:
                self.draft.warnings.append(f"expected {e.kind} {e.target}: {e.seen}, needed {e.needed}")
            errors = [e for e in unmet if e.severity == "error"]
            if errors:
                first = errors[0]
                reason = f"{first.kind} {first.target}: {first.seen}, needed {first.needed}"
                self.draft.end(Status.UNEXPECTED_RESULTS, reason)
        if self.draft.status is Status.SUCCEEDED and self.staging is not None:
            self.draft.note_outputs(products=self.staging.record_products())
        release = self.draft.release
        if release is not None and release.released is False and self.job.options.strict_release:
            self.draft.end(Status.NOT_RELEASED, release.reason)
        if self.verdict is not None:
            self._mark()

    def write_html(self) -> int:
        """Write the executed notebook as a page and return its size in bytes."""
        from runner.stages.convert.page import write_page
        from runner.stages.execute.autosave import redacted

        page = write_page(
            redacted(self.notebook, self.recorder.redactor),
            self.job.path(".html"),
            name=self.job.name,
            trust=self.job.options.trust_html,
            folder=self.job.source.parent,
        )
        self.draft.warnings += page.warnings
        return page.bytes

    def close(self) -> None:
        """Leave nothing behind."""
        if self.staging is not None:
            self.staging.close()
        if self.watch is not None:
            self.watch.stop()
        if self.kernel is not None:
            self.kernel.signal_group(signal.SIGKILL)
            self.kernel.remove_folder()
        if self.watch is not None and self.draft.release is None and self.job.options.cleanup_between_notebooks:
            self.watch.family.kill()  # broken off: nobody has swept


def _number(index: int | None) -> int | None:
    """Return a cell's number as people count: what is shown starts at 1, indices in records at 0."""
    return None if index is None else index + 1
