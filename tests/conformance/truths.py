# SPDX-License-Identifier: Apache-2.0
"""The table of truths: ways in which a notebook ends, and what an engine must say about each.

A case knows no engine. Its cells are Python, its truth follows from the contract and not from
what any engine does today: the status in the vocabulary of `runner run`, the cell at fault
(counted over the code cells from 1), texts that the saved notebook must hold because a cell
printed them, and texts that it must not hold because they never happened in this run.

`NO_CELL` cases end before or beside the cells. Cells tell the harness that they are at work by
writing the file named in ``$HERE``; only then does an `Act` from outside take place.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from simdriver import Device, hold_source

CELL_SECONDS = 5
"""The deadline that cases with a hang give to each cell, where the engine has one."""


class Target(StrEnum):
    """Who receives the signal of an `Act`."""

    ENGINE = "engine"
    TERMINAL = "terminal"
    """The engine's whole process group, as Ctrl-C at a terminal does."""
    KERNEL = "kernel"
    """The pid that the cell wrote to ``$HERE``."""


class Place(StrEnum):
    """The surroundings in which the engine runs."""

    PLAIN = "plain"
    FULL_STDIO = "stdout and stderr on a full device"
    SMALL_FILES = "no file may pass 200 kB"
    SMALL_MEMORY = "a memory limit of 700 MB"


@dataclass(frozen=True, kw_only=True)
class Act:
    """A signal from outside, once a cell is at work."""

    number: signal.Signals
    target: Target = Target.ENGINE
    after_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A code cell that is more than its source."""

    source: str
    tags: tuple[str, ...] = ()
    outputs: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The simulated GPU of a case: its size and what somebody else holds on it from the start."""

    total_bytes: int = 80 * 10**9
    used_bytes: int = 0
    lost: bool = False


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What is asked of `runner run` alone: its statuses that other engines have no word for."""

    options: tuple[str, ...] = ()
    plan: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the notebook's entry in a plan, where the case needs one."""
    gpu: Gpu | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way in which a notebook ends, and the truth of it."""

    name: str
    title: str
    cells: tuple[str | Cell, ...]
    status: str = "succeeded"
    cell: int | None = None
    """The cell at fault; None where no cell is."""
    kept: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    deadline: bool = False
    act: Act | None = None
    place: Place = Place.PLAIN
    kernel: str = "conformance"
    document: str | None = None
    """The whole text of the notebook file, where it is not a notebook."""
    cell_ids: bool = True
    saved: bool = True
    """Whether a saved notebook is due. A file that lies there must be whole in any case."""
    code: int | None = None
    """The exit code of `runner run`, where the status alone does not say it."""
    ask: Ask | None = None


GPU = Device().uuid
HERE = "import os, pathlib\npathlib.Path(os.environ['HERE']).write_text(str(os.getpid()))\n"
WORK = HERE + "import time\nprint('at', 'work', flush=True)\ntime.sleep(600)"
STUBBORN = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
FIRST, LAST = "print('first', 1)", "print('last', 3)"
BEFORE, NEVER = ("first 1",), ("last 3",)
DURING = ("first 1", "at work")

WIDGET = "import ipywidgets\nout = ipywidgets.Output()\ndisplay(out)\n"
SHOWN = """\
from contextlib import contextmanager
@contextmanager
def shows():
    try:
        yield
    except Exception:
        get_ipython().showtraceback()
with shows():
    raise ValueError('shown ' + 'only')"""
HOOK = "get_ipython().set_custom_exc((Exception,), lambda shell, kind, value, tb, tb_offset=None: print('my own hook'))"
UNPRINTABLE = """\
class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError('no words')
raise Unprintable()"""
ORPHAN = "import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True)\nprint('first', 1)"
EAT = """\
import time
print('at', 'work', flush=True)
blocks = []
while True:
    blocks.append(bytearray(8 << 20))
    blocks[-1][::4096] = b'x' * len(blocks[-1][::4096])
    time.sleep(0.02)"""
FLOOD = "i = 0\nwhile True:\n    print('line', i, 'x' * 80)\n    i += 1\n    import time; time.sleep(0.001)"
CATCHES = "import time\nprint('at', 'work', flush=True)\nwhile True:\n    try:\n        time.sleep(1)\n    except KeyboardInterrupt:\n        pass"
HOLDS_THE_GIL = "import re\nprint('at', 'work', flush=True)\nre.match('(a+)+$', 'a' * 64 + 'b')"
DOOMED = "import os, threading\nthreading.Timer(2, os.kill, (os.getpid(), 9)).start()\nprint('first', 1)"
STALE_ERROR = {"output_type": "error", "ename": "OldError", "evalue": "of yesterday", "traceback": ["OldError"]}
STALE_TEXT = {"output_type": "stream", "name": "stdout", "text": ["yesterday's result"]}

HEALTHY = (
    Case(name="all-cells", title="Every cell runs", cells=(FIRST, "1 + 1", LAST), kept=("first 1", "last 3")),
    Case(name="blank-cells", title="Blank cells between", cells=(FIRST, "", "  ", LAST), kept=("first 1", "last 3")),
    Case(name="caught", title="An exception is caught", kept=("caught", "last 3"),
         cells=("try:\n    1 / 0\nexcept ZeroDivisionError:\n    print('cau' + 'ght')", LAST)),
    Case(name="raises-exception", title="A cell tagged raises-exception raises", kept=("last 3", "ZeroDivisionError"),
         cells=(Cell(source="1 / 0", tags=("raises-exception",)), LAST)),
    Case(name="skip-execution", title="A cell is tagged skip-execution", kept=("last 3",), absent=("first 1",),
         cells=(Cell(source=FIRST, tags=("skip-execution",)), LAST)),
    Case(name="stderr", title="Warnings and log lines go to stderr", kept=("loud words", "last 3"),
         cells=("import sys, logging\nprint('loud', 'words', file=sys.stderr)\nlogging.error('logged')", LAST)),
    Case(name="many-prints", title="20,000 short prints", kept=("19998\n", "19999\n", "last 3"),
         cells=("for i in range(20_000): print(i)", LAST)),
    Case(name="threads-print", title="Threads print at once", kept=("t0 2999", "t3 2999", "last 3"), cells=(
        "import threading\ndef work(k):\n    for i in range(3000): print(f't{k} {i}\\n', end='')\n"
        "threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads];", LAST)),
    Case(name="long-line", title="One line of 2 MB", kept=("x" * 1000 + " end of line",),
         cells=("print('x' * 2_000_000, 'end', 'of', 'line')",)),
    Case(name="not-utf8", title="A child prints bytes that are no UTF-8", kept=("last 3",),
         cells=("import subprocess\nsubprocess.run(['printf', r'a\\377\\376b\\n'])", LAST)),
    Case(name="child-prints", title="A child prints", kept=("from a child", "last 3"),
         cells=("import subprocess\nsubprocess.run(['sh', '-c', 'echo from a chi''ld'])", LAST)),
    Case(name="await", title="Top-level await", kept=("awaited", "last 3"),
         cells=("import asyncio\nawait asyncio.sleep(0.1)\nprint('awai' + 'ted')", LAST)),
    Case(name="display-update", title="A display is updated from a later cell", kept=("state 100",), absent=("state 0",),
         cells=("h = display('state ' + str(0), display_id=True)", "h.update('state ' + str(10 * 10))")),
    Case(name="clear-output", title="A progress line replaces itself", kept=("step 49",), absent=("step 48",),
         cells=("from IPython.display import clear_output\nfor i in range(50):\n    clear_output(wait=True)\n    print('step', i)",)),
    Case(name="output-widget", title="An Output widget captures displays", kept=("last 3",),
         cells=(WIDGET + "for i in range(60):\n    with out: display(i)", "with out: print('inside')", LAST)),
    Case(name="stale-error", title="The source holds the error of an old run", absent=("of yesterday",), kept=("last 3",),
         cells=(Cell(source=FIRST, outputs=(STALE_ERROR,)), LAST)),
    Case(name="no-ids", title="A notebook of format 4.4, without cell ids", cell_ids=False, kept=("first 1", "last 3"),
         cells=(FIRST, LAST)),
    Case(name="orphan", title="A child in a session of its own is left behind", kept=("first 1", "last 3"),
         cells=(ORPHAN, LAST)),
    Case(name="stdout-full", title="stdout and stderr lead to a full device", place=Place.FULL_STDIO,
         kept=("first 1", "last 3"), cells=(FIRST, LAST)),
)  # fmt: skip


def _fails(name: str, title: str, source: str, **more: Any) -> Case:
    """Return a case in which the second of three cells fails."""
    return Case(name=name, title=title, cells=(FIRST, source, LAST), cell=2, **{
        "status": "failed", "kept": BEFORE, "absent": NEVER, **more})  # fmt: skip


FAILURES = (
    _fails("raise", "A cell raises", "1 / 0", kept=("first 1", "ZeroDivisionError")),
    Case(name="raise-first", title="The first cell raises", cells=("1 / 0", LAST), status="failed", cell=1, absent=NEVER),
    Case(name="raise-last", title="The last cell raises", cells=(FIRST, "1 / 0"), status="failed", cell=2, kept=BEFORE),
    Case(name="after-expected", title="A raise after one that a tag allows", status="failed", cell=2, absent=NEVER,
         cells=(Cell(source="1 / 0", tags=("raises-exception",)), "{}['k' + 'ey']", LAST), kept=("KeyError",)),
    _fails("syntax-error", "A syntax error", "x = = 1", kept=("first 1", "SyntaxError")),
    _fails("assert", "An assertion without a message", "assert 1 == 2", kept=("first 1", "AssertionError")),
    _fails("unprintable", "An exception whose words cannot be had", UNPRINTABLE),
    _fails("recursion", "Recursion without end", "def f(): f()\nf()", kept=("first 1", "RecursionError")),
    _fails("long-message", "An exception with a message of 1 MB", "raise ValueError('m' * 1_000_000)"),
    _fails("keyboard-interrupt", "A cell raises KeyboardInterrupt", "raise KeyboardInterrupt"),
    _fails("base-exception", "An exception that is no Exception", "class Odd(BaseException): pass\nraise Odd('odd')"),
    _fails("await-raises", "An awaited task raises", "async def f(): raise ValueError('late')\nawait f()"),
    _fails("input", "A cell asks for input", "input('name? ')"),
    _fails("bash", "%%bash ends with code 3", "%%bash\nexit 3"),
    _fails("run-magic", "%run of a file that raises", "open('broken.py', 'w').write('1 / 0')\n%run broken.py"),
    _fails("run-cell", "run_cell of code that raises", "get_ipython().run_cell('1 / 0');"),
    _fails("capture", "A raise under %%capture", "%%capture\nraise ValueError('captured')"),
    _fails("time-magic", "A raise under %%time", "%%time\nraise ValueError('timed')"),
    _fails("shown", "A context manager shows the traceback and goes on", SHOWN),
    _fails("widget-error", "An error is shown in an Output widget", WIDGET + "with out:\n    raise ValueError('inside')"),
    _fails("pdb-on", "A raise under %pdb on", "%pdb on\nraise IndexError('debugged')"),
    _fails("own-hook", "A raise under a traceback hook of the notebook's own", HOOK + "\nraise KeyError('hooked')"),
    _fails("memory-error", "An allocation is refused", "bytearray(1 << 60)", kept=("first 1", "MemoryError")),
    _fails("stdout-full-raise", "A raise while stdout leads to a full device", "1 / 0", place=Place.FULL_STDIO),
    Case(name="stale-later", title="Cells that are never reached hold old outputs", status="failed", cell=2,
         cells=(FIRST, "1 / 0", Cell(source=LAST, outputs=(STALE_TEXT,))), kept=BEFORE, absent=("yesterday's result",)),
    Case(name="no-ids-raise", title="A raise in a notebook without cell ids", cell_ids=False, status="failed", cell=2,
         cells=(FIRST, "1 / 0", LAST), kept=BEFORE, absent=NEVER),
    _fails("raise-orphan", "A raise with a child left behind", ORPHAN + "\n1 / 0"),
)  # fmt: skip

SELF_ENDED = (
    _fails("exit-0", "sys.exit(0) before the last cell", "import sys\nsys.exit(0)", status="incomplete"),
    _fails("exit-3", "sys.exit(3) before the last cell", "import sys\nsys.exit(3)", status="incomplete"),
    Case(name="exit-last", title="sys.exit(0) in the last cell", status="incomplete", cell=2, kept=BEFORE,
         cells=(FIRST, "import sys\nsys.exit(0)")),
    _fails("quit", "quit() before the last cell", "quit()", status="incomplete"),
    _fails("os-exit-0", "os._exit(0): the kernel ends itself with code 0", "import os\nos._exit(0)", status="incomplete"),
    _fails("os-exit-1", "os._exit(1)", "import os\nos._exit(1)", status="incomplete"),
    Case(name="os-exit-last", title="os._exit(0) in the last cell", status="incomplete", cell=2, kept=BEFORE,
         cells=(FIRST, "import os\nos._exit(0)")),
)  # fmt: skip

DEATHS = (
    _fails("abort", "The kernel aborts", "import os\nprint('at', 'work', flush=True)\nos.abort()", status="kernel-died"),
    _fails("segfault", "The kernel crashes in native code", "import ctypes\nctypes.string_at(0)", status="kernel-died"),
    _fails("sigkill", "The kernel is killed by its own code", "import os\nos.kill(os.getpid(), 9)", status="kernel-died"),
    _fails("killed", "Somebody kills the kernel", WORK, status="kernel-died", kept=DURING,
           act=Act(number=signal.SIGKILL, target=Target.KERNEL, after_seconds=1)),
    _fails("stopped-by-term", "Somebody sends SIGTERM to the kernel", WORK, status="kernel-died", kept=DURING,
           act=Act(number=signal.SIGTERM, target=Target.KERNEL, after_seconds=1)),
    Case(name="dies-later", title="The kernel dies in the cell after the one that dooms it", status="kernel-died", cell=2,
         cells=(DOOMED, "import time\nprint('at', 'work', flush=True)\ntime.sleep(600)", LAST), kept=DURING, absent=NEVER),
    _fails("oom", "The cell eats more memory than there is", EAT, status="kernel-died", place=Place.SMALL_MEMORY,
           kept=DURING),
    Case(name="dead-kernel", title="The kernel dies before it answers", status="kernel-died", kernel="dead", saved=False,
         cells=(FIRST,), absent=("first 1",)),
    Case(name="no-kernel", title="The kernel is not installed", status="broken-input", kernel="missing", saved=False,
         cells=(FIRST,), absent=("first 1",), code=2),
)  # fmt: skip

DEADLINES = (
    _fails("sleep", "A cell sleeps beyond its deadline", WORK, status="timed-out", deadline=True, kept=DURING),
    _fails("sleep-stubborn", "It ignores the interrupt as well", STUBBORN + WORK, status="timed-out", deadline=True, kept=DURING),
    _fails("sleep-catches", "It catches each interrupt and goes on", CATCHES, status="timed-out", deadline=True, kept=DURING),
    _fails("gil", "It computes without letting go of the interpreter", HOLDS_THE_GIL, status="timed-out", deadline=True,
           kept=DURING),
    _fails("stopped", "The kernel is stopped (SIGSTOP)", "import os, signal\nprint('at', 'work', flush=True)\n"
           "import time; time.sleep(1)\nos.kill(os.getpid(), signal.SIGSTOP)", status="timed-out", deadline=True, kept=DURING),
    _fails("hung-child", "It waits for a child that hangs", "import subprocess\nprint('at', 'work', flush=True)\n"
           "subprocess.run(['sleep', '600'])", status="timed-out", deadline=True, kept=DURING),
    _fails("flood", "It prints without end", FLOOD, status="timed-out", deadline=True, kept=("first 1", "line 0 ")),
)  # fmt: skip

SIGNALS = (
    _fails("sigterm", "SIGTERM to the engine", WORK, status="terminated", kept=DURING, code=143,
           act=Act(number=signal.SIGTERM, after_seconds=1)),
    _fails("sigint", "SIGINT to the engine", WORK, status="terminated", kept=DURING, code=130,
           act=Act(number=signal.SIGINT, after_seconds=1)),
    _fails("ctrl-c", "Ctrl-C at a terminal", WORK, status="terminated", kept=DURING, code=130,
           act=Act(number=signal.SIGINT, target=Target.TERMINAL, after_seconds=1)),
    _fails("sigterm-stubborn", "SIGTERM while the cell ignores interrupts", STUBBORN + WORK, status="terminated",
           kept=DURING, code=143, act=Act(number=signal.SIGTERM, after_seconds=1)),
    _fails("sigkill-engine", "SIGKILL to the engine, 8 s into the cell", WORK, status="lost", kept=DURING, code=-9,
           act=Act(number=signal.SIGKILL, after_seconds=8)),
)  # fmt: skip

INPUTS = (
    Case(name="no-notebook", title="The file is not a notebook", document="{not json", status="broken-input", code=2,
         saved=False, cells=()),
    Case(name="empty-file", title="The file is empty", document="", status="broken-input", code=2, saved=False, cells=()),
    Case(name="cannot-save", title="The outputs cannot be saved", place=Place.SMALL_FILES, status="lost", code=74,
         saved=False, cells=(FIRST, "for i in range(40): print(str(i) * 10_000)", LAST)),
)  # fmt: skip


def _alone(name: str, title: str, status: str, *, cells: tuple[str, ...] = (FIRST, LAST), saved: bool = False,
           code: int | None = None, cell: int | None = None, kept: tuple[str, ...] = (), **ask: Any) -> Case:  # fmt: skip
    """Return a case for which other engines have no word."""
    return Case(
        name=name, title=title, cells=cells, status=status, saved=saved, code=code, cell=cell, kept=kept, ask=Ask(**ask)
    )


OURS = (
    _alone("refused", "The GPU has too little memory free", "refused", options=("--min-gpu-memory-gb", "24"),
           gpu=Gpu(used_bytes=70 * 10**9)),
    _alone("no-driver", "The GPU is lost to the driver", "refused", options=("--min-gpus", "1"), gpu=Gpu(lost=True)),
    _alone("skipped", "The gate refuses an optional notebook", "skipped", gpu=Gpu(total_bytes=16 * 10**9),
           plan={"optional": True, "requires": {"gpu_memory_gb": 24}}),
    _alone("file-missing", "An expected file was not made", "unexpected-results", saved=True, kept=("last 3",),
           plan={"expect": {"files": ["result.csv"]}}),
    _alone("figures-missing", "Fewer figures than expected", "unexpected-results", saved=True, kept=("last 3",),
           plan={"expect": {"min_figures": 2}}),
    _alone("not-released", "GPU memory stays held after the end", "not-released", saved=True, kept=("last 3",),
           cells=(FIRST, hold_source(GPU, 10**9, pid="0"), LAST), options=("--min-gpus", "1", "--strict-release"),
           gpu=Gpu()),
    _alone("rule", "A preparation rule matches nothing", "broken-input",
           plan={"prepare": [{"replace": {"find": "gone upstream", "with": "x"}}]}),
    _alone("parameter", "A parameter changes nothing", "broken-input", plan={"parameters": {"n_top_genes": 3}}),
    _alone("typo", "A lone run with an unknown parameter", "usage", options=("-p", "n_top_genes", "3"), code=2),
    _alone("notebook-deadline", "The whole notebook passes its deadline", "timed-out", saved=True, cell=2,
           cells=(FIRST, WORK, LAST), kept=DURING, options=("--timeout", "6s")),
)  # fmt: skip

CASES: tuple[Case, ...] = (*HEALTHY, *FAILURES, *SELF_ENDED, *DEATHS, *DEADLINES, *SIGNALS, *INPUTS, *OURS)
"""Every case, in the order of the table."""
