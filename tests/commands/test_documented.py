# SPDX-License-Identifier: Apache-2.0
"""Every command that a help text, README or the documentation shows is one that works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from support import cli as command_line
from support import notebooks

from runner.cli import cli
from runner.demo import copy_to

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "examples" / "README.md",
    ROOT / "images" / "README.md",
    ROOT / "tekton" / "docs" / "README.md",
]
ELSEWHERE = {"clone", "cluster", "fetch", "demo", "fit", "forecast", "repair"}
"""Commands whose examples need a network, a cluster, a GPU, minutes or a held run; what they are given is checked, they are not run."""


def commands_in_pages() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:console|sh|bash)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                shown = re.match(r"\s*(?:\$ |nohup )?(runner .*)", line)
                if shown:
                    found.append((page.relative_to(ROOT).as_posix(), shown[1]))
    return found


def commands_in_helps() -> list[tuple[str, str]]:
    def walk(ctx: click.Context) -> list[tuple[str, str]]:
        found = [
            (ctx.command_path, line.strip())
            for line in (ctx.command.help or "").splitlines()
            if line.strip().startswith("runner ")
        ]
        if isinstance(ctx.command, click.Group):
            for name in ctx.command.list_commands(ctx):
                inner = ctx.command.get_command(ctx, name)
                found += walk(click.Context(inner, info_name=name, parent=ctx))
        return found

    return walk(click.Context(cli, info_name="runner"))


def words(line: str) -> list[str]:
    """Return the arguments of a shown command: without its comment, redirection and background."""
    tokens = shlex.split(line, comments=True)[1:]
    for stop in (">", "2>", "2>&1", "<", "|", "&"):
        tokens = tokens[: tokens.index(stop)] if stop in tokens else tokens
    return tokens


SHOWN = sorted({(where, line) for where, line in (*commands_in_pages(), *commands_in_helps())})
PATTERN = re.compile(r"check\|show|install\|validate|\.\.\.")
"""Lines that name several commands at once."""


@pytest.mark.parametrize(("where", "line"), SHOWN, ids=[f"{where}: {line}" for where, line in SHOWN])
def test_what_is_shown_is_a_command_with_options_that_exist(
    where: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Command, options and the types of their values are parsed as click would for a user."""
    if PATTERN.search(line):
        names = re.split(r"[|.]+", line.split()[2])
        group = cli.get_command(click.Context(cli), line.split()[1])
        assert isinstance(group, click.Group)
        assert set(filter(None, names)) <= set(group.list_commands(click.Context(group)))
        return
    ctx = click.Context(cli, info_name="runner")
    command, arguments = cli, words(line)
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        inner = command.get_command(ctx, arguments.pop(0))
        assert inner is not None, line
        command = inner
    if isinstance(command, click.Group) or {"--help", "-h"} & set(arguments):
        return
    for option in command.params:
        if isinstance(option.type, click.Path):
            monkeypatch.setattr(option.type, "exists", False)  # the files of the reader
    command.make_context("runner", arguments)


def local_examples() -> list[str]:
    """Return the examples of the help texts that a machine without network, cluster and GPU can run."""
    lines = [line for _, line in commands_in_helps()]
    return sorted({line for line in lines if words(line) and words(line)[0] not in ELSEWHERE})


@pytest.mark.slow
def test_every_local_example_of_the_help_texts_runs_on_the_demo(tmp_path: Path) -> None:
    """With the names that the examples use in place, each ends with one of its documented codes, never with an error."""
    copy_to(tmp_path)
    plan = (tmp_path / "plan.yaml").read_text()
    notebooks.write(tmp_path / "notebook.ipynb", "n_top_genes = 1", "print(n_top_genes)")
    for name in ("01_preprocessing", "02_extended", "census"):
        notebooks.write(tmp_path / f"{name}.ipynb", "print('x')")
        plan += f"\n  - {{name: {name}, path: {name}.ipynb}}\n"
    for name in ("01_quality_and_pca", "02_clusters_and_markers", "03_pearson_residuals"):
        notebooks.write(tmp_path / f"{name}.ipynb", "n_top_genes = 1", "print(n_top_genes)")
    (tmp_path / "notebooks").mkdir()
    notebooks.write(tmp_path / "notebooks" / "first.ipynb", "1")
    plan = re.sub(r"    (?:products|expect|requires|needs): .*\n", "", plan)
    (tmp_path / "plan.yaml").write_text(plan)
    first = command_line.runner("run", "notebook.ipynb", "--name", "01", cwd=tmp_path)
    assert first.code == 0, first.err
    assert command_line.runner("report", "outputs", cwd=tmp_path).code == 0
    (tmp_path / "last-week").mkdir()
    (tmp_path / "outputs" / "reports" / "summary.json").rename(tmp_path / "last-week" / "summary.json")

    for line in local_examples():
        if any(part in line for part in ("--checkout ~", "/miniforge3/", "--attestation", "--wait")):
            continue  # folders and files of the reader, and ten minutes
        if line.startswith("runner plan init"):
            (tmp_path / "plan.yaml").rename(tmp_path / "kept.yaml")  # it writes no other one over it
        ended = command_line.runner(*words(line), cwd=tmp_path)
        if (tmp_path / "kept.yaml").exists():
            (tmp_path / "kept.yaml").rename(tmp_path / "plan.yaml")
        assert ended.code in {0, 3} or (ended.code in {1, 7} and "--fail-on" in line), f"{line}: {ended.err}"
        assert "Traceback" not in ended.err, line
