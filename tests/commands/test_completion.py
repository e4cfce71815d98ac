# SPDX-License-Identifier: Apache-2.0
"""Shells complete commands and options."""

from __future__ import annotations

import subprocess

import pytest
from support import cli

ENTRY = [cli.RUNNER[0], "-c", "import sys; sys.argv[0] = 'runner'; from runner.cli import main; main()"]


def completed(shell: str, step: str, words: str = "", word: str = "0") -> str:
    variables = {"_RUNNER_COMPLETE": f"{shell}_{step}", "COMP_WORDS": words, "COMP_CWORD": word}
    done = subprocess.run(ENTRY, capture_output=True, text=True, env=cli.environment(variables), check=False)
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_given_a_script(shell: str) -> None:
    """Which asks us again at each Tab."""
    assert f"_RUNNER_COMPLETE={shell}_complete" in completed(shell, "source")


@pytest.mark.parametrize(
    ("words", "word", "expected"),
    [
        ("runner ru", "1", ["run", "run-all"]),
        ("runner plan c", "2", ["check"]),
        ("runner run --min", "2", ["--min-gpus", "--min-gpu-memory-gb"]),
        ("runner run --gpu-visibility c", "3", ["chosen"]),
        ("runner cluster inst", "2", ["install"]),
    ],
)
def test_commands_options_and_choices_are_completed(words: str, word: str, expected: list[str]) -> None:
    """At every depth."""
    found = [line.partition(",")[2] for line in completed("bash", "complete", words, word).splitlines()]
    assert found == expected
