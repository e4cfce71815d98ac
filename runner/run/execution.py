# SPDX-License-Identifier: Apache-2.0
"""Execute a prepared notebook with kernel, sampler and memory guard, and record the result.

Connects the execute stage with the modules of `runner.machine`, which do not depend on each other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.core import files, log, recorded
from runner.core.errors import RecordError
from runner.core.papermill_import import import_papermill
from runner.core.records import Cause, Failure, Status
from runner.core.stop import StopKind
from runner.core.units import format_bytes
from runner.machine.allocator_probe.probing import Probing
from runner.machine.run_monitor import Watch
from runner.plan.job import EXECUTED_SUFFIX
from runner.run import recorder
from runner.stages.gate.gate import GateDecision, visibility_env
from runner.stages.record import provenance

if TYPE_CHECKING:
    from runner.run.context import RunContext
    from runner.run.hold import Hold
    from runner.run.preflight import Checked
    from runner.run.preparation import Preparation
    from runner.stages.execute.executed_notebook import Saver
    from runner.stages.execute.kernel import Kernel
    from runner.stages.execute.kernel_notes import Opened
    from runner.stages.execute.outcome import Facts, NotebookResult
    from runner.stages.execute.papermill_engine import Manager


_LARGEST_DASK_REPORT = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """An executed notebook with its facts and the monitors of the run."""

    checked: Checked
    """The source notebook, including changes by repairs."""
    notebook: Any
    saver: Saver
    facts: Facts
    result: NotebookResult
    watch: Watch
    probing: Probing
    commit: provenance.Commit
    opened: Opened


def execute(run: RunContext, decision: GateDecision, checked: Checked, preparation: Preparation) -> Execution:
    """Run the cells, end the kernel, and record status, cells and failure.

    Raises
    ------
    BrokenInputError
        The kernel cannot be started.
    """
    from jupyter_client.utils import run_sync

    from runner.stages.execute import kernel_notes
    from runner.stages.execute.kernel import Kernel

    job, metrics = run.job, run.metrics

    def on_breach(used_bytes: int) -> None:
        """Kill the run's processes; called by the guard while the container is nearly full."""
        kernel.signal_group(signal.SIGKILL)  # a single call for most of them
        watch.family.kill()  # then all others of the run, in any session
        limit = format_bytes(watch.container.limit_bytes)
        detail = f"{format_bytes(used_bytes)} of {limit} were in use and could not be reclaimed"
        run.stopper.request(StopKind.MEMORY_GUARD, detail)

    watch = Watch(
        tag=run.claim.tag,
        samples=job.path(".samples.csv"),
        started_monotonic=metrics.started_monotonic,
        gpus=decision.gpus,
        guard_fraction=job.options.memory_guard,
        on_breach=on_breach,
    )
    run.files["samples"] = ".samples.csv"
    run.cleanup.callback(_end_unswept, run, watch)
    run.cleanup.callback(watch.stop)
    watch.sampler.on_tick.append(
        lambda latest: run.claim.update(gpu_bytes=latest.gpu_total_bytes, host_bytes=latest.host_bytes)
    )
    probing = Probing(job.options.allocator_probe, watch)
    environ = _environment(run, decision, preparation) | watch.kernel_environment() | probing.variables()
    hook = preparation.staging.served.startup if preparation.staging else ()
    startup = (*kernel_notes.startup(job.checkout), *probing.startup, *hook)
    kernel = Kernel(checked.kernel, cwd=job.cwd, env=environ, startup=startup)
    run.cleanup.callback(kernel.remove_folder)
    run.cleanup.callback(kernel.signal_group, signal.SIGKILL)
    metrics.note(environment=provenance.environment(job, checked.kernel, kernel.transport))
    with watch:
        watch.follow(run_sync(kernel.start)())
        # The kernel takes most of a second to answer; imports in the meantime are free.
        commit = provenance.Commit(job.source, checked.source_bytes)
        manager = _manager(run, preparation.notebook)
        recorder.preload_page(job, preparation.notebook)
        from runner.stages.execute import papermill_engine

        def settle(facts: Facts) -> Execution:
            """Record the result from the facts so far."""
            result = papermill_engine.conclude(manager, facts)
            crash = _crash_output(run, kernel, result)
            probing.collect(kernel.folder)
            _keep_dask_report(run, kernel)
            assert manager.saver is not None
            execution = Execution(
                checked=hold.checked if hold is not None else checked,
                notebook=preparation.notebook,
                saver=manager.saver,
                facts=facts,
                result=result,
                watch=watch,
                probing=probing,
                commit=commit,
                opened=kernel_notes.opened(kernel.folder),
            )
            judge(run, decision, execution, crash_output=crash, ucx_tls=environ.get("UCX_TLS"))
            _warn_of_commands(run, execution, kernel)
            return execution

        hold: Hold | None = None
        if job.hold_seconds:
            from runner.run.hold import Hold

            hold = Hold(run, checked, preparation, watch.family, settle)
        return settle(_run_cells(run, decision, manager, kernel, watch, hold))


def _end_unswept(run: RunContext, watch: Watch) -> None:
    """End the processes of a run that was aborted before `release` swept them."""
    if run.metrics.record.release is None and run.job.options.cleanup_between_notebooks:
        watch.family.kill()


def _environment(run: RunContext, decision: GateDecision, preparation: Preparation) -> dict[str, str]:
    """Return the kernel's environment: this process's without runner's options, then plan, GPUs and datasets."""
    from runner.data.mirror import has_proxy, proxy_exceptions
    from runner.stages.execute.diagnose import lacks_cuda
    from runner.stages.execute.kernel import kernel_environment

    environ = kernel_environment(os.environ) | dict(run.job.env)
    if run.job.options.gpu_visibility == "chosen":
        visible = visibility_env(decision.gpus, environ)
        _log_visibility(run, decision, visible)
        environ |= visible
    if preparation.staging is not None:
        environ |= preparation.staging.served.env
    if has_proxy(environ):
        environ |= proxy_exceptions(environ)
    ucx_tls = environ.get("UCX_TLS")
    if decision.gpus and lacks_cuda(ucx_tls):
        run.metrics.warn(f"UCX_TLS={ucx_tls} has no cuda_copy: UCX cannot send arrays on a GPU")
    return environ


def _log_visibility(run: RunContext, decision: GateDecision, visible: Mapping[str, str]) -> None:
    """Log the GPUs visible to the kernel, and warn if the plan or an option requested others."""
    shown = visible["CUDA_VISIBLE_DEVICES"]
    why = "chosen by the gate" if shown else f"hidden: {decision.record.reason}"
    log.info("gpu-visibility", nb=run.job.name, CUDA_VISIBLE_DEVICES=shown, reason=why)
    wanted = run.job.env.get("CUDA_VISIBLE_DEVICES")
    if wanted is not None and wanted != shown:
        run.metrics.warn(
            f"CUDA_VISIBLE_DEVICES={wanted!r} was replaced by {shown!r}: the kernel sees only the GPUs that the gate "
            "chose (--min-gpus), unless --gpu-visibility all"
        )


def _manager(run: RunContext, notebook: Any) -> Manager:
    """Return papermill's manager for the notebook."""
    import_papermill()  # first: it imports the engine below by its entry point

    from runner.stages.execute.papermill_engine import Manager

    notebook.metadata.setdefault("papermill", {})
    manager = Manager(notebook, str(run.job.path(EXECUTED_SUFFIX)), progress_bar=False)
    manager.redactor = run.redactor
    assert manager.saver is not None  # the output is a local file
    manager.saver.on_saved = run.claim.saved
    # The run, for a report that finds the notebook of a dead run without a record.
    notebook.metadata.runner = {"run_id": run.job.run_id}
    manager.notebook_start()
    return manager


def _run_cells(
    run: RunContext, decision: GateDecision, manager: Manager, kernel: Kernel, watch: Watch, hold: Hold | None
) -> Facts:
    """Run the cells in the started kernel."""
    from runner.run.observer import Reporter
    from runner.stages.execute import papermill_engine
    from runner.stages.execute.session import Limits, Session

    job, saver = run.job, manager.saver
    assert saver is not None
    session = Session(
        manager,
        kernel,
        run.stopper,
        limits=Limits(
            notebook_seconds=job.notebook_seconds,
            cell_seconds=job.cell_seconds,
            start_seconds=job.start_seconds,
            allow_errors=job.allow_errors,
        ),
        observer=Reporter(run, manager.nb, sampler=watch.sampler, saver=saver),
        redactor=run.redactor,
        log_name=job.path(".log").name,
        cleanup=job.options.cleanup_between_notebooks and bool(decision.gpus),
        save=saver.save_if_due,
        hold=hold,
        oom_kills=watch.oom_kills,
    )
    return papermill_engine.run_session(session)


def _crash_output(run: RunContext, kernel: Kernel, result: NotebookResult) -> str:
    """Copy a dying kernel's output to the log, and return it."""
    fault, stderr = (run.redactor.text(text) for text in kernel.crash_output())
    died = result.status in {Status.KERNEL_DIED, Status.INCOMPLETE}
    for title, text in (("faulthandler", fault), ("kernel stderr", stderr if died else "")):
        if text.strip():
            run.runlog.event(f"--- {title} ---")
            run.runlog.printed(text)
    return f"{fault}\n{stderr}"


def _keep_dask_report(run: RunContext, kernel: Kernel) -> None:
    """Copy the report of the notebook's Dask cluster, if any, to the outputs."""
    with contextlib.suppress(OSError, RecordError):
        text = files.read(kernel.folder / "dask.html", _LARGEST_DASK_REPORT).decode(errors="replace")
        files.write(run.job.path(".dask.htm"), run.redactor.text(text))
        run.files["dask"] = ".dask.htm"


def judge(
    run: RunContext, decision: GateDecision, execution: Execution, *, crash_output: str, ucx_tls: str | None
) -> None:
    """Record status, cells and failure, and write the status to the notebook."""
    from runner.machine.host import shm_free_bytes
    from runner.stages.execute import cell_records

    notebook, facts, result, metrics = execution.notebook, execution.facts, execution.result, run.metrics
    metrics.end(result.status, result.reason, result.exit_code)
    failure = cell_records.failure(
        notebook,
        facts,
        result,
        crash_output=crash_output,
        shm_free_bytes=shm_free_bytes(),
        gpu_fraction=_gpu_fraction(execution.watch),
        cwd=run.job.cwd,
        ucx_tls=ucx_tls,
    )
    cells = cell_records.cells(notebook, facts, result)
    if failure is not None:
        failure = execution.probing.explain(_without_gpu(run, decision, failure))
    metrics.note(failure=failure, cells=cells, recorded=run.redactor.tree(recorded.read(notebook), keys=True))
    metrics.note_outputs(figures=sum(cell.figures for cell in cells))
    mark(run, execution, provisional=metrics.record.status is Status.SUCCEEDED)


def mark(run: RunContext, execution: Execution, *, provisional: bool = False) -> None:
    """Write the status of the run to the notebook.

    Parameters
    ----------
    provisional
        Expectations and release are not checked yet, so a success is not final.
    """
    from runner.stages.execute.executed_notebook import add_banners

    record, notebook = run.metrics.record, execution.notebook
    reported = {
        "status": record.status.value,
        "reason": run.redactor.text(record.reason),
        "exit_code": record.exit_code,
        "run_id": run.job.run_id,
        **({"provisional": True} if provisional else {}),
    }
    if notebook.metadata.runner == reported:
        return
    notebook.metadata.runner = reported
    result = dataclasses.replace(execution.result, status=record.status, reason=record.reason)
    add_banners(notebook, result, record.failure.hint if record.failure else None)
    execution.saver.dirty = True


def _warn_of_commands(run: RunContext, execution: Execution, kernel: Kernel) -> None:
    """Warn about problems of successful cells: failed commands, and work interrupted by the kernel's end."""
    from runner.stages.execute import kernel_notes

    for warning in kernel_notes.warnings(kernel.folder, execution.facts.cells):
        cells = run.metrics.record.cells
        cell = next((cell for cell in cells if cell.id == warning.cell_id), None)
        if cell is not None:
            warned = dataclasses.replace(cell, warnings=(*cell.warnings, warning.text))
            run.metrics.note(cells=tuple(warned if each is cell else each for each in cells))
        run.metrics.warn(f"cell {cell.index + 1}: {warning.text}" if cell else warning.text)


def _without_gpu(run: RunContext, decision: GateDecision, failure: Failure) -> Failure:
    """Replace the hint if the kernel failed because it was given no GPU."""
    hidden = run.job.options.gpu_visibility == "chosen" and not decision.gpus
    if failure.cause is not Cause.NO_DEVICE or not hidden:
        return failure
    hint = (
        f"the kernel was given no GPU ({decision.record.reason}): request one with --min-gpus 1 "
        "(plan: requires.gpus), or make all GPUs visible with --gpu-visibility all"
    )
    return dataclasses.replace(failure, hint=hint)


def _gpu_fraction(watch: Watch) -> float | None:
    """Return the largest share of a GPU's memory in use at the last tick."""
    latest = watch.sampler.latest
    used = latest.gpu_used_bytes if latest else {}
    return max(
        (used[gpu.uuid] / gpu.total_bytes for gpu in watch.gpus if gpu.total_bytes and used.get(gpu.uuid) is not None),
        default=None,
    )
