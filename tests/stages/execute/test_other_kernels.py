# SPDX-License-Identifier: Apache-2.0
"""Kernels of other languages: R and bash get their parameters, and how their notebooks end is reported as truly."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from support import cli, notebooks

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Language:
    """A kernel, and how its language does what the tests ask for."""

    name: str
    kernel: str
    defaults: str
    prints: str
    fails: str
    message: str
    dies: str


LANGUAGES = [
    Language(
        name="R",
        kernel="ir",
        defaults="n <- 1L\nname <- 'x'",
        prints=r"cat(n * 2, name, '\n')",
        fails="f <- function(x) stop('no such gene: ', x)\nf('BRCA9')",
        message='ERROR: Error in f("BRCA9"): no such gene: BRCA9',
        dies="tools::pskill(Sys.getpid(), 9)",
    ),
    Language(
        name="bash",
        kernel="bash",
        defaults="n=1\nname=x",
        prints='echo $((n * 2)) "$name"',
        fails="echo before\nls /no/such",
        message="an unnamed error: 2",
        dies="kill -9 $PPID; sleep 10",
    ),
]


@pytest.fixture(params=LANGUAGES, ids=lambda language: language.name)
def language(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Language:
    """Give a language whose kernel is there."""
    if request.param.kernel == "bash":
        subprocess.run([sys.executable, "-m", "bash_kernel.install", "--prefix", tmp_path / "kernels"], check=True)
        monkeypatch.setenv("JUPYTER_PATH", f"{tmp_path}/kernels/share/jupyter{os.pathsep}")
    elif request.param.kernel not in KernelSpecManager().find_kernel_specs():
        pytest.skip(f"no kernel for {request.param.name}; on Debian: apt-get install r-cran-irkernel")
    return request.param


def run(folder: Path, language: Language, cell: str, *arguments: str) -> cli.Ended:
    cells = [notebooks.code(language.defaults, tags=["parameters"]), cell, language.prints]
    source = notebooks.write(folder / "a.ipynb", *cells, language=language.name, kernel=language.kernel)
    return cli.runner("run", source, "--output-dir", folder / "out", *arguments)


def printed(folder: Path) -> str:
    cells = cli.executed(folder / "out", "a").cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", ()))


def test_parameters_reach_the_kernel(tmp_path: Path, language: Language) -> None:
    """Numbers and texts, quotes included."""
    ended = run(tmp_path, language, language.prints, "-p", "n", "5", "-r", "name", "it's $n")
    assert ended.code == 0, ended.err
    assert [line.strip() for line in printed(tmp_path).splitlines()] == ["10 it's $n"] * 2
    record = cli.metrics(tmp_path / "out", "a")
    assert record["environment"]["parameters"] == {"n": 5, "name": "it's $n"}
    assert record["source"]["kernel"] == language.kernel


def test_an_error_ends_the_notebook_as_failed(tmp_path: Path, language: Language) -> None:
    """The cell and the kernel's own message are named; nothing runs after it."""
    ended = run(tmp_path, language, language.fails)
    assert ended.code == 1
    record = cli.metrics(tmp_path / "out", "a")
    assert (record["status"], record["failure"]["cell_index"]) == ("failed", 1)
    assert [cell["status"] for cell in record["cells"]] == ["succeeded", "failed", "not-run"]
    assert language.message in ended.out


def test_a_dead_kernel_is_said_to_be_dead(tmp_path: Path, language: Language) -> None:
    """With its signal, and nothing of it is left."""
    ended = run(tmp_path, language, language.dies)
    assert ended.code == 5, ended.err
    record = cli.metrics(tmp_path / "out", "a")
    assert (record["status"], record["failure"]["signal"]) == ("kernel-died", "SIGKILL")


def test_a_cell_that_takes_too_long_is_ended(tmp_path: Path, language: Language) -> None:
    """Its deadline holds in every language, and what it printed before is kept."""
    sleep = "Sys.sleep(600)" if language.name == "R" else "sleep 600"
    ended = run(tmp_path, language, f"{language.prints}\n{sleep}", "--cell-timeout", "15s")
    assert ended.code == 4, ended.err
    record = cli.metrics(tmp_path / "out", "a")
    assert (record["status"], record["failure"]["cell_index"]) == ("timed-out", 1)
    assert "did not run" not in ended.out + record["reason"] + record["failure"]["message"]
    assert "2 x" in printed(tmp_path)
