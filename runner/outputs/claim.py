# SPDX-License-Identifier: Apache-2.0
"""Claims of active runs: a lock with a heartbeat per notebook name and output folder.

``NAME.running`` is rewritten every 2 s with a counter. A run counts as alive while the counter changes, because clocks
and pids of other machines cannot be compared. If the file is from the same boot and pid namespace, its pid is checked
instead, without waiting.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
import typing
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from runner.core import files, log, procfs
from runner.core.errors import AlreadyRunningError, RecordError
from runner.core.log import utc_now

_State = tuple[int, int, bytes]

BEAT_SECONDS = 2.0
DEAD_AFTER_SECONDS = 10.0
_LONGEST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The content of ``NAME.running``."""

    notebook: str
    run_id: str
    pid: int
    host: str
    started_at: str
    beat: int = 0
    namespace: str = ""
    """Boot id and pid namespace, within which pids can be compared."""
    pid_started: int | None = None
    stage: str | None = None
    cell_index: int | None = None
    cell_count: int | None = None
    cell_started_at: str | None = None
    title: str | None = None
    """The first line of the cell."""
    gpu_bytes: int | None = None
    host_bytes: int | None = None
    """Current host memory of the run, as ``gpu_bytes`` is its GPU memory."""
    last_save_at: str | None = None
    plan: str | None = None
    socket: str | None = None
    """Socket for `runner repair` while the failed notebook is held."""
    held_until: str | None = None
    tag: str = ""
    """Mark in the environment of the kernel and its descendants, by which the next run can find and end them."""

    def text(self) -> str:
        """Return the content of the file."""
        return json.dumps(dataclasses.asdict(self)) + "\n"


def read(path: Path) -> Running | None:
    """Read a claim; None if it does not exist or is not valid."""
    try:
        document = json.loads(files.read(path, _LONGEST_BYTES))
        kinds = typing.get_type_hints(Running)
        known = {key: value for key, value in document.items() if key in kinds}
        if not all(isinstance(value, kinds[key]) for key, value in known.items()):
            return None  # a notebook can write anything there
        return Running(**known)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def alive(
    paths: Sequence[Path], seconds: float = DEAD_AFTER_SECONDS, *, sleep: Callable[[float], None] = time.sleep
) -> dict[Path, bool]:
    """Return for each claim whether its run is alive, watching all of them together.

    A file that vanishes or gets another owner meanwhile counts as alive.

    Parameters
    ----------
    seconds
        How long a counter must be unchanged for its run to count as dead.
    sleep
        Waits between two polls; an exception ends the watch.
    """
    first = {path: _state(path) for path in paths}
    verdict: dict[Path, bool] = {}
    for path in paths:
        known = _known_here(read(path))
        if known is not None:
            verdict[path] = known
    deadline = time.monotonic() + seconds
    while len(verdict) < len(first) and time.monotonic() < deadline:
        sleep(0.2)
        for path, state in first.items():
            if path not in verdict and _state(path) != state:
                verdict[path] = True
    return {path: verdict.get(path, False) for path in first}


def died_here(running: Running | None) -> bool:
    """Return True if a run was in this boot and pid namespace, and its process has ended."""
    return _known_here(running) is False


class Claim:
    """Claims a notebook's name in an output folder while it runs.

    Parameters
    ----------
    folder
        The output folder; created if missing.
    running
        Initial content of the file.
    sleep
        Waits while the claim of another machine is watched; an exception ends the watch.

    Raises
    ------
    AlreadyRunningError
        A live run holds the name; nothing was written.
    RecordError
        The folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        running: Running,
        *,
        watch_seconds: float = DEAD_AFTER_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = folder / f"{running.notebook}.running"
        self._running = dataclasses.replace(
            running, namespace=procfs.namespace(), pid_started=procfs.started(running.pid)
        )
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._heartbeat, name="heartbeat", daemon=True)
        self.took_over: Running | None = None
        self._left_behind = False
        self._written_at = _seconds()
        self._last_warning = ""
        self._acquire(watch_seconds, sleep)

    @classmethod
    def of(
        cls,
        folder: Path,
        notebook: str,
        run_id: str,
        plan: str | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Self:
        """Claim a name for this process."""
        running = Running(
            notebook=notebook,
            run_id=run_id,
            pid=os.getpid(),
            host=socket.gethostname(),
            started_at=utc_now(),
            plan=plan,
            tag=uuid.uuid4().hex,
        )
        return cls(folder, running, sleep=sleep)

    @property
    def tag(self) -> str:
        """Mark of the processes of this run."""
        return self._running.tag

    def _acquire(self, watch_seconds: float, sleep: Callable[[float], None]) -> None:
        if not self._create():
            holder, dead = read(self.path), _state(self.path)
            if alive([self.path], watch_seconds, sleep=sleep)[self.path]:
                raise _already_running(self.path, holder)
            if not self._remove_dead(dead) or not self._create():
                raise _already_running(self.path, read(self.path))
            self.took_over = holder
            log.warning(
                "taken-over", file=self.path.name, from_host=holder and holder.host, beat=holder and holder.beat
            )
        self._thread.start()

    def _remove_dead(self, dead: _State | None) -> bool:
        """Remove a dead run's file; return False if another run has already replaced it.

        Of several processes that see the same dead file only one can rename it. A later one renames the file of the
        first, notices that, and puts it back.
        """
        moved = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}.dead")
        try:
            self.path.rename(moved)
        except FileNotFoundError:
            return True
        removed = _state(moved) == dead
        if not removed:
            with contextlib.suppress(OSError):  # its next heartbeat rewrites it anyway
                self.path.hardlink_to(moved)
        moved.unlink(missing_ok=True)
        return removed

    def _create(self) -> bool:
        opened = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._move_folder_aside()
            with self.path.open("x") as stream:
                opened = True
                stream.write(self._running.text())
        except OSError as error:
            if opened:  # a full disk: an empty file would count as a run of another machine
                with contextlib.suppress(OSError):
                    self.path.unlink()
            elif isinstance(error, FileExistsError) and self.path.parent.is_dir():
                return False
            raise files.cannot_write(self.path, error) from error
        return True

    def update(self, **fields: object) -> None:
        """Change fields of the file, written with the next heartbeat."""
        with self._lock:
            self._running = dataclasses.replace(self._running, **fields)  # type: ignore[arg-type]

    def publish(self, **fields: object) -> None:
        """Change fields of the file and write it at once."""
        self.update(**fields)
        self._wake.set()

    def saved(self) -> None:
        """Record that the notebook has just been saved."""
        self.publish(last_save_at=utc_now())

    def _heartbeat(self) -> None:
        while True:
            self._wake.wait(BEAT_SECONDS)
            self._wake.clear()
            if self._stopping:
                return
            if self._taken_over():
                log.error("heartbeat", reason=f"{self.path} was taken over by another run, which found this one dead")
                return
            with self._lock:
                self._running = dataclasses.replace(self._running, beat=self._running.beat + 1)
            self._write()

    def _write(self) -> None:
        try:
            self._move_folder_aside()
            files.write(self.path, self._running.text())
            self._written_at = _seconds()
        except (OSError, RecordError) as error:
            self._warn_once(str(error))

    def _warn_once(self, reason: str) -> None:
        """Log a problem with the file once, not at every heartbeat."""
        if reason != self._last_warning:
            self._last_warning = reason
            log.warning("heartbeat", reason=reason)

    def _move_folder_aside(self) -> None:
        """Rename a folder in the file's place, which would prevent writing."""
        if self.path.is_dir() and not self.path.is_symlink():
            aside = self.path.with_name(f"{self.path.name}.aside-{uuid.uuid4().hex[:8]}")
            self.path.rename(aside)
            log.warning("heartbeat", reason=f"{self.path.name} was a folder; it is {aside.name} now")

    def leave_behind(self) -> None:
        """Keep the file after a run that ends without a record, so that a report marks it lost."""
        self._left_behind = True

    def release(self) -> None:
        """Release the name."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout=BEAT_SECONDS)
        if self._taken_over():
            return
        if self._left_behind:
            self._write()
            return
        try:  # the record is written: nothing that a notebook put here may change the outcome
            self._move_folder_aside()
            self.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("heartbeat", reason=f"cannot remove {self.path}: {error.strerror or error}")

    def _taken_over(self) -> bool:
        """Return True if another run has taken over.

        That takes at least `DEAD_AFTER_SECONDS` without a heartbeat. A file that differs earlier was changed by the
        notebook or by hand, and is rewritten.
        """
        found, mine = read(self.path), self._running
        if found is None or (found.run_id, found.pid, found.host) == (mine.run_id, mine.pid, mine.host):
            return False
        if _seconds() - self._written_at >= DEAD_AFTER_SECONDS:
            return True
        self._warn_once(f"{self.path.name} was changed by something other than a run; rewriting it")
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _already_running(path: Path, holder: Running | None) -> AlreadyRunningError:
    who = (
        f"pid {holder.pid} on {holder.host}, run {holder.run_id}, since {holder.started_at}" if holder else "a live run"
    )
    return AlreadyRunningError(
        f"{path.stem} is already running in {path.parent}: {who}",
        hint="wait for it, stop it, or use another --output-dir or --name; nothing was written",
    )


def _state(path: Path) -> _State | None:
    """Return the state of a claim, which changes with each heartbeat: a new file with another counter."""
    try:
        with files.reading(path) as stream:
            status = os.fstat(stream.fileno())
            return status.st_ino, status.st_mtime_ns, stream.read(_LONGEST_BYTES)
    except OSError:
        return None


def _seconds() -> float:
    """Return a clock that includes suspend time, since other machines measure this run's silence by their clocks."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _known_here(running: Running | None) -> bool | None:
    """Return whether a run is alive if pids can be compared; None if its claim must be watched."""
    return procfs.lives(running.pid, running.pid_started, running.namespace) if running else None
