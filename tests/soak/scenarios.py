# SPDX-License-Identifier: Apache-2.0
"""The faults. Each scenario starts a run, does its worst at a moment of its choice, and says what may follow.

A scenario that cannot be played on this machine raises `Impossible` with the reason.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from simdriver import COMPILER, NO_COMPILER, Device, SimulatedDriver

from soak.world import CELLS, NAME, Story, World

Scenario = Callable[[World], Story]
GB = 10**9
SMALL_DISK_MB = 4
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Impossible(Exception):  # noqa: N818  (it is no error)
    """The scenario cannot be played here."""


def _statuses(*names: str) -> frozenset[str]:
    return frozenset(names)


def _hit(world: World, process: subprocess.Popen[bytes], fault: Callable[[], object], *events: str) -> str:
    """Do the fault at a random moment of a run and return the moment in words."""
    moment = world.moment(*events)
    if not world.reach(process, moment):
        return f"{moment}, after the end"
    fault()
    return str(moment)


def runner_signalled(world: World) -> Story:
    """Send SIGTERM, SIGINT or SIGHUP to runner, once or in a burst of different ones."""
    process = world.start()
    numbers = [world.random.choice(SIGNALS) for _ in range(world.random.choice((1, 1, 1, 3)))]

    def burst() -> None:
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.02)

    moment = _hit(world, process, burst)
    return Story(code=world.finish(process), moment=moment, allowed=_statuses("terminated", "succeeded"))


def runner_killed(world: World) -> Story:
    """Kill runner with SIGKILL, at once or some seconds after SIGTERM, as an orchestrator does."""
    process = world.start()
    grace = world.random.choice((None, None, 0.2, 1.0, 3.0))

    def kill() -> None:
        if grace is not None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=grace)
        process.kill()

    moment = _hit(world, process, kill) + (f", {grace}s after SIGTERM" if grace else "")
    return Story(code=world.finish(process), moment=moment, allowed=_statuses("lost", "terminated", "succeeded"))


def kernel_killed(world: World) -> Story:
    """End the kernel by a signal."""
    process = world.start()
    number = world.random.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT))
    moment = _hit(world, process, lambda: world.send(world.pid("kernel"), number), "kernel", "child", "done")
    return Story(code=world.finish(process), moment=moment, allowed=_statuses("kernel-died", "succeeded"))


def kernel_stopped(world: World) -> Story:
    """Stop the kernel, so that it never answers again; the deadline of its cell ends it."""
    process = world.start("--cell-timeout", "4s")
    moment = _hit(world, process, lambda: world.send(world.pid("kernel"), signal.SIGSTOP), "kernel", "child")
    return Story(code=world.finish(process), moment=moment, allowed=_statuses("timed-out", "succeeded", "kernel-died"))


def child_killed(world: World) -> Story:
    """Kill a child of the notebook, which raises if it notices in time."""
    process = world.start()
    moment = _hit(world, process, lambda: world.send(world.pid("child"), signal.SIGKILL), "child")
    return Story(code=world.finish(process), moment=moment, allowed=_statuses("failed", "succeeded"))


def disk_full(world: World) -> Story:
    """Fill the volume of the outputs; there is room again for the report and the next run."""
    with _small_disk(world) as fill:
        process = world.start(preexec_fn=None if os.geteuid() == 0 else _limit_files)
        moment = _hit(world, process, fill)
        code = world.finish(process)
    return Story(code=code, moment=moment, allowed=_statuses("lost", "succeeded"))


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))


@contextlib.contextmanager
def _small_disk(world: World) -> Iterator[Callable[[], None]]:
    """Put the output folder on a small disk, where we may, and bring it back; give what fills the disk."""
    if os.geteuid() != 0:
        yield lambda: None  # the limit of the process does it
        return
    kept = world.folder / "kept"
    world.out.rename(kept)
    world.out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_MB}m", "soak", str(world.out)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    filler = world.out / "filler"
    try:
        if not mounted:
            raise Impossible("no tmpfs can be mounted here")
        shutil.copytree(kept, world.out, dirs_exist_ok=True)
        yield functools.partial(_fill, filler)
        filler.unlink(missing_ok=True)
        shutil.rmtree(kept)
        shutil.copytree(world.out, kept, symlinks=True)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(world.out)], check=True)
        world.out.rmdir()
        kept.rename(world.out)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        for size in (1 << 16, 1 << 10, 1):
            with contextlib.suppress(OSError):
                while True:
                    stream.write(b"x" * size)


def file_deleted(world: World) -> Story:
    """Delete one of the files while the run writes them; what is due at the end is written again."""
    suffix = world.random.choice((".log", ".executed.ipynb", ".samples.csv", ".running", ".html"))
    path = world.out / f"{NAME}{suffix}"
    process = world.start()
    moment = _hit(world, process, lambda: path.unlink(missing_ok=True), "kernel", "child", "done", "record", "page")
    code = world.finish(process)
    story = Story(code=code, moment=f"{moment} {suffix}", allowed=_statuses("succeeded"))
    story.exempt = frozenset({path.name})
    # What is deleted after its last write is gone; no run can know of that.
    written_later = suffix in {".executed.ipynb", ".html"} and moment.startswith(("kernel", "child"))
    if written_later and not path.exists():
        story.notes.append(f"{path.name} was deleted in the middle of the run and is not written again")
    return story


def file_replaced(world: World) -> Story:
    """Put garbage, a folder or a symbolic link in the place of a file of the run."""
    suffix = world.random.choice((".log", ".executed.ipynb", ".samples.csv", ".running", ".html"))
    path = world.out / f"{NAME}{suffix}"
    kind = world.random.choice(("garbage", "folder", "link"))
    victim = world.folder / "victim"
    victim.write_text("must stay as it is")

    def replace() -> None:
        path.unlink(missing_ok=True)
        with contextlib.suppress(FileExistsError):  # the run was faster
            if kind == "folder":
                path.mkdir()
            elif kind == "link":
                path.symlink_to(victim)
            else:
                path.write_bytes(b"\x00garbage")

    process = world.start()
    moment = _hit(world, process, replace, "kernel", "child", "done")
    code = world.finish(process)
    story = Story(code=code, moment=f"{moment} {suffix} {kind}", exempt=frozenset({path.name}))
    if victim.read_text() != "must stay as it is":
        story.notes.append(f"the run wrote through the link at {path.name}")
    if path.is_dir():
        path.rmdir()
    elif path.is_symlink() or (path.exists() and path.read_bytes() == b"\x00garbage"):
        path.unlink()
    return story


def claim_left_behind(world: World) -> Story:
    """Forge a NAME.running that no live run writes: garbage, a dead pid, a silent run of another host."""
    path = world.out / f"{NAME}.running"
    kind = world.random.choice(("garbage", "dead", "foreign"))
    claim = {
        "notebook": NAME,
        "run_id": "old",
        "pid": 2**22 - 3,
        "host": "node-7",
        "started_at": "2026-01-01T00:00:00Z",
    }
    path.write_text("{not json" if kind == "garbage" else json.dumps(claim))
    code = world.finish(world.start())
    return Story(code=code, moment=kind, allowed=_statuses("succeeded"))


def claim_alive(world: World) -> Story:
    """Forge a run of another host that lives: the second run changes nothing and exits 2."""
    path = world.out / f"{NAME}.running"
    claim = {"notebook": NAME, "run_id": "theirs", "pid": 7, "host": "node-7", "started_at": "2026-01-01T00:00:00Z"}

    def beat(number: int) -> None:
        part = path.with_name(".beat")
        part.write_text(json.dumps({**claim, "beat": number}))
        part.replace(path)

    beat(0)
    process, number = world.start(), 0
    while process.poll() is None and number < 300:
        time.sleep(0.5)
        number += 1
        beat(number)
    code = world.finish(process)
    path.unlink()
    return Story(code=code, moment=f"{number} beats", untouched=True)


def two_runs(world: World) -> Story:
    """Start two runs of one name at nearly the same time: one wins, or they come one after the other."""
    first = world.start()
    delay = world.random.choice((0.0, world.random.uniform(0, 1), world.random.uniform(0, 5)))
    time.sleep(delay)
    second = world.start()
    codes = sorted((world.finish(first), world.finish(second)))
    story = Story(code=0, moment=f"{delay:.2f}s later", allowed=_statuses("succeeded"))
    if codes not in ([0, 0], [0, 2]):
        story.notes.append(f"the two runs exit with {codes}")
    return story


def clock_stepped(world: World) -> Story:
    """Step the wall clock by up to a day, back or ahead; the product that the plan expects is made all the same."""
    library = _clock()
    offset = world.folder / "offset"
    offset.write_text("0")
    world.extra |= {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(offset)}
    step = world.random.choice((-1, 1)) * world.random.choice((3, 3600, 86_400))
    process = world.command("run", NAME, "--plan", world.plan(NAME), "--output-dir", world.out)
    moment = _hit(world, process, lambda: offset.write_text(str(step)))
    code = world.finish(process)
    world.extra.clear()
    return Story(code=code, moment=f"{moment} {step:+d}s", allowed=_statuses("succeeded"))


@functools.cache
def _clock() -> Path:
    if not COMPILER:
        raise Impossible("stepping the clock needs a C compiler")
    library = Path(tempfile.mkdtemp(prefix="soak-clock-")) / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([COMPILER, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def output_flood(world: World) -> Story:
    """Print far more than anybody reads; the last line is in the notebook."""
    lines = world.random.randrange(1_000, 60_000)
    width = world.random.choice((1, 80, 2_000)) if lines < 5_000 else 40
    threads = world.random.choice((1, 1, 4))
    source = (
        f"import threading\ndef work():\n    for i in range({lines // threads}): print('w' * {width}, i)\n"
        f"many = [threading.Thread(target=work) for _ in range({threads})]\n"
        "[t.start() for t in many]; [t.join() for t in many]\nprint('end of', 'flood')"
    )
    world.notebook(*CELLS[:2], source, *CELLS[2:])
    code = world.finish(world.start())
    story = Story(code=code, moment=f"{lines} lines of {width}, {threads} threads", allowed=_statuses("succeeded"))
    executed = world.out / f"{NAME}.executed.ipynb"
    if code == 0 and "end of flood" not in executed.read_text():
        story.notes.append("the last line of the flood is not in the notebook")
    return story


def deadline(world: World) -> Story:
    """Set a short deadline, for each cell or for the notebook."""
    option = world.random.choice(("--timeout", "--cell-timeout"))
    seconds = world.random.choice((1, 2, 3, 5))
    code = world.finish(world.start(option, f"{seconds}s"))
    return Story(code=code, moment=f"{option} {seconds}s", allowed=_statuses("timed-out", "succeeded"))


def stdout_closed(world: World) -> Story:
    """Close what runner prints to, at once or in the middle, or let it be full; the run does not care."""
    kind = world.random.choice(("pipe", "full", "closed"))
    if kind == "full":
        with Path("/dev/full").open("wb") as device:
            process = world.start(stdout=device, stderr=device)
        moment = ""
    elif kind == "closed":
        process = world.start(preexec_fn=_close_stdio)
        moment = ""
    else:
        process = world.start(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout is not None
        moment = _hit(world, process, process.stdout.close)
    code = world.finish(process)
    return Story(code=code, moment=f"{kind} {moment}".strip(), allowed=_statuses("succeeded"))


def _close_stdio() -> None:
    for number in (1, 2):
        os.close(number)


def _driver(world: World) -> SimulatedDriver:
    if not COMPILER:
        raise Impossible(NO_COMPILER)
    cache = Path(tempfile.gettempdir()) / f"soak-driver-{os.getpid()}"
    cache.mkdir(exist_ok=True)
    folder = world.folder / "driver"
    folder.mkdir()
    return SimulatedDriver(folder, cache)


def gpu_lost(world: World) -> Story:
    """Let the driver lose the GPU; the notebook, which does not use it, is judged by its cells."""
    driver = _driver(world)
    driver.write(Device())
    world.extra |= driver.env
    process = world.start("--min-gpus", "1")
    moment = _hit(world, process, lambda: driver.write(Device(errors={"*": "gpu-is-lost"})))
    code = world.finish(process)
    world.extra.clear()
    return Story(code=code, moment=moment, allowed=_statuses("succeeded", "refused"))


def gpu_neighbour(world: World) -> Story:
    """Let a neighbour take memory of the same GPU; the notebook is not charged for it."""
    driver = _driver(world)
    driver.write(Device())
    world.extra |= driver.env
    with subprocess.Popen(["sleep", "600"]) as neighbour:
        taken = Device(processes=[(neighbour.pid, world.random.randrange(1, 40) * GB, "neighbour")])
        process = world.start("--min-gpus", "1", "--strict-release")
        moment = _hit(world, process, lambda: driver.write(taken))
        code = world.finish(process)
        neighbour.kill()
    world.extra.clear()
    return Story(code=code, moment=moment, allowed=_statuses("succeeded"))


def whole_plan(world: World) -> Story:
    """End `run-all` over two notebooks by a signal; the report still lists both."""
    world.notebook(*CELLS, name="second")
    plan = world.plan(NAME, "second")
    process = world.command("run-all", plan, "--output-dir", world.out)
    number = world.random.choice((signal.SIGTERM, signal.SIGINT, signal.SIGKILL))
    moment = _hit(world, process, lambda: process.send_signal(number))
    code = world.finish(process)
    notes = [f"outlives run-all: {line}" for line in world.wait_runs_gone()]
    return Story(code=code, moment=f"{moment} {number.name}", names=(NAME, "second"), notes=notes)


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__.replace("_", "-"): scenario
    for scenario in (
        runner_signalled,
        runner_killed,
        kernel_killed,
        kernel_stopped,
        child_killed,
        disk_full,
        file_deleted,
        file_replaced,
        claim_left_behind,
        claim_alive,
        two_runs,
        clock_stepped,
        output_flood,
        deadline,
        stdout_closed,
        gpu_lost,
        gpu_neighbour,
        whole_plan,
    )
}
"""Every scenario by name; consecutive seeds go through them in turn."""
