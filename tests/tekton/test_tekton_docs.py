# SPDX-License-Identifier: Apache-2.0
"""The guides name commands, files and parameters that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from support import tekton

from runner.cli import cli

GUIDES = sorted((tekton.TEKTON / "docs").glob("*.md"))
COMMAND = re.compile(r"`((?:launch|runner) [^`]+)`|^    ((?:launch|runner) .+)$", re.MULTILINE)


def commands():
    for guide in GUIDES:
        for inline, block in COMMAND.findall(guide.read_text()):
            text = (inline or block).partition(" > ")[0].replace("launch ", "runner cluster ", 1)
            if "..." not in text:
                yield f"{guide.name}: {text}", shlex.split(re.sub(r" ?\[[^\]]*\]", "", text).replace("\\|", "|"))[1:]


def test_there_are_guides():
    """A quick start of five minutes, and a guide with everything."""
    assert {guide.name for guide in GUIDES} >= {"README.md", "EXECUTION_GUIDE.md"}
    assert len((tekton.TEKTON / "docs" / "README.md").read_text().split()) < 600


@pytest.mark.parametrize(("text", "arguments"), list(commands()), ids=[text for text, _ in commands()])
def test_a_command_of_a_guide_is_one_of_ours(text, arguments, tmp_path, monkeypatch):
    """The command line understands every command that a guide shows; words in capitals stand for values."""
    monkeypatch.chdir(tmp_path)
    for argument in arguments:
        if argument.endswith(".json"):  # has to exist when it is named
            (tmp_path / argument).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / argument).write_text("{}")
    context = cli.make_context("runner", list(arguments))
    command: click.Command = cli
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("guide", GUIDES, ids=[guide.name for guide in GUIDES])
def test_files_of_a_guide_exist(guide):
    """Paths in the guides lead somewhere."""
    for path in re.findall(
        r"`((?:configs|tasks|pipelines|pipelineruns|overlays|monitoring|tekton|images)/[\w./-]*)`", guide.read_text()
    ):
        assert (tekton.TEKTON / path).exists() or (tekton.ROOT / path).exists(), path
    for path in re.findall(r"\((\w+\.md)\)", guide.read_text()):
        assert (guide.parent / Path(path)).exists()


def test_parameters_of_the_guide_are_those_of_the_pipelines():
    """No parameter of the complete workflow is missing from the table, and none is invented."""
    text = (tekton.TEKTON / "docs" / "EXECUTION_GUIDE.md").read_text()
    section = text.partition("## Parameters of the pipelines")[2].partition("## Sizes")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
    declared = {param["name"] for param in tekton.pipelines()["complete-scrna-analysis-workflow"]["spec"]["params"]}
    assert named == declared


def test_sizes_of_the_guide_are_those_of_the_plan():
    """The sizing table says what the plan says."""
    from runner.plan.model import load
    from runner.tekton.sizes import needs

    text = (tekton.TEKTON / "docs" / "EXECUTION_GUIDE.md").read_text()
    for notebook in load(tekton.TEKTON / "configs" / "gpu-resource-config.yaml").notebooks:
        asked = needs(notebook)
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {notebook.name[:2]} ")]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1] == ("yes" if notebook.optional else "")
        assert cells[2].split()[0] == str(asked.gpus)
        assert cells[3:6] == [f"{asked.gpu_memory_gb:g} GB", f"{asked.cpus:g}", f"{asked.memory_gib}Gi"]
        assert cells[6] == f"{notebook.timeout / 3600:g} h"
