# SPDX-License-Identifier: Apache-2.0
"""The papermill engine named ``runner``: kernel handling and truthful metadata for papermill's users.

``papermill --engine runner in.ipynb out.ipynb`` runs cells as `runner run` does. papermill does
the last write and adds its banner; the metadata is written here.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_client.utils import run_sync
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.engines import Engine, NotebookExecutionManager
from papermill.iorw import LocalHandler, papermill_io

from runner.core.errors import RecordError
from runner.core.notebook_document import check_metadata, check_shape, mark_skipped
from runner.core.records import Status
from runner.core.redact import Redactor
from runner.core.stop import Stopper
from runner.machine.processes import KILL_SECONDS, RUN_TAG, TERM_SECONDS, Family
from runner.stages.execute.client import Observer
from runner.stages.execute.executed_notebook import SHORTEST_SECONDS, Saver, code_cells, mark, notebook_bytes
from runner.stages.execute.kernel import Kernel
from runner.stages.execute.outcome import Facts, NotebookResult, derive
from runner.stages.execute.session import Limits, Session


def _local(output_path: str | None) -> Path | None:
    """Return the file that papermill would write, None for a store, stdout or no output.

    With ``--cwd`` the process runs in the notebook's folder, but outputs are relative to the caller's.
    """
    handler = papermill_io.get_handler(output_path)
    return Path(handler._cwd or "", str(output_path)) if isinstance(handler, LocalHandler) else None  # noqa: SLF001


class Manager(NotebookExecutionManager):  # type: ignore[misc]
    """papermill's manager without its two full writes per cell; `Saver` schedules the writes."""

    def __init__(self, nb: Any, output_path: str | None = None, **options: Any) -> None:
        super().__init__(nb, output_path=output_path, **options)
        self.saver: Saver | None = None
        self.settle: Callable[[], None] = lambda: None
        self.redactor = Redactor()
        """Applied to the whole document: secrets may occur in sources and in the state of widgets."""
        path = _local(output_path)
        if path is not None:
            self.saver = Saver(path, self._content, options.get("autosave_cell_every", SHORTEST_SECONDS))

    def _content(self) -> bytes:
        self.settle()
        return notebook_bytes(self.nb, self.redactor)

    def save(self, **_: Any) -> None:
        """Mark the notebook as changed."""
        if self.saver is not None:
            self.saver.dirty = True

    def cell_complete(self, *arguments: Any, **options: Any) -> None:
        """Mark the end of a cell, after which to save."""
        if self.saver is not None:
            self.saver.cell_ended = True
        super().cell_complete(*arguments, **options)

    def autosave_cell(self) -> None:
        """Do nothing: `Saver` schedules the writes."""

    def write(self) -> None:
        """Save now, to a file or a store."""
        if self.saver is not None:
            self.saver.save()
        elif self.output_path:
            super().save()

    def notebook_complete(self, **_: Any) -> None:
        """Set the times; unlike papermill, keep the status of cells."""
        self.end_time = self.now()
        self.nb.metadata.papermill["end_time"] = self.end_time.isoformat()
        if self.start_time:
            self.nb.metadata.papermill["duration"] = (self.end_time - self.start_time).total_seconds()
        self.cleanup_pbar()


class RunnerEngine(Engine):  # type: ignore[misc]
    """Runs a notebook for papermill."""

    @classmethod
    def execute_notebook(
        cls,
        nb: Any,
        kernel_name: str,
        output_path: str | None = None,
        progress_bar: bool | dict[str, Any] = True,
        log_output: bool = False,
        autosave_cell_every: int = 30,
        **kwargs: Any,
    ) -> Any:
        """Run the notebook and write truthful metadata, even if this raises.

        Raises
        ------
        BrokenInputError
            The notebook is damaged.
        nbclient.exceptions.DeadKernelError
            The kernel died or ended itself.
        nbclient.exceptions.CellTimeoutError
            A deadline passed.
        SystemExit
            A signal ended the run; everything is saved.
        """
        name = Path(str(kwargs.get("input_path") or "for papermill"))
        check_shape(nb, name)
        check_metadata(nb, name)
        mark_skipped(nb)
        manager = Manager(
            nb,
            output_path=output_path,
            progress_bar=progress_bar,
            log_output=log_output,
            autosave_cell_every=autosave_cell_every,
        )
        manager.notebook_start()
        result = cls.execute_managed_notebook(manager, kernel_name, log_output=log_output, **kwargs)
        _raise(result)
        return manager.nb

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Manager,
        kernel_name: str,
        *,
        log_output: bool = False,
        stdout_file: Any = None,
        stderr_file: Any = None,
        start_timeout: float = 60,
        execution_timeout: float | None = None,
        cleanup: bool = True,
        **_: Any,
    ) -> NotebookResult:
        """Run the cells; papermill's options have their usual meaning.

        Parameters
        ----------
        cleanup
            End leftover processes of the notebook, as `runner run` does; from Python,
            ``papermill.execute_notebook(..., cleanup=False)`` keeps them.
        """
        stopper = Stopper()
        tag = uuid.uuid4().hex
        family = Family(tag)
        kernel = Kernel(kernel_name, cwd=Path.cwd(), env={**os.environ, RUN_TAG: tag})
        session = Session(
            nb_man,
            kernel,
            stopper,
            limits=Limits(cell_seconds=execution_timeout, start_seconds=start_timeout),
            observer=_Echo(nb_man, log_output=log_output, files={"stdout": stdout_file, "stderr": stderr_file}),
            on_kernel=family.watch,
            save=nb_man.saver.save_if_due if nb_man.saver else None,
        )
        try:
            # Signals can be handled in the main thread only.
            main = threading.current_thread() is threading.main_thread()
            with stopper.on_signals() if main else contextlib.nullcontext():
                result = conclude(nb_man, run_session(session))
        finally:
            if cleanup:
                family.sweep(TERM_SECONDS, KILL_SECONDS)
            kernel.remove_folder()
        with contextlib.suppress(RecordError):
            nb_man.write()
        return result


def run_session(session: Session) -> Facts:
    """Run a session to its end, even within a running event loop."""
    facts: Facts = run_sync(session.run)()
    return facts


def conclude(manager: Manager, facts: Facts) -> NotebookResult:
    """Derive the result from the facts, write it to the notebook's metadata, and return it."""
    result = derive(code_cells(manager.nb), facts)
    mark(manager.nb, result, facts)
    manager.notebook_complete()
    return result


class _Echo(Observer):
    """Forwards printed text to papermill's log and files."""

    def __init__(self, manager: Manager, *, log_output: bool, files: dict[str, Any]) -> None:
        self._manager = manager
        self._log_output = log_output
        self._files = files

    def printed(self, name: str, text: str) -> None:
        from papermill.log import logger

        if self._log_output:
            (logger.info if name == "stdout" else logger.warning)(text)
        if self._files.get(name):
            self._files[name].write(text)
            self._files[name].flush()

    def changed(self) -> None:
        self._manager.save()


def _raise(result: NotebookResult) -> None:
    if result.status is Status.TERMINATED:
        raise SystemExit(result.exit_code)
    if result.status is Status.TIMED_OUT:
        raise CellTimeoutError(result.reason)
    if result.kernel_ended:
        raise DeadKernelError(result.reason)
