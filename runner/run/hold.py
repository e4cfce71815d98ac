# SPDX-License-Identifier: Apache-2.0
"""Hold a failed notebook: save its results, keep kernel and GPU, and wait for a repair to continue."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import shlex
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from runner.core import log
from runner.core.endings import error_of
from runner.core.errors import RunnerError, UsageError
from runner.core.surrogates import without_colours
from runner.core.units import format_seconds
from runner.outputs.repair_channel import Channel, listening, refusal
from runner.run.recorder import Recorder, convert
from runner.run.repair import Repair, apply, plan_repair
from runner.stages.execute.executed_notebook import remove_banners
from runner.stages.execute.kernel import syntax_problem
from runner.stages.execute.outcome import Facts

if TYPE_CHECKING:
    import socket

    from runner.machine.processes import Family
    from runner.run.context import RunContext
    from runner.run.execution import Execution
    from runner.run.preflight import Checked
    from runner.run.preparation import Preparation
    from runner.stages.execute.session import Session

_POLL_SECONDS = 0.1


class Hold:
    """Holds a run with a failed notebook; called by the session.

    Parameters
    ----------
    checked
        The source notebook; updated by repairs.
    family
        The processes of the notebook, which may not repair it.
    settle
        Records and marks a failure from the facts.
    """

    def __init__(
        self,
        run: RunContext,
        checked: Checked,
        preparation: Preparation,
        family: Family,
        settle: Callable[[Facts], Execution],
    ) -> None:
        self.checked = checked
        self._run = run
        self._preparation = preparation
        self._family = family
        self._settle = settle
        self._open: set[Channel] = set()
        self._decision: asyncio.Future[Repair | None]
        self._why = ""

    async def __call__(self, session: Session, position: int) -> int | None:
        """Wait for a repair and return the position to continue from, None if the hold ended without one."""
        run, seconds = self._run, self._run.job.hold_seconds
        began, before = time.monotonic(), run.metrics.record
        self._decision = asyncio.get_running_loop().create_future()
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        held_until = until.isoformat(timespec="seconds").replace("+00:00", "Z")
        shown = self._save(session)
        hello = self._hello(session, position, held_until)
        page = asyncio.create_task(asyncio.to_thread(self._write_page, shown))
        with contextlib.ExitStack() as stack:
            try:
                listener, path = stack.enter_context(listening())
            except OSError as error:
                self._why = f"it cannot listen for repairs: {error}"
                self._decision.set_result(None)
            else:
                run.claim.publish(socket=str(path), held_until=held_until)
                self._announce(hello)
                accepting = asyncio.create_task(self._accept(listener, session, position, hello))
                await self._wait(session, seconds)
                accepting.cancel()
        run.claim.publish(socket=None, held_until=None)
        await page
        for channel in self._open - {*run.repairs}:
            channel.close()
        repair = self._decision.result()
        held = time.monotonic() - began
        run.metrics.record = before
        run.metrics.note(held_seconds=round((before.held_seconds or 0.0) + held, 3))
        if repair is None:
            run.metrics.warn(f"held for {format_seconds(held)} after the failure: {self._why}")
            log.warning("hold-ended", nb=run.job.name, reason=self._why)
            return None
        self._apply(session, repair, hello)
        return repair.start

    def _announce(self, hello: Mapping[str, Any]) -> None:
        """Report the hold to the log, the terminal and waiting repairs."""
        run = self._run
        command = ["runner", "repair", run.job.name, "--retry", "--output-dir", str(run.job.output_dir)]
        log.warning(
            "held",
            nb=run.job.name,
            cell=hello["cell"],
            until=hello["held_until"],
            error=hello["error"],
            go_on=shlex.join(command),
        )
        run.notify_repairs(held=hello)
        run.close_repairs()

    def _save(self, session: Session) -> Any:
        """Save notebook and record as after a failure; return a copy of the notebook for the page."""
        recorder, facts = Recorder(self._run), Facts(cells=session.events, runs=session.runs)
        execution = self._settle(facts)
        recorder.save_notebook(execution.saver)
        recorder.write_early("held")
        shown = copy.deepcopy(execution.notebook)
        remove_banners(execution.notebook)  # outputs are assigned to cells by position
        return shown

    def _write_page(self, notebook: Any) -> None:
        convert(self._run, notebook, signal_seconds=0.0)
        Recorder(self._run).write_early("held")

    def _hello(self, session: Session, position: int, held_until: str) -> dict[str, Any]:
        """Return the first message to a repair."""
        job, failure = self._run.job, self._run.metrics.record.failure
        assert failure is not None
        text = self._run.redactor.text
        return {
            "notebook": job.name,
            "output_dir": str(job.output_dir),
            "cell": self._number(session, position),
            "error": text(error_of(failure)),
            "traceback": text(without_colours(failure.traceback_tail or "")),
            "held_until": held_until,
            "log": str(job.path(".log")),
        }

    @staticmethod
    def _number(session: Session, position: int) -> int | str:
        index = session.nb_man.nb.cells[position].metadata.runner.get("index")
        return "inserted" if index is None else index + 1

    async def _wait(self, session: Session, seconds: float) -> None:
        """Wait for the end of the hold: a repair, the deadline, a stop request or the kernel's death."""
        deadline = time.monotonic() + seconds
        while not self._decision.done():
            if session.stopper.stop is not None:
                self._why = session.stopper.stop.detail
            elif not session.kernel.alive:
                self._why = "its kernel ended"
            elif time.monotonic() >= deadline:
                self._why = f"no repair within {format_seconds(seconds)}"
            else:
                await asyncio.wait({self._decision}, timeout=_POLL_SECONDS)
                continue
            self._decision.set_result(None)

    async def _accept(self, listener: socket.socket, session: Session, position: int, hello: Mapping[str, Any]) -> None:
        listener.setblocking(False)
        talks = set()
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            connection.setblocking(True)
            talk = asyncio.create_task(self._talk(Channel(connection), session, position, hello))
            talks.add(talk)
            talk.add_done_callback(talks.discard)

    async def _talk(self, channel: Channel, session: Session, position: int, hello: Mapping[str, Any]) -> None:
        """Serve a connection."""
        self._open.add(channel)
        with contextlib.suppress(OSError, ValueError):
            if problem := refusal(channel.peer, {one.pid for one in self._family.survivors()}):
                log.warning("repair-refused", nb=self._run.job.name, pid=channel.peer.pid, reason=problem)
                await asyncio.to_thread(channel.send, error=problem)
            else:
                await asyncio.to_thread(channel.send, **hello)
                request = await asyncio.to_thread(channel.receive)
                if request is not None:
                    await self._answer(channel, request, session, position)
        if channel not in self._run.repairs:
            channel.close()
        self._open.discard(channel)

    async def _answer(self, channel: Channel, request: Mapping[str, Any], session: Session, position: int) -> None:
        try:
            repair = await self._repair(request, session, position)
        except Exception as error:  # noqa: BLE001  (no error of a repair ends the hold)
            text = self._run.redactor.text
            message, hint = (error.message, error.hint) if isinstance(error, RunnerError) else (repr(error), None)
            await asyncio.to_thread(channel.send, error=text(message), hint=text(hint or ""))
            return
        self._run.repairs.append(channel)
        if repair is None:
            self._why = "given up by `runner repair --give-up`"
        self._decision.set_result(repair)
        await asyncio.to_thread(channel.send, progress=repair.summary if repair else ["given up"])

    async def _repair(self, request: Mapping[str, Any], session: Session, position: int) -> Repair | None:
        """Return the requested repair, None to give up.

        Raises
        ------
        RunnerError
            It cannot work or is too late.
        """
        repair = None if request.get("give_up") else await self._planned(request, session, position)
        if self._decision.done():
            raise UsageError("the hold has just ended", hint="see the log")
        return repair

    async def _planned(self, request: Mapping[str, Any], session: Session, position: int) -> Repair:
        repair = plan_repair(
            request,
            executed=session.nb_man.nb,
            source=self.checked.notebook,
            prepare=self._preparation.prepare,
            failed=position,
        )
        assert session.client is not None
        for number, cell in repair.changed:
            if problem := await syntax_problem(session.client.kc, cell.source):
                raise UsageError(f"cell {number} cannot be compiled: {problem}", hint="correct it; the hold continues")
        return repair

    def _apply(self, session: Session, repair: Repair, hello: Mapping[str, Any]) -> None:
        """Apply the repair to the running notebook, and record it."""
        run = self._run
        self.checked = apply(repair, session.nb_man.nb, self.checked)
        session.nb_man.nb.metadata.runner = {"run_id": run.job.run_id}
        run.metrics.note(repaired=True, preparation=(*self._preparation.staged, *repair.changes))
        changed = ", ".join(str(number) for number, _ in repair.changed) or "none"
        start = self._number(session, repair.start)
        failed = f"{hello['error']} in cell {hello['cell']}"
        run.metrics.warn(f"repaired after {failed}: continued from cell {start}, changed cells: {changed}")
        log.info("repaired", nb=run.job.name, cell=start, changed=changed)
        with contextlib.suppress(OSError):
            run.job.path(".metrics.json").unlink()  # the failure is repaired
