# SPDX-License-Identifier: Apache-2.0
"""No text that a notebook makes can hold the interpreter: matching takes linear time.

A regular expression holds the interpreter's lock while it matches, and with it the heartbeat, the
deadlines and the handling of SIGTERM. So every pattern of the package, found by importing it, is
tried against 2 MB of the texts that make its own repetitions start again and again. A pattern of
quadratic time needs many minutes for them; the limit is CPU time of the process, and generous.
"""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import re
import re._parser as parser
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import runner

CHARACTERS = 2_000_000
RANKING_CHARACTERS = 20_000
"""Enough to see which of a pattern's texts is its worst."""
CPU_SECONDS = 40
"""For one text; linear patterns take a fifth of a second, one with a bound of 2,000 characters twelve."""
PACKAGE = Path(runner.__file__).parent
PLAIN_CALLS: dict[Any, set[str]] = {}
"""Where a pattern is written into a call of `re.match` or `re.fullmatch`."""


DIAGNOSED = (
    "No space left on device ",
    "/dev/shm ",
    "ucx ",
    "std::bad_alloc: ",
    "numba.cuda",
    "No such file or directory ",
    "wget ",
    "'",
    "<urlopen error ",
    "lib.so ",
    "version `A' ",
    "Out of memory allocating 1 ",
)
MARKED = (r"\begin{a}", "$$ a\\", r"\[ ", "\\\\[ ", r"\( ", "\\\\( ", "$a ", "$ a", r"\begin{a}\end{b}", r"\(a \[")


def patterns() -> dict[str, re.Pattern[Any]]:
    """Return every pattern that a module of the package compiles, or spells out in a call of `re`."""
    found: dict[str, re.Pattern[Any]] = {}
    original = re._compile

    def spying(pattern: Any, flags: Any) -> re.Pattern[Any]:
        compiled = original(pattern, flags)
        frame = sys._getframe(2)
        if Path(frame.f_code.co_filename).is_relative_to(PACKAGE) and isinstance(pattern, str | bytes):
            found[f"{Path(frame.f_code.co_filename).stem}:{compiled.pattern!r:.60}"] = compiled
        return compiled

    re._compile = spying
    try:
        assert "runner.stages.convert" not in sys.modules, "what is imported already cannot be seen any more"
        importlib.import_module("papermill.engines")  # first: it imports our engine by its entry point
        for module in pkgutil.walk_packages(runner.__path__, "runner."):
            if (
                not module.name.endswith(("__main__", ".in_kernel", ".kernel_startup", ".dask_startup"))
                and "standalone" not in module.name
            ):
                importlib.import_module(module.name)
        importlib.import_module("runner.stages.convert.markdown").preload()
    finally:
        re._compile = original
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re.") and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and ast.unparse(node.func) in {"re.match", "re.fullmatch"}:
                    PLAIN_CALLS.setdefault(first.value, set()).add(path.stem)
                if isinstance(first, ast.Constant) and ast.unparse(node.func) != "re.escape":
                    compiled = re.compile(first.value)
                    found.setdefault(f"{path.stem}:{compiled.pattern!r:.60}", compiled)
    return found


def sample(items: Any, groups: dict[int, str]) -> str:  # noqa: C901  (one case for each kind of item)
    """Return a short text that items of a parsed pattern match, as far as they determine it."""
    text = ""
    for kind, value in items:
        match str(kind):
            case "LITERAL":
                text += chr(value)
            case "NOT_LITERAL":
                text += "a" if value != ord("a") else "b"
            case "ANY":
                text += "a"
            case "IN":
                text += member(value)
            case "BRANCH":
                text += sample(value[1][0], groups)
            case "SUBPATTERN":
                inner = sample(value[3], groups)
                groups[value[0]] = inner
                text += inner
            case "ATOMIC_GROUP":
                text += sample(value, groups)
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                text += sample(value[2], groups) * max(value[0], 1 if value[1] > 1 else 0)
            case "GROUPREF":
                text += groups.get(value, "")
    return text


def member(items: Any) -> str:
    """Return a character of a class."""
    negated = str(items[0][0]) == "NEGATE"
    alternatives = {"CATEGORY_SPACE": " ", "CATEGORY_DIGIT": "0", "CATEGORY_WORD": "a", "CATEGORY_NOT_SPACE": "a"}
    if not negated:
        kind, value = items[0]
        text = str(kind)
        return (
            chr(value) if text == "LITERAL" else chr(value[0]) if text == "RANGE" else alternatives.get(str(value), ".")
        )
    pattern = re.compile("[^" + "".join(_spelled(item) for item in items[1:]) + "]")
    return next(c for c in "a \n.0/\\\"'<>[]{}()$`=:,;|\x1b" if pattern.match(c))


def _spelled(item: Any) -> str:
    kind, value = item
    if str(kind) == "LITERAL":
        return re.escape(chr(value))
    if str(kind) == "RANGE":
        return f"{re.escape(chr(value[0]))}-{re.escape(chr(value[1]))}"
    return {"CATEGORY_SPACE": r"\s", "CATEGORY_DIGIT": r"\d", "CATEGORY_WORD": r"\w"}[str(value)]


def worst_texts(pattern: re.Pattern[Any]) -> list[str]:
    """Return units whose repetition makes a pattern search far from many places, and fail there.

    For each way to each repetition: what leads to it, and that with what it repeats.
    """
    text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    units: dict[str, None] = {}

    def walk(items: Any, before: str) -> None:
        for position, (kind, value) in enumerate(items):
            lead = before + sample(list(items)[:position], {})
            match str(kind):
                case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                    inner = sample(value[2], {})
                    if value[1] > 8:
                        units.update(dict.fromkeys(filter(None, (lead, lead + inner, inner, inner + " "))))
                    walk(value[2], lead)
                case "BRANCH":
                    for branch in value[1]:
                        walk(branch, lead)
                case "SUBPATTERN":
                    walk(value[3], lead)
                case "ATOMIC_GROUP":
                    walk(value, lead)

    walk(
        list(parser.parse(text, pattern.flags & ~re.UNICODE if isinstance(pattern.pattern, bytes) else pattern.flags)),
        "",
    )
    return list(units)


@cache
def names_and_methods() -> dict[str, set[str]]:
    """Return which methods each named pattern of the package is called by: `match` looks at one place only."""
    used: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                used.setdefault(f"{path.stem}:{node.value.id}", set()).add(node.attr)
    return used


def anchored(stem: str, pattern: re.Pattern[Any]) -> bool:
    """Return True if the package only ever matches this pattern at the start of a text."""
    if stem in PLAIN_CALLS.get(pattern.pattern, ()):
        return True
    used = names_and_methods()
    for module in list(sys.modules.values()):
        name = getattr(module, "__name__", "")
        if name.startswith("runner.") and name.rpartition(".")[2] == stem:
            for variable, value in vars(module).items():
                if isinstance(value, re.Pattern) and value.pattern == pattern.pattern:
                    return used.get(f"{stem}:{variable}", {"search"}) <= {"match", "fullmatch", "pattern"}
    return False


def attack(only: str = "") -> None:
    """Try every pattern on its worst text, in a process that the system ends when one of them takes too long."""
    for name, pattern in patterns().items():
        if only in name:
            at_start = anchored(name.partition(":")[0], pattern)
            # Quadratic time shows in a short text already: a second, against a millisecond.
            units = sorted(worst_texts(pattern), key=lambda unit: seconds(pattern, unit, RANKING_CHARACTERS, at_start))
            for unit in units[-1:]:
                print(f"{name} on {unit!r}", flush=True)
                seconds(pattern, unit, CHARACTERS, at_start)
    print("done", flush=True)


def seconds(pattern: re.Pattern[Any], unit: str, characters: int, at_start: bool) -> float:
    """Return how long a pattern takes for a text of so many characters; above the limit the process ends."""
    text: Any = (unit * (characters // len(unit) + 1))[:characters] + "\0"
    if isinstance(pattern.pattern, bytes):
        text = text.encode("latin-1", "replace")
    started = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(started) + CPU_SECONDS, resource.RLIM_INFINITY))
    if at_start:
        pattern.match(text)
    else:
        for _ in pattern.finditer(text):
            pass
    return time.process_time() - started


@pytest.mark.slow
def test_every_pattern_of_the_package_takes_linear_time() -> None:
    """Each handles megabytes of its own worst-case text, far below its CPU time limit."""
    script = "import test_linear; test_linear.attack()"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}

    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)

    lines = ended.stdout.splitlines()
    assert lines[-1:] == ["done"], f"exit {ended.returncode} at {lines[-1:]}: {ended.stderr[-2000:]}"
    assert len(lines) > 100


def test_a_quadratic_pattern_is_found() -> None:
    """The search for worst texts finds the one of the pattern that once froze a run, and the limit ends it."""
    quadratic = r"No space left on device.*?/dev/shm"
    script = (
        "import re, sys, test_linear\ntest_linear.CPU_SECONDS = 2\npattern = re.compile(sys.argv[1])\n"
        "test_linear.seconds(pattern, test_linear.worst_texts(pattern)[0], test_linear.CHARACTERS, False)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}

    ended = subprocess.run([sys.executable, "-c", script, quadratic], capture_output=True, env=environment, check=False)

    assert worst_texts(re.compile(quadratic))[0].startswith("No space left on device")
    assert ended.returncode == -signal.SIGXCPU, ended.stderr[-2000:]


@pytest.mark.parametrize("work", ["diagnose", "markdown", "latex", "terminal", "style"])
def test_what_is_made_of_notebook_texts_takes_linear_time(work: str) -> None:
    """Diagnosis and pages of millions of characters made to be slow end within a limit of CPU time."""
    script = f"import test_linear; test_linear.make({work!r})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}

    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)

    assert ended.stdout.splitlines()[-1:] == ["done"], (
        f"exit {ended.returncode}: {ended.stdout[-300:]} {ended.stderr[-2000:]}"
    )


def make(work: str) -> None:
    """Do one kind of work on texts that are made to be slow."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, resource.RLIM_INFINITY))
    units, characters, do = works()[work]
    for unit in units:
        print(repr(unit), flush=True)
        do((unit * (characters // len(unit) + 1))[:characters])
    print("done", flush=True)


def works() -> dict[str, tuple[tuple[str, ...], int, Callable[[str], object]]]:
    """Return each kind of work with its texts and their length; imported late, see `patterns`."""
    from runner.core.records import Status
    from runner.stages.convert import markdown, sanitize_css, terminal, tex
    from runner.stages.execute import diagnose

    def find_cause(text: str) -> None:
        raised = diagnose.Evidence(status=Status.FAILED, error_name="OSError", message=text, traceback=text)
        diagnose.diagnose(raised)
        diagnose.diagnose(diagnose.Evidence(status=Status.KERNEL_DIED, signal="SIGSEGV", crash_output=text))

    def clean_style(text: str) -> None:
        sanitize_css.safe_stylesheet(text, "#a")
        sanitize_css.safe_declarations(text)

    return {
        "diagnose": (DIAGNOSED, 5 * CHARACTERS, find_cause),
        "markdown": (MARKED, 150_000, lambda text: markdown.MarkdownPage().render(text)),
        "latex": (MARKED, 100_000, tex.mixed_to_html),
        "terminal": (("\x1b[", "\x1b]", "\x1b[1m", "\r", "a\r\n", "\x1b[0;"), 5 * CHARACTERS, terminal.terminal_html),
        "style": (("a{b:c}", "{", "(", "a,", "/*", ":root ", "@media{", "url("), 200_000, clean_style),
    }
