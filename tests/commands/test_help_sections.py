# SPDX-License-Identifier: Apache-2.0
"""The long helps list their options by heading."""

from __future__ import annotations

import re

import click
import pytest

from runner.cli import cli
from runner.commands.help_sections import Sectioned

HEADINGS = ["Notebook", "Parameters", "Plan", "GPUs", "Limits", "Reuse", "Outputs", "Options"]


def help_of(name: str) -> tuple[click.Command, str]:
    ctx = click.Context(cli, info_name="runner")
    command = cli.get_command(ctx, name)
    assert command is not None
    return command, click.Context(command, info_name=name, parent=ctx, max_content_width=100).get_help()


@pytest.mark.parametrize("name", ["run", "run-all", "fit", "forecast"])
def test_each_option_stands_once_and_under_a_heading(name: str) -> None:
    """What belongs to no heading is --help alone, so that a new option does not end at the bottom unseen."""
    command, text = help_of(name)

    assert isinstance(command, Sectioned)
    found = [line.removesuffix(":") for line in text.splitlines() if re.fullmatch(r"[A-Z][A-Za-z ]+:", line)]
    assert found == [heading for heading in HEADINGS if heading in found]
    assert {"Notebook", "Plan", "GPUs", "Limits", "Reuse", "Outputs"} <= set(found)
    rows = re.findall(r"^  (?:-\w, )?(--[a-z0-9-]+)", text, re.MULTILINE)
    shown = [max(one.opts, key=len) for one in command.params if isinstance(one, click.Option) and not one.hidden]
    assert sorted(rows) == sorted([*shown, "--help"])
    assert re.findall(r"--[a-z0-9-]+", text.partition("\nOptions:\n")[2]) == ["--help"]


@pytest.mark.parametrize(
    ("option", "heading"),
    [("--min-gpus", "GPUs"), ("--timeout", "Limits"), ("--output-dir", "Outputs"), ("--kernel", "Notebook")],
)
def test_an_option_stands_where_one_looks_for_it(option: str, heading: str) -> None:
    """The heading above it is the one of its subject."""
    _, text = help_of("run")
    before = text[: text.index(f"\n  {option} ")]
    assert re.findall(r"^([A-Z][A-Za-z ]+):$", before, re.MULTILINE)[-1] == heading
