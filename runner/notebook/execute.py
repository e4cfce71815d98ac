# SPDX-License-Identifier: Apache-2.0
"""Runs the cells of a prepared notebook in a kernel and collects the facts.

The client is papermill's (and so nbclient's) with three differences: outputs are bounded and
redacted as they arrive, a dead kernel is noticed within a tenth of a second, and every end
that is not the notebook's own (deadline, signal, guard) comes through one `Stopper`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from queue import Empty
from typing import TYPE_CHECKING, Any

from nbclient.exceptions import CellExecutionComplete, CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient

from runner import log
from runner.errors import RecordError
from runner.log import utc_now
from runner.notebook.outputs import Stream
from runner.notebook.status import CellEvent, Facts, Outcome
from runner.redact import RedactedStream, Redactor
from runner.stop import Stop, StopKind, Stopper
from runner.units import format_seconds

if TYPE_CHECKING:
    from runner.notebook.kernel import Kernel

INTERRUPT_GRACE_SECONDS = 2.0
PIECE_CHARS = 1_000_000
COLLECT_CHARS = 32_000_000
IOPUB_SECONDS = 120
# nbclient's own 4 s raise on a 50 MB image; a kernel that is alive is worth waiting for.

# Runs in the kernel before it ends. A courtesy to allocators with their own exit hooks; only the
# end of the process frees the device, and only `release` proves it.
_COURTESY = """
def _(sys=__import__('sys')):
    __import__('gc').collect()
    if 'cupy' in sys.modules:
        sys.modules['cupy'].get_default_memory_pool().free_all_blocks()
        sys.modules['cupy'].get_default_pinned_memory_pool().free_all_blocks()
    if 'rmm' in sys.modules:
        sys.modules['rmm'].reinitialize(pool_allocator=False)
_()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Deadlines of a run; None means none."""

    notebook_seconds: float | None = None
    cell_seconds: float | None = None
    start_seconds: float = 120.0


class Observer:
    """What happens, as it happens. Subclass what you want to hear; every method is quick."""

    def cell_started(self, cell: NotebookNode, position: int) -> None:
        """Hear that a cell was sent to the kernel."""

    def cell_ended(self, cell: NotebookNode, position: int, event: CellEvent) -> None:
        """Hear that a cell came to its end, whatever kind."""

    def printed(self, name: str, text: str) -> None:
        """Hear what a cell wrote to stdout or stderr; the text is redacted and whole."""

    def changed(self) -> None:
        """Hear that the notebook has something that is not saved yet."""


class NotebookClient(PapermillNotebookClient):  # type: ignore[misc]
    """papermill's client with bounded, redacted outputs."""

    def __init__(self, nb_man: Any, kernel: Kernel, *, observer: Observer, redactor: Redactor, log_name: str) -> None:
        super().__init__(nb_man, km=kernel.manager, iopub_timeout=IOPUB_SECONDS, raise_on_iopub_timeout=True)
        self.kernel = kernel
        self.observer = observer
        self.redactor = redactor
        self.log_name = log_name
        self._streams: dict[int, Stream] = {}
        """Streams of the current cell by the identity of their output."""
        self._redacted: dict[str, RedactedStream] = {}
        self._printed_chars = 0
        self.asked_to_exit = False
        """The current cell called ``quit()``: the kernel lives on, but the notebook wants to end."""
        self.on_cell_executed = self._look_for_exit

    def _look_for_exit(self, *, execute_reply: dict[str, Any], **_: Any) -> None:
        payload = execute_reply["content"].get("payload") or []
        self.asked_to_exit = any(item.get("source") == "ask_exit" for item in payload)

    async def _async_poll_kernel_alive(self) -> None:
        """Notice the kernel's death at once, but let its last messages arrive."""
        while self.kernel.alive:  # noqa: ASYNC110  (a process has no event to wait for)
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.3)
        if self.task_poll_for_reply is not None:
            self.task_poll_for_reply.cancel()

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        """Handle one message of the kernel as nbclient does, and tell the observer."""
        if self.redactor and msg["msg_type"].startswith("comm"):
            msg = {**msg, "content": self.redactor.tree(msg["content"])}
        try:
            output = super(PapermillNotebookClient, self).process_message(msg, cell, cell_index)
        except CellExecutionComplete:
            raise
        except Exception as error:  # noqa: BLE001  (nbclient trusts what widgets send; a notebook must not end by that)
            log.warning("message-ignored", type=msg["msg_type"], reason=repr(error))
            return None
        if msg["msg_type"] != "status":
            self.observer.changed()
        return output

    def output(
        self, outs: list[NotebookNode], msg: dict[str, Any], display_id: str | None, cell_index: int
    ) -> NotebookNode | None:
        """Add an output: streams bounded, everything redacted."""
        hooked = bool(self.output_hook_stack[msg["parent_header"].get("msg_id")])
        if msg["msg_type"] == "stream" and not hooked and not self.clear_before_next_output:
            return self._print(outs, msg["content"]["name"], msg["content"]["text"])
        if self.redactor:
            msg = {**msg, "content": self.redactor.tree(msg["content"])}
        if msg["msg_type"] == "error":
            self.observer.printed("stderr", "\n".join(msg["content"].get("traceback", [])) + "\n")
        return super().output(outs, msg, display_id, cell_index)

    def _update_display_id(self, display_id: str, msg: dict[str, Any]) -> None:
        if self.redactor:
            msg["content"] = self.redactor.tree(msg["content"])
        super()._update_display_id(display_id, msg)

    def _print(self, outs: list[NotebookNode], name: str, text: str) -> NotebookNode | None:
        """Add printed text in pieces: a kernel may send tens of megabytes in one message."""
        redacted = self._redacted.setdefault(name, self.redactor.stream())
        node = None
        for start in range(0, len(text), PIECE_CHARS):
            piece = redacted.feed(text[start : start + PIECE_CHARS])
            if piece:
                self.observer.printed(name, piece)
                stream = self._stream(outs, name)
                stream.write(piece)
                node = stream.node
        self._printed_chars += len(text)
        if self._printed_chars >= COLLECT_CHARS:
            # Messages lie in cycles of asyncio's futures, and a few megabytes in few objects do not
            # make the garbage collector run by itself.
            self._printed_chars = 0
            gc.collect()
        return node

    def _stream(self, outs: list[NotebookNode], name: str) -> Stream:
        """Return the stream to append to: one of the streams at the end of the outputs, or a new one."""
        for node in reversed(outs):
            if node.output_type != "stream":
                break
            if node.name == name and id(node) in self._streams:
                return self._streams[id(node)]
        node = NotebookNode(output_type="stream", name=name, text="")
        outs.append(node)
        stream = self._streams[id(node)] = Stream(node, self.log_name)
        return stream

    def settle(self) -> None:
        """Write the bounded text of the current cell's streams into the notebook."""
        for stream in self._streams.values():
            stream.settle()

    def end_cell(self, cell: NotebookNode) -> int:
        """Finish the cell's streams and return how many characters stand in the log only."""
        for name, redacted in self._redacted.items():
            rest = redacted.flush()
            if rest:
                self.observer.printed(name, rest)
                self._stream(cell.outputs, name).write(rest)
        self.settle()
        dropped = sum(stream.dropped_chars for stream in self._streams.values())
        self._streams.clear()
        self._redacted.clear()
        return dropped


@dataclass(slots=True)
class Session:
    """One execution: cells in, facts out.

    Parameters
    ----------
    nb_man
        papermill's manager; holds the notebook and saves it.
    kernel
        The kernel, started or not.
    stopper
        Where requests to end come from and where deadlines are announced.
    """

    nb_man: Any
    kernel: Kernel
    stopper: Stopper
    limits: Limits = field(default_factory=Limits)
    observer: Observer = field(default_factory=Observer)
    redactor: Redactor = field(default_factory=Redactor)
    log_name: str = "the log"
    courtesy: bool = False
    on_kernel: Callable[[int], None] | None = None
    save: Callable[[], Awaitable[None]] | None = None
    oom_kills: Callable[[], int] = lambda: 0
    events: dict[str, CellEvent] = field(default_factory=dict)
    client: NotebookClient | None = None
    _cell_done: asyncio.Event = field(default_factory=asyncio.Event)
    _ending: asyncio.Task[None] | None = None

    async def run(self) -> Facts:
        """Run the notebook; whatever happens, the kernel is gone afterwards."""
        loop = asyncio.get_running_loop()

        def listener(stop: Stop) -> None:
            loop.call_soon_threadsafe(self._begin_end, stop)

        self.stopper.listen(listener)
        deadline = None
        if self.limits.notebook_seconds:
            text = f"the notebook did not end within {format_seconds(self.limits.notebook_seconds)}"
            deadline = loop.call_later(
                self.limits.notebook_seconds, self.stopper.request, StopKind.NOTEBOOK_TIMEOUT, text
            )
        saver = asyncio.create_task(self._save_regularly()) if self.save else None
        reader: asyncio.Task[None] | None = None
        problem, dead, returncode = None, False, None
        try:
            problem = await self._start()
            if problem is None:
                await self._cells()
            dead = not self.kernel.alive
            returncode = self.kernel.returncode if dead else None
            reader = asyncio.create_task(self._take_late_outputs())
            if problem is None and not dead and self.stopper.stop is None and self.courtesy:
                await self._be_courteous()
        finally:
            if deadline:
                deadline.cancel()
            if saver:
                saver.cancel()
            await self._end_kernel()
            if reader:
                reader.cancel()
            self._close()
        return Facts(
            cells=self.events,
            stop=self.stopper.stop,
            kernel_returncode=returncode,
            kernel_dead=dead and problem is None,
            start_problem=problem,
            oom_kills=self.oom_kills(),
        )

    async def _start(self) -> str | None:
        """Bring the kernel to answer; return why it did not."""
        try:
            if self.kernel.pid is None:
                await self.kernel.start()
        except Exception as error:  # noqa: BLE001  (a provisioner or a kernel spec may raise anything)
            return f"{type(error).__name__}: {error}"
        if self.on_kernel is not None and self.kernel.pid is not None:
            self.on_kernel(self.kernel.pid)
        self.client = NotebookClient(
            self.nb_man, self.kernel, observer=self.observer, redactor=self.redactor, log_name=self.log_name
        )
        self.nb_man.settle = self.client.settle
        self.client.reset_execution_trackers()
        kc = self.client.kc = self.kernel.client()
        return await self._answer(kc)

    async def _answer(self, kc: Any) -> str | None:
        """Wait for the kernel's answer on both channels, so that no first output is missed.

        Both are read at once: a kernel whose outputs nobody takes waits instead of answering.
        """
        deadline = time.monotonic() + self.limits.start_seconds
        asked: set[str] = set()
        while self.stopper.stop is None:
            if not self.kernel.alive:
                return f"its process ended with exit status {self.kernel.returncode} while it started"
            if time.monotonic() > deadline:
                return f"no answer within {format_seconds(self.limits.start_seconds)}"
            asked.add(kc.kernel_info())
            reply, heard = await asyncio.gather(
                _matching(kc.shell_channel, asked, 2.0), _matching(kc.iopub_channel, asked, 2.0)
            )
            if reply is not None and heard is not None:
                self.nb_man.nb.metadata["language_info"] = reply["content"].get("language_info", {})
                return None
        return None

    async def _cells(self) -> None:
        for position, cell in enumerate(self.nb_man.nb.cells):
            mark = cell.metadata.get("runner", {})
            if cell.cell_type != "code" or not cell.source.strip() or mark.get("dropped"):
                continue
            if self.stopper.stop is not None or not self.kernel.alive:
                return
            event = await self._cell(cell, position)
            if event.outcome != "ok":
                return

    async def _cell(self, cell: NotebookNode, position: int) -> CellEvent:
        """Run one cell under its deadline and tell what became of it."""
        assert self.client is not None
        started_at, started = utc_now(), time.monotonic()
        self.nb_man.cell_start(cell, position)
        self.observer.cell_started(cell, position)
        self._cell_done.clear()
        self.client.asked_to_exit = False
        with self._cell_deadline():
            outcome, name, message = await self._attempt(cell, position)
        self._cell_done.set()
        raised = _error_output(cell)
        if raised is not None:
            name, message = raised.ename, raised.evalue
        elif outcome == "ok" and self.client.asked_to_exit:
            name, message = "SystemExit", "quit"
        if name == "SystemExit":  # the notebook ends itself, whatever the cell's tags allow
            outcome = "error"
        dropped = self.client.end_cell(cell)
        if dropped:
            log.warning("output-truncated", cell=position, characters=dropped, whole_text_in=self.log_name)
        event = CellEvent(
            id=cell.id,
            started_at=started_at,
            started_monotonic=started,
            ended_monotonic=time.monotonic(),
            outcome=outcome,
            error_name=name,
            error_message=self.redactor.text(message) if message else message,
            traceback=tuple(raised.traceback) if raised is not None else (),
        )
        self.events[cell.id] = event
        if outcome != "ok":
            self.nb_man.cell_exception(cell, cell_index=position)
        self.nb_man.cell_complete(cell, cell_index=position)
        self.observer.cell_ended(cell, position, event)
        self.observer.changed()
        return event

    async def _attempt(self, cell: NotebookNode, position: int) -> tuple[Outcome, str | None, str | None]:
        """Send the cell to the kernel; return the outcome, and name and message of what was raised."""
        assert self.client is not None
        try:
            await self.client.async_execute_cell(cell, position)
        except CellExecutionError as error:
            return "error", error.ename, error.evalue
        except (DeadKernelError, CellTimeoutError, Empty, RuntimeError) as error:
            if self.kernel.alive and self.stopper.stop is None:
                log.warning("kernel-silent", cell=position, reason=str(error))
                self.kernel.signal_group(signal.SIGKILL)
                await self.kernel.ended(5)
            return "unfinished", None, str(error)
        return "ok", None, None

    @contextlib.contextmanager
    def _cell_deadline(self) -> Iterator[None]:
        seconds = self.limits.cell_seconds
        if not seconds:
            yield
            return
        text = f"the cell did not end within {format_seconds(seconds)}"
        timer = asyncio.get_running_loop().call_later(seconds, self.stopper.request, StopKind.CELL_TIMEOUT, text)
        try:
            yield
        finally:
            timer.cancel()

    def _begin_end(self, stop: Stop) -> None:
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end_cell(stop))

    async def _end_cell(self, stop: Stop) -> None:
        """End the running cell: interrupted, and killed when it does not listen."""
        log.warning("stopping", kind=stop.kind.value, reason=stop.detail)
        if stop.kind is not StopKind.MEMORY_GUARD and self.client is not None:
            await self.kernel.interrupt()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._cell_done.wait(), INTERRUPT_GRACE_SECONDS)
                return
            log.warning("interrupt-ignored", action="killing the kernel")
        self.kernel.signal_group(signal.SIGKILL)

    async def _save_regularly(self) -> None:
        assert self.save is not None
        while True:
            await asyncio.sleep(0.2)
            if self.client is not None:
                try:
                    await self.save()
                except RecordError as error:  # the disk may have room again by the next time
                    log.warning("save", reason=str(error))

    async def _take_late_outputs(self) -> None:
        """Read what comes after the last cell: a kernel waits with its end until its outputs are taken."""
        if self.client is not None and self.client.kc is not None:
            channel = self.client.kc.iopub_channel
            while True:
                await _matching(channel, set(), 60.0)

    async def _be_courteous(self) -> None:
        assert self.client is not None
        kc = self.client.kc
        asked = kc.execute(_COURTESY, silent=True, store_history=False)
        await _matching(kc.shell_channel, {asked}, 5.0)

    async def _end_kernel(self) -> None:
        quick = self.stopper.stop is not None
        await self.kernel.shut_down(grace_seconds=1.0 if quick else 3.0)

    def _close(self) -> None:
        if self.client is not None:
            self.client.settle()
            with contextlib.suppress(Exception):
                self.client.set_widgets_metadata()
        if self.client is not None and self.client.kc is not None:
            with contextlib.suppress(Exception):  # a reader of them may just be waiting
                self.client.kc.stop_channels()
            self.client.kc = None


async def _matching(channel: Any, requests: set[str], seconds: float) -> dict[str, Any] | None:
    """Return the next message on a channel that belongs to one of the requests, or None in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while (left := deadline - loop.time()) > 0:
        try:
            message: dict[str, Any] = await channel.get_msg(timeout=left)
        except Empty:
            return None
        if message["parent_header"].get("msg_id") in requests:
            return message
    return None


def _error_output(cell: NotebookNode) -> NotebookNode | None:
    errors = [output for output in cell.outputs if output.output_type == "error"]
    return errors[-1] if errors else None
