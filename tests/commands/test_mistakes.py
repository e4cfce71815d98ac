# SPDX-License-Identifier: Apache-2.0
"""A mistake in a call is answered with the value, what is wrong with it, and what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import cli, notebooks


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("rnu n.ipynb", "no command 'rnu'", "did you mean 'run'? see `runner --help`"),
        ("plan chek n.ipynb", "no command 'plan chek'", "did you mean 'check'? see `runner plan --help`"),
        ("cluster instal", "no command 'cluster instal'", "did you mean 'install'? see `runner cluster --help`"),
        ("help plan chek", "no command 'plan chek'", "did you mean 'check'? see `runner plan --help`"),
        ("xyzzy", "no command 'xyzzy'", "see `runner --help`"),
        ("run n.ipynb --tmeout 2h", "no option '--tmeout'", "did you mean '--timeout'? see `runner run --help`"),
        ("run-all p.yaml --paralel", "no option '--paralel'", "see `runner run-all --help`"),
        ("run", "missing argument 'NOTEBOOK'", "see `runner run --help`"),
        (
            "run n.ipynb --min-gpus two",
            "--min-gpus: 'two' is not a whole number of at least 0 and at most 64",
            "write it like 2; see `runner run --help`",
        ),
        (
            "run n.ipynb --timeout soon",
            "--timeout: 'soon' is not a valid duration",
            "write it like 90s, 15m, 2h or 1h30m; see `runner run --help`",
        ),
        ("plan schema novel", "DOCUMENT: 'novel' is not one of 'plan', 'metrics', 'summary'", "see `runner plan schema --help`"),
        ("run nn.ipynb", "the notebook {folder}/nn.ipynb does not exist", "did you mean 'n.ipynb'? check the path"),
        ("parameters nn.ipynb", "the notebook nn.ipynb does not exist", "did you mean 'n.ipynb'? check the path"),
        ("run-all pan.yaml", "cannot read the plan pan.yaml: No such file or directory", "did you mean 'plan.yaml'?"),
        ("fetch plan.yml", "cannot read the plan plan.yml: No such file or directory", "did you mean 'plan.yaml'?"),
        ("report otputs", "the folder otputs does not exist", "did you mean 'outputs'? give the --output-dir of the runs"),
        ("run n.ipynb --cwd otputs", "the working directory {folder}/otputs does not exist", "did you mean 'outputs'?"),
        ("run n.ipynb -f pan.yaml", "--parameters-file pan.yaml cannot be read", "did you mean 'plan.yaml'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_what_was_meant(tmp_path: Path, line: str, message: str, hint: str) -> None:
    """In the same two lines, whether click or we find it."""
    notebooks.write(tmp_path / "n.ipynb", "1")
    (tmp_path / "plan.yaml").write_text("version: 1\nname: p\nnotebooks: []\n")
    (tmp_path / "outputs").mkdir()

    ended = cli.runner(*line.split(), cwd=tmp_path)

    told = ended.err.splitlines()
    assert (ended.code, ended.out) in {(2, ""), (9, "")}
    assert told[0].startswith(f"runner: {message.format(folder=tmp_path)}")
    assert told[1].startswith(f"  hint: {hint}")
    assert len(told) == 2


def test_a_value_from_a_variable_is_told_by_the_name_of_the_variable() -> None:
    """Nobody typed an option there."""
    ended = cli.runner("gate", env={"RUNNER_GATE_MIN_GPUS": "two"})

    assert ended.code == 2
    assert ended.err.startswith("runner: RUNNER_GATE_MIN_GPUS: 'two' is not a whole number")


def test_a_group_without_a_verb_shows_what_there_is() -> None:
    """On stderr, since it is no answer."""
    ended = cli.runner("plan")

    assert (ended.code, ended.out) == (2, "")
    assert "  check " in ended.err
