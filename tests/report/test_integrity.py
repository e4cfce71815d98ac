# SPDX-License-Identifier: Apache-2.0
"""`runner verify`: checksums of files, and consistency of documents."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support import cli, notebooks, records

from runner.core.errors import UsageError
from runner.core.records import Status, read_metrics, to_json
from runner.outputs import sums
from runner.report.integrity import Verification, verify

NAMES = ("good", "with blank", "bad")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the outputs of a plan that was run and then resumed, so that there are attempts and reused records."""
    folder = tmp_path_factory.mktemp("made")
    cells = {"good": ["print('hi')"], "with blank": ["1 + 1", "2"], "bad": ["x = 1", "raise ValueError('no')", "y = 2"]}
    for name, sources in cells.items():
        notebooks.write(folder / f"{name}.ipynb", *sources)
    entries = [{"name": name, "path": f"{name}.ipynb"} for name in cells]
    (folder / "plan.yaml").write_text(yaml.safe_dump({"version": 1, "name": "small", "notebooks": entries}))
    for options in ((), ("--resume",)):
        ended = cli.runner("run-all", folder / "plan.yaml", "--output-dir", folder / "outputs", *options)
        assert ended.code == 1, ended.err
    return folder / "outputs"


@pytest.fixture
def outputs(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "outputs"))


def check(folder: Path) -> Verification:
    return verify(folder, watch=lambda paths, _seconds: dict.fromkeys(paths, False))


def differences(folder: Path) -> list[str]:
    return [str(one) for one in check(folder).differences]


def named(folder: Path) -> set[str]:
    """Return the files that differ."""
    return {one.path for one in check(folder).differences}


def reseal(folder: Path, name: str) -> None:
    """Recompute the checksums of a notebook, as if to hide a change."""
    sums.write_notebook(folder, name)


def rewrite(folder: Path, name: str, **changes: object) -> None:
    path = folder / f"{name}.metrics.json"
    path.write_text(to_json(dataclasses.replace(read_metrics(path.read_bytes()), **changes)))  # type: ignore[arg-type]
    reseal(folder, name)


def test_a_folder_is_as_its_runs_left_it(outputs: Path) -> None:
    """Attempts, reused records and the report included; nothing is left without a sum."""
    found = check(outputs)
    assert found.differences == ()
    assert found.not_judged == ()
    assert found.notebooks == 3
    assert sorted(path.name for path in (outputs / "attempts").iterdir()) == sorted(NAMES)


def test_sha256sum_reads_the_sums(outputs: Path) -> None:
    for path in outputs.rglob("*"):
        if path.name.endswith((".sha256", "SHA256SUMS")):
            done = subprocess.run(
                ["sha256sum", "--strict", "-c", path.name], cwd=path.parent, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            assert len(done.stdout.splitlines()) >= 5


def test_200_of_200_random_changes_of_one_byte_are_found(outputs: Path) -> None:
    """In any file, the sums themselves included, at any place and of any kind."""
    rng = random.Random(12)
    paths = [path for path in sorted(outputs.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    for _ in range(200):
        path = rng.choice(paths)
        before = path.read_bytes()
        place = rng.randrange(len(before))
        after = bytearray(before)
        after[place] ^= rng.randrange(1, 256)
        path.write_bytes(after)
        assert check(outputs).differences, (path, place, before[place], after[place])
        path.write_bytes(before)
    assert check(outputs).differences == ()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("change", [cut, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_file_that_is_cut_empty_or_gone_is_named(outputs: Path, change: Callable[[Path], object]) -> None:
    for path in sorted(path for path in outputs.rglob("*") if path.is_file() and not path.name.startswith(".")):
        before = path.read_bytes()
        change(path)
        assert path.relative_to(outputs).as_posix() in named(outputs)
        path.write_bytes(before)


def succeeded_after_all(folder: Path) -> None:
    rewrite(folder, "bad", status=Status.SUCCEEDED, exit_code=0)


def another_time(folder: Path) -> None:
    rewrite(folder, "bad", wall_seconds=1.0)


def another_source(folder: Path) -> None:
    path = folder / "good.executed.ipynb"
    path.write_text(path.read_text().replace("print('hi')", "print('ho')"))
    reseal(folder, "good")


def a_cell_turned_green(folder: Path) -> None:
    path = folder / "bad.executed.ipynb"
    document = json.loads(path.read_text())
    cell = next(one for one in document["cells"] if one["metadata"].get("runner", {}).get("status") == "failed")
    cell["metadata"]["runner"]["status"] = "succeeded"
    path.write_text(json.dumps(document))
    reseal(folder, "bad")


def another_page(folder: Path) -> None:
    path = folder / "good.html"
    path.write_text(path.read_text() + "<p>more</p>")
    reseal(folder, "good")


def another_notebook(folder: Path) -> None:
    rewrite(folder, "good", notebook="bad")


def nothing_left(folder: Path) -> None:
    shutil.rmtree(folder / "attempts" / "good")
    for path in folder.glob("good.*"):
        path.unlink()


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        (succeeded_after_all, "bad.executed.ipynb", "its status is 'failed', bad.metrics.json has 'succeeded'"),
        (another_time, "reports/summary.json", "it does not match the record of bad"),
        (another_source, "good.executed.ipynb", "good.metrics.json records another SHA-256"),
        (a_cell_turned_green, "bad.executed.ipynb", "cell 2 is 'succeeded', bad.metrics.json has 'failed'"),
        (another_page, "good.html", "ro-crate-metadata.json has another SHA-256"),
        (another_notebook, "good.metrics.json", "it is a record of 'bad'"),
        (nothing_left, "good.metrics.json", "it is missing, but the report describes it"),
    ],
)
def test_a_change_that_makes_its_sums_again_does_not_agree_with_the_rest(
    outputs: Path, change: Callable[[Path], None], where: str, what: str
) -> None:
    change(outputs)
    assert [one for one in differences(outputs) if one.startswith(f"{where}: {what}")], differences(outputs)


def test_sums_that_lead_out_of_the_folder_are_not_followed(outputs: Path) -> None:
    (outputs.parent / "secret").write_text("s")
    for name in ("../secret", str(outputs.parent / "secret")):
        path = outputs / "good.sha256"
        path.write_text(path.read_text() + f"{'0' * 64}  {name}\n")
        assert differences(outputs) == [f"good.sha256: it lists {name!r}, which is outside the folder"]
        reseal(outputs, "good")


def test_documents_of_any_shape_are_differences_and_no_error(outputs: Path) -> None:
    """A notebook can write any file into the folder, with correct checksums."""
    rng = random.Random(4)
    odd = [None, 5, -1.5, "x", "../x", "a\0b", [], {}, [{}], {"@id": 1}, True, 10**30]
    paths = [path for path in sorted(outputs.rglob("*")) if path.suffix in {".json", ".ipynb"} and path.name[0] != "."]
    for _ in range(150):
        path = rng.choice(paths)
        before = path.read_text()
        document = json.loads(before)
        holders = [document]
        for holder in holders:
            inside = holder.values() if isinstance(holder, dict) else holder
            holders += [one for one in inside if isinstance(one, dict | list) and one]
        holder = rng.choice(holders)
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        holder[key] = rng.choice(odd)
        path.write_text(json.dumps(document))
        if path.parent == outputs and path.name != "ro-crate-metadata.json":
            reseal(outputs, path.name.removesuffix(".metrics.json").removesuffix(".executed.ipynb"))
        elif path.parent.name != "1":
            sums.refresh(outputs / sums.REPORT, os.path.relpath(path, outputs / "reports"))
        assert check(outputs).notebooks == 3
        path.write_text(before)
    path = outputs / "good.sha256"
    path.write_text(path.read_text() + f"{'0' * 64}  a\0b\n")
    assert [one for one in differences(outputs) if "it is missing or cannot be read" in one]


def test_what_runs_or_was_cut_off_is_not_judged(outputs: Path) -> None:
    """Its files change, or were never finished; the rest is judged."""
    records.running(outputs, "good")
    cut(outputs / "good.log")
    assert check(outputs).differences == ()
    assert "good.metrics.json: its run was lost" in map(str, check(outputs).not_judged)
    (outputs / "good.running").unlink()
    assert named(outputs) >= {"good.log"}

    rewrite(outputs, "good", provisional=True, stage="release")
    assert "good.metrics.json" in named(outputs), "its sums say that it is final"
    (outputs / "good.sha256").unlink()
    assert "good.metrics.json: its run was interrupted before it wrote its final record and checksums" in map(
        str, check(outputs).not_judged
    )


def test_files_that_no_run_wrote_are_named_and_no_difference(outputs: Path) -> None:
    (outputs / "notes.txt").write_text("mine")
    found = check(outputs)
    assert found.differences == ()
    assert [str(one) for one in found.not_judged] == ["notes.txt: it has no checksum"]


def test_a_report_that_was_written_into_the_folder_is_a_difference(outputs: Path) -> None:
    (outputs / "reports" / "complete_analysis_report_20300101_000000.html").write_text("fine")
    assert differences(outputs) == [
        "reports/complete_analysis_report_20300101_000000.html: SHA256SUMS does not list it"
    ]


def test_a_later_report_does_not_vouch_for_an_earlier_page_that_was_changed(outputs: Path) -> None:
    page = min((outputs / "reports").glob("*.html"))
    page.write_text("fine")
    assert cli.runner("report", outputs).code == 0
    assert named(outputs) == {page.relative_to(outputs).as_posix()}


def test_a_page_that_is_converted_again_leaves_sums_and_crate_right(outputs: Path) -> None:
    """Also an earlier attempt's; and it does not vouch for the other files."""
    attempt = outputs / "attempts" / "good" / "1" / "good.executed.ipynb"
    for notebook in (outputs / "with blank.executed.ipynb", attempt):
        page = Path(str(notebook).replace(".executed.ipynb", ".html"))
        before = page.read_bytes()
        assert cli.runner("convert", "--trust-html", notebook).code == 0
        assert page.read_bytes() != before
        assert differences(outputs) == []

    cut(outputs / "good.log")
    assert cli.runner("convert", outputs / "good.executed.ipynb").code == 0
    assert named(outputs) == {"good.log"}


def test_a_run_of_one_notebook_after_the_report_leaves_the_folder_right(outputs: Path) -> None:
    """The report is on the run before, whose files are among the attempts."""
    source = outputs.parent / "good.ipynb"
    notebooks.write(source, "print('hi again')")
    assert cli.runner("run", source, "--output-dir", outputs).code == 0
    assert check(outputs).differences == ()
    shutil.rmtree(outputs / "attempts" / "good")
    found = check(outputs)
    assert found.differences == ()
    assert {str(one) for one in found.not_judged} == {
        "good.metrics.json: the report describes an earlier run, whose files no longer exist"
    }


def test_the_command_says_what_differs_and_exits_9(outputs: Path) -> None:
    ended = cli.runner("verify", outputs)
    assert ended.code == 0, ended.out
    assert ended.out.splitlines()[-1].endswith("of 3 notebooks checked: no difference")

    cut(outputs / "bad.html")
    (outputs / "\x1b[31mred.log").write_text("hostile")
    ended = cli.runner("verify", outputs)
    assert ended.code == 9
    assert "bad.html: its SHA-256 is " in ended.out
    assert "\x1b" not in ended.out
    answer = json.loads(cli.runner("verify", outputs, "--json").out)
    assert answer["ok"] is False
    assert {one["path"] for one in answer["differences"]} == {"bad.html"}


def test_a_folder_without_runs_is_a_usage_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError):
            verify(folder)


def test_a_folder_that_was_cleaned_is_right(outputs: Path) -> None:
    ended = cli.runner("clean", outputs, "--keep-attempts", "0")
    assert ended.code == 0, ended.err
    assert not list((outputs / "attempts").iterdir())
    assert len(list((outputs / "reports").glob("*.html"))) == 1
    found = check(outputs)
    assert (found.differences, found.not_judged) == ((), ())
