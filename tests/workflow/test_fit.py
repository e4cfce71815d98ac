# SPDX-License-Identifier: Apache-2.0
"""`runner fit`: the smallest card is found in few runs, and nothing of the notebook's own is touched."""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path

import pytest
import simdriver
from support import cli, notebooks

from runner.core import files
from runner.core.errors import UsageError
from runner.core.records import Cause, Failure, Metrics, Status
from runner.machine.card_size import CARDS_GB
from runner.plan.job import Options, resolve
from runner.run.trial import scratch
from runner.workflow.fit import Attempt, bisect, judged


def trying(enough_gb: float, tried: list[int]):
    """Return an attempt that succeeds from a size on."""

    def attempt(card_gb: int) -> Attempt:
        tried.append(card_gb)
        status = "succeeded" if card_gb >= enough_gb else "failed"
        return Attempt(card_gb=card_gb, left_bytes=0, status=status, wall_seconds=1)

    return attempt


@pytest.mark.parametrize("enough_gb", [*CARDS_GB, 1, 10**6])
def test_the_smallest_card_is_found_in_four_runs(enough_gb):
    """Whichever of all common cards it is, or none."""
    tried: list[int] = []
    proved = [one.card_gb for one in bisect(CARDS_GB, 4, trying(enough_gb, tried)) if one.fits]
    assert len(tried) == len(set(tried)) <= 4
    assert min(proved, default=None) == next((card for card in CARDS_GB if card >= enough_gb), None)


def test_fewer_runs_prove_less_and_never_something_else():
    """What was not run is not claimed."""
    tried: list[int] = []
    attempts = bisect((16, 24, 48, 80), 1, trying(24, tried))
    assert [(one.card_gb, one.fits) for one in attempts] == [(48, True)]


def planned(folder: Path, *cells: str) -> Options:
    checkout = folder / "checkout"
    notebooks.write(checkout / "nb" / "n.ipynb", *cells)
    (checkout / "nb" / "data.txt").write_text("precious")
    (checkout / "nb" / "link").symlink_to("data.txt")
    return Options(notebook=str(checkout / "nb" / "n.ipynb"), output_dir=checkout / "nb" / "outputs")


def test_attempts_run_on_a_copy_without_earlier_outputs(tmp_path):
    """Also if outputs and scratch are inside the checkout; leftovers of a killed attempt are removed by the next."""
    options = planned(tmp_path, "1")
    job = resolve(options)
    job.output_dir.mkdir()
    (job.output_dir / "big").write_text("x")
    left = job.output_dir.parent / ".trial-00000000-1-1-abcdefgh"
    killed = Path(str(left).replace("00000000-1-1", files.mark().rpartition("-")[0] + "-1"))
    killed.mkdir()
    left.mkdir()
    with scratch(job) as trial:
        copy = Path(trial.notebook).parent
        assert not killed.exists()
        assert sorted(path.name for path in copy.iterdir() if not path.name.startswith(".trial")) == [
            "data.txt",
            "link",
            "n.ipynb",
        ]
        assert (copy / "link").is_symlink()
        (copy / "data.txt").write_text("changed")
        assert trial.output_dir != options.output_dir
        folder = copy.parent
    assert not folder.exists()
    assert (job.source.parent / "data.txt").read_text() == "precious"
    assert left.exists()  # of another machine or boot


def test_a_failure_for_another_reason_proves_nothing():
    """A notebook that lacks a file would fail on every card."""
    failed = Metrics.__new__(Metrics)
    values = {"notebook": "n", "status": Status.FAILED, "reason": "no such file", "wall_seconds": 1.0, "gpus": ()}
    for name, value in values.items():
        object.__setattr__(failed, name, value)
    object.__setattr__(failed, "failure", Failure(message="x", cause=Cause.MISSING_FILE))
    with pytest.raises(UsageError, match="not for lack of GPU memory: no such file"):
        judged(24, 1, failed)


PRETEND = """
import contextlib, sys
from pathlib import Path
from runner.workflow import fit

left = Path(sys.argv[1])


@contextlib.contextmanager
def ballast(gpu, leave_bytes):
    left.write_text(str(leave_bytes))
    yield


fit.Ballast = ballast
sys.argv = ["runner", *sys.argv[2:]]
from runner.cli import main
main()
"""
NEEDS_20_GB = """
class OutOfMemoryError(Exception): pass
free = int(open({left!r}).read())
if free < 20_000_000_000:
    raise OutOfMemoryError("Out of memory allocating 3,200,000,000 bytes (allocated so far: 16,000,000,000 bytes).")
open("made.txt", "w").write("x")
"""


@pytest.mark.skipif(simdriver.COMPILER is None, reason=simdriver.NO_COMPILER)
def test_the_command_says_which_card_is_proved_and_where_the_others_fail(tmp_path):
    """With time, cell and requested memory; checkout and outputs are unchanged."""
    left = tmp_path / "left.txt"
    planned(tmp_path, "1", textwrap.dedent(NEEDS_20_GB.format(left=str(left))))
    driver = simdriver.SimulatedDriver(tmp_path, tmp_path)
    driver.write(simdriver.Device())
    checkout = tmp_path / "checkout" / "nb"
    before = sorted(path.name for path in checkout.iterdir())

    def fit(*options: object) -> cli.Ended:
        return cli.python(
            PRETEND,
            left,
            "fit",
            checkout / "n.ipynb",
            "--output-dir",
            checkout / "outputs",
            *options,
            env=driver.environ(),
        )

    ended = fit("--cards", "16,24,48,300", "--runs", "3")
    assert ended.code == 0, ended.err
    smaller, proved, *_ = ended.out.splitlines()
    assert smaller == "16 GB: fails in cell 2 allocating 3.2 GB"
    assert proved.startswith("proved on 24 GB: ")
    assert "card_gb=300" in ended.err
    assert sorted(path.name for path in checkout.iterdir()) == sorted([*before, "outputs"])
    assert [path.name for path in (checkout / "outputs").iterdir()] == ["n.fit.json"]

    left.write_text(str(80 * 10**9))
    run = ("run", checkout / "n.ipynb", "--output-dir", checkout / "outputs", "--min-gpus", 1, "--no-html")
    assert cli.runner(*run, env=driver.environ()).code == 0
    page = Path(cli.runner("report", checkout / "outputs").out.strip())
    assert "<br>proved on 24 GB: " in page.read_text()
    notebooks.write(checkout / "n.ipynb", "print('another one')")
    assert cli.runner(*run, env=driver.environ()).code == 0
    assert "proved on" not in Path(cli.runner("report", checkout / "outputs").out.strip()).read_text()
    notebooks.write(checkout / "n.ipynb", "1", textwrap.dedent(NEEDS_20_GB.format(left=str(left))))
    ended = fit("--cards", "16", "--json")
    assert ended.code == 3
    answer = json.loads(ended.out)
    assert answer["smallest_card_gb"] is None
    assert [(one["card_gb"], one["cell"], one["asked_bytes"]) for one in answer["attempts"]] == [(16, 2, 3_200_000_000)]
    assert fit("--cards", "300").code == 3
    assert fit("--cards", "x").code == 2


def test_without_a_driver_nothing_is_proved(tmp_path):
    """The message is the gate's."""
    planned(tmp_path, "1")
    env = {"LD_LIBRARY_PATH": "", "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
    ended = cli.runner("fit", tmp_path / "checkout" / "nb" / "n.ipynb", env=env)
    assert ended.code == 3
    assert "hint:" in ended.err
