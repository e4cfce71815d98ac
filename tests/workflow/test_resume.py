# SPDX-License-Identifier: Apache-2.0
"""`--resume`: valid results are reused, others run, and each decision has a reason."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import cli, notebooks

from runner.core import files
from runner.core.hash_cache import HashCache
from runner.core.records import Metrics, Status, read_metrics, to_json
from runner.core.redact import Redactor
from runner.plan.job import Options, resolve
from runner.run import ingredients, preflight, reuse
from runner.stages.record import provenance
from runner.workflow.run_all import Choice, dry_run, run_all

MAKE = "import os, helper\nos.makedirs('out', exist_ok=True)\nopen('out/a.txt', 'w').write(f'{n} {helper.X}')"
READ = "text = open('out/a.txt').read().split()[0]\nopen('out/b.txt', 'w').write(str(int(text) // 100))"


def write_plan(folder: Path, **changes: dict[str, Any]) -> Path:
    """Write the plan a -> b -> c and an independent d; ``changes`` by notebook."""
    entries: list[dict[str, Any]] = [
        {"name": "a", "products": ["out/a.txt"], "parameters": {"n": 2000}},
        {"name": "b", "products": ["out/b.txt"], "needs": ["a"]},
        {"name": "c", "needs": ["b"], "expect": {"min_figures": 0}},
        {"name": "d", "env": {"COLOUR": "red"}},
    ]
    made = [{"path": f"{entry['name']}.ipynb", **entry, **changes.get(entry["name"], {})} for entry in entries]
    (folder / "plan.yaml").write_text(yaml.safe_dump({"version": 1, "name": "small", "notebooks": made}))
    return folder / "plan.yaml"


def write_notebooks(folder: Path, **sources: list[str]) -> None:
    cells = {
        "a": ["n = 1", MAKE],
        "b": [READ],
        "c": ["print(open('out/b.txt').read())"],
        "d": ["import os\nprint(os.environ['COLOUR'])"],
    }
    for name, each in {**cells, **sources}.items():
        notebooks.write(folder / f"{name}.ipynb", notebooks.markdown("# Title"), *each)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder whose plan has been run once; tests work on copies, which are checkouts in another place."""
    folder = tmp_path_factory.mktemp("finished")
    write_notebooks(folder)
    (folder / "helper.py").write_text("X = 1\n")
    ended = cli.runner("run-all", write_plan(folder), "--output-dir", folder / "outputs", "--run-id", "first-run")
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture
def done(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "checkout"))


def options(folder: Path, **changes: Any) -> Options:
    given = {"notebook": "", "plan": folder / "plan.yaml", "output_dir": folder / "outputs", "resume": True}
    return Options(**(given | changes))


def decided(folder: Path, choice: Choice | None = None, **changes: Any) -> dict[str, str]:
    """Return the decision on each notebook."""
    answer = json.loads(dry_run(options(folder, **changes), choice or Choice(), as_json=True))["notebooks"]
    return {
        one["name"]: {
            "reused": "; ".join(one["because"]),
            "runs": "runs because " + "; ".join(one["because"]),
            "depends": f"depends on {', '.join(one['depends_on'])}",
        }[one["decision"]]
        for one in answer
    }


def record(folder: Path, name: str) -> Metrics:
    return read_metrics((folder / "outputs" / f"{name}.metrics.json").read_bytes())


def rewrite(folder: Path, name: str, **changes: Any) -> None:
    """Change fields of a record."""
    path = folder / "outputs" / f"{name}.metrics.json"
    path.write_text(to_json(dataclasses.replace(record(folder, name), **changes)))


FROM_FIRST = "reused from run first-ru"


def reused(sentence: str) -> bool:
    return sentence.startswith(FROM_FIRST)


def test_a_checkout_that_was_moved_is_reused_whole(done: Path) -> None:
    """Also by another user, and with the plan's notebooks in another order."""
    assert all(reused(sentence) for sentence in decided(done).values())
    document = yaml.safe_load((done / "plan.yaml").read_text())
    document["notebooks"].insert(0, document["notebooks"].pop())
    (done / "plan.yaml").write_text(yaml.safe_dump(document))
    assert all(reused(sentence) for sentence in decided(done).values())


@pytest.mark.parametrize("years", [-30, 10])
def test_a_clock_that_jumped_changes_no_decision(done: Path, years: int) -> None:
    """Timestamps in the future or the distant past are ignored: only content counts."""
    moment = time.time() + years * 365 * 86400
    when = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    for name in "abcd":
        rewrite(done, name, started_at=when, ended_at=when)
    for path in done.rglob("*"):
        os.utime(path, (moment, moment))
    assert {sentence.partition(" (")[0] for sentence in decided(done).values()} == {FROM_FIRST}
    assert run_all(options(done, run_id="second"), Choice()).exit_code == 0
    assert record(done, "a").run_id == "second"
    newest = json.loads(run(done, "--resume", "--dry-run", "--json").out)["notebooks"]
    assert {one["decision"] for one in newest} == {"reused"}

    product = done / "out" / "b.txt"
    product.write_text("9" * product.stat().st_size)
    os.utime(product, (moment, moment))
    assert decided(done)["b"] == "runs because out/b.txt has changed since that run"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to another user")
def test_files_of_another_user_are_reused(done: Path) -> None:
    for path in done.rglob("*"):
        os.chown(path, 12345, 12345)
    assert all(reused(sentence) for sentence in decided(done).values())


def test_comments_and_text_are_reused_and_said_so(done: Path) -> None:
    write_notebooks(done, a=["n = 1  # genes", "# why\n" + MAKE])
    assert decided(done)["a"].endswith("; only comments or text changed")
    write_notebooks(done)
    notebooks.write(done / "d.ipynb", notebooks.markdown("# Another"), "import os\nprint(os.environ['COLOUR'])")
    assert decided(done)["d"].endswith("; only comments or text changed")


def test_a_changed_parameter_runs_and_leaves_the_rest_to_its_products(done: Path) -> None:
    write_plan(done, a={"parameters": {"n": 5000}})
    found = decided(done)
    assert found["a"] == "runs because parameter n changed 2000 -> 5000"
    assert found["b"] == "depends on a"
    assert found["c"] == "depends on b"
    assert reused(found["d"])


def edit_product(folder: Path) -> None:
    (folder / "out" / "a.txt").write_text("9 9")


def edit_notebook(folder: Path) -> None:
    path = folder / "outputs" / "a.executed.ipynb"
    path.write_text(path.read_text().replace("n = 2000", "n = 2001"))


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("a", lambda f: write_notebooks(f, a=["n = 1", MAKE, "print(n)"]), "cell 3 was added"),
        ("a", lambda f: (f / "helper.py").write_text("X = 2\n"), "helper.py has changed"),
        ("a", lambda f: (f / "helper.py").unlink(), "helper.py is missing"),
        ("a", edit_product, "out/a.txt has changed since that run"),
        ("b", edit_product, "out/a.txt was rebuilt with different content"),
        ("b", lambda f: (f / "out" / "b.txt").unlink(), "out/b.txt is missing"),
        ("a", edit_notebook, "the executed notebook was edited"),
        ("a", lambda f: (f / "outputs" / "a.executed.ipynb").unlink(), "the executed notebook is missing"),
        ("d", lambda f: write_plan(f, d={"env": {"COLOUR": "blue"}}), "variable COLOUR changed red -> blue"),
        ("d", lambda f: write_plan(f, d={"resume": "never"}), "the plan says resume: never"),
        ("d", lambda f: rewrite(f, "d", provisional=True, stage="release"), "its record is provisional"),
        ("d", lambda f: rewrite(f, "d", schema_version=2), "its record has schema version 2, this version of runner reads 1"),
        ("d", lambda f: rewrite(f, "d", schema_version=0), "its record has schema version 0, this version of runner reads 1"),
        ("d", lambda f: rewrite(f, "d", status=Status.FAILED, exit_code=1), "its last run ended failed"),
        ("d", lambda f: rewrite(f, "d", resume_key=None), "its record has no key"),
        ("d", lambda f: rewrite(f, "d", ingredients={"key": "1"}), "its record was edited"),
        ("d", lambda f: (f / "outputs" / "d.metrics.json").write_text("{"), "its record cannot be read: it is not valid"),
        ("d", lambda f: (f / "outputs" / "d.metrics.json").unlink(), "it has no earlier run"),
        ("c", lambda f: write_plan(f, c={"expect": {"files": ["gone.txt"]}}), "the expected file gone.txt is invalid"),
    ],
)  # fmt: skip
def test_each_reason_to_run_again_is_named(done: Path, name: str, change: Callable[[Path], Any], why: str) -> None:
    change(done)
    found = decided(done)
    assert found[name].startswith(f"runs because {why}"), found
    others = {other for other, sentence in found.items() if not reused(sentence) and other != name}
    assert others <= {"a", "b", "c"}, "what stands alone is not touched"


def test_other_packages_run_everything_and_are_named(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = provenance.here()
    monkeypatch.setattr(ingredients, "_here", lambda: {**here, "click": "99.0"})
    assert set(decided(done).values()) == {f"runs because click {here['click']} -> 99.0"}


def test_an_undetermined_kernel_is_never_reused(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingredients, "_packages", lambda kernel, env: None)
    assert decided(done)["d"] == "runs because the packages of its kernel 'python3' cannot be listed"


def test_the_one_that_is_asked_for_runs(done: Path) -> None:
    found = decided(done, Choice(rerun=["b"]))
    assert found == {
        **{name: found[name] for name in "ad"},
        "b": "runs because --rerun was given",
        "c": "depends on b",
    }
    assert reused(found["a"])


def test_expectations_are_judged_anew(done: Path) -> None:
    """The same inputs make the same figures: running again would not help."""
    write_plan(done, c={"expect": {"min_figures": 3}})
    assert reused(decided(done)["c"])
    result = run_all(options(done), Choice())
    assert result.exit_code == 1
    taken = record(done, "c")
    assert (taken.status, taken.exit_code) == (Status.UNEXPECTED_RESULTS, 7)
    write_plan(done)
    assert run_all(options(done), Choice()).exit_code == 0, "the success that is kept among the attempts still stands"
    assert record(done, "c").status is Status.SUCCEEDED


def test_a_reused_plan_leaves_whole_records_and_a_whole_report(done: Path) -> None:
    """A page that is missing is made again; the run of before stays among the attempts."""
    (done / "outputs" / "b.html").unlink()
    before = {name: record(done, name) for name in "abcd"}

    result = run_all(options(done, run_id="second-run"), Choice())

    assert result.exit_code == 0
    for name, old in before.items():
        new = record(done, name)
        assert new.reused_from is not None
        assert (new.run_id, new.reused_from.run_id) == ("second-run", "first-run")
        assert (new.wall_seconds, new.cells, new.resume_key) == (old.wall_seconds, old.cells, old.resume_key)
        assert new.spent_seconds is not None
        assert (done / "outputs" / f"{name}.executed.ipynb").exists()
        assert (done / "outputs" / f"{name}.html").exists()
        assert (done / "outputs" / "attempts" / name / "1" / f"{name}.metrics.json").exists()
        assert new.outputs.attempts == (f"attempts/{name}/1",)
    summary = json.loads((done / "outputs" / "reports" / "summary.json").read_text())
    assert summary["run_id"] == "second-run"
    assert summary["verdict"] == "succeeded"
    assert summary["saved_seconds"] == pytest.approx(sum(old.wall_seconds for old in before.values()))
    assert summary["spent_seconds"] == pytest.approx(sum(record(done, n).spent_seconds or 0 for n in "abcd"))
    assert {one["reused_from"] for one in summary["notebooks"]} == {"first-run"}
    page = max((done / "outputs" / "reports").glob("*.html")).read_text()
    assert "from run first-ru" in page
    assert "Saved by reuse" in page

    assert run_all(options(done, run_id="third-run"), Choice()).exit_code == 0
    again = record(done, "a")
    assert again.reused_from is not None
    assert again.reused_from.run_id == "first-run", "where the figures come from, through any number of reuses"


def test_a_kill_in_the_middle_of_reuse_loses_nothing(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it strikes, the next run finds the earlier success, in its place or among the attempts."""

    class Killed(BaseException):
        pass

    def reuse_b(folder: Path) -> None:
        job = resolve(dataclasses.replace(options(folder, run_id="later"), notebook="b"))
        decision = reuse.decide(job, preflight.check(job), HashCache(folder / "none"), Redactor([]))
        assert decision.reused is not None, decision.because
        reuse.take_over(job, decision, Redactor([]), 0.0)

    rename, link, write = Path.rename, os.link, files.write
    for deadly in range(1, 40):
        folder = Path(shutil.copytree(done, tmp_path / str(deadly)))
        left = [deadly]

        def mortal(function: Any, left: list[int] = left) -> Any:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    raise Killed
                return function(*args, **kwargs)

            return wrapped

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", mortal(rename))
            patch.setattr(os, "link", mortal(link))
            patch.setattr(files, "write", mortal(write))
            try:
                reuse_b(folder)
                break
            except Killed:
                pass
        reuse_b(folder)
        found = {path.suffix for path in (folder / "outputs").glob("b.*")}
        assert found == {".ipynb", ".html", ".json", ".csv", ".log", ".sha256"}, deadly
    assert deadly > 8, "it was killed between its steps"
    assert reused(decided(folder)["b"])


def test_a_run_that_failed_since_then_does_not_cost_the_success_before(done: Path) -> None:
    """Its files lie among the attempts, and are brought back."""
    earlier = done / "outputs" / "attempts" / "d" / "1"
    earlier.mkdir(parents=True)
    kept = (done / "outputs" / "d.executed.ipynb").read_bytes()
    for path in (done / "outputs").glob("d.*"):
        path.rename(earlier / path.name)
    (done / "outputs" / "d.executed.ipynb").write_text("{}")
    (done / "outputs" / "d.metrics.json").write_text(
        to_json(dataclasses.replace(read_metrics((earlier / "d.metrics.json").read_bytes()), status=Status.FAILED))
    )
    assert reused(decided(done)["d"])
    assert run_all(options(done, run_id="third"), Choice(only=["d"])).exit_code == 0
    assert (done / "outputs" / "d.executed.ipynb").read_bytes() == kept
    assert record(done, "d").status is Status.SUCCEEDED


def test_a_product_that_a_later_notebook_rewrote_counts_by_its_last_writer(done: Path) -> None:
    """`a` writes out/a.txt, `c` changes it in place: that is no reason to run `a` again."""
    hashes = HashCache(done / "none")
    write_plan(done, c={"products": ["out/a.txt"]})
    (done / "out" / "a.txt").write_text("2000 1 and more")
    content = hashes.digest(done / "out" / "a.txt")
    c = record(done, "c")
    rewrite(done, "c", outputs=dataclasses.replace(c.outputs, product_sha256={"out/a.txt": content}))

    assert reused(decided(done)["a"])
    (done / "out" / "a.txt").write_text("by hand")
    assert decided(done)["a"] == "runs because out/a.txt has changed since that run"


def run(folder: Path, *given: object) -> cli.Ended:
    return cli.runner("run-all", folder / "plan.yaml", "--output-dir", folder / "outputs", "--no-html", *given)


def test_products_of_the_same_content_stop_the_chain(done: Path) -> None:
    """`a` changed and runs again; its product is the same, so notebooks that need it are reused."""
    write_notebooks(done, a=["n = 1", MAKE, "print('new')"])

    ended = run(done, "--resume", "--run-id", "second")

    assert ended.code == 0, ended.err
    assert record(done, "a").ran_because == ("cell 3 was added",)
    assert all(record(done, name).reused_from is not None for name in "bcd")
    assert 'runs nb=a because="cell 3 was added"' in ended.err
    assert "reused nb=c" in ended.err
    summary = json.loads((done / "outputs" / "reports" / "summary.json").read_text())
    assert summary["notebooks"][0]["ran_because"] == ["cell 3 was added"]
    assert reused(decided(done)["d"])


def test_failed_runs_what_failed_and_what_needs_it(done: Path) -> None:
    rewrite(done, "b", status=Status.FAILED, exit_code=1)

    ended = run(done, "--failed", "--run-id", "second")

    assert ended.code == 0, ended.err
    assert [name for name in "abcd" if record(done, name).run_id == "second"] == ["b", "c"]
    summary = json.loads((done / "outputs" / "reports" / "summary.json").read_text())
    assert {one["name"] for one in summary["left_out"]} == {"a", "d"}
    assert "all notebooks succeeded" in run(done, "--failed").out


def test_two_that_resume_at_once_leave_whole_records(done: Path) -> None:
    """One may find a name claimed, and reports it; the next run reuses everything."""
    command = [*cli.RUNNER, "run-all", str(done / "plan.yaml"), "--output-dir", str(done / "outputs"), "--resume"]
    both = [
        subprocess.Popen([*command, "--run-id", run_id], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for run_id in ("one", "two")
    ]
    codes = [process.wait() for process in both]
    assert set(codes) <= {0, 1}
    assert all(reused(sentence) for sentence in decided(done).values())


def test_one_notebook_of_a_plan_is_resumed_as_the_plan_is(done: Path) -> None:
    """As a step of Tekton does it, with its results."""
    results = done / "results"
    results.mkdir()
    given = ("run", "b", "--plan", done / "plan.yaml", "--output-dir", done / "outputs", "--results-dir", results)
    ended = cli.runner(*given, "--resume")
    assert ended.code == 0, ended.err
    assert "reused nb=b" in ended.err
    assert (results / "status").read_text() == "succeeded"
    assert cli.runner(*given, "--resume", "--rerun", "--no-html").code == 0
    assert record(done, "b").ran_because == ("--rerun was given",)


def test_dry_run_and_rerun_need_resume(done: Path) -> None:
    for given in (("--dry-run",), ("--rerun", "a")):
        ended = run(done, *given)
        assert ended.code == 2
        assert f"{given[0]} works only together with --resume" in ended.err


def test_a_dry_run_tells_the_time_that_it_took_before_and_touches_nothing(done: Path) -> None:
    write_plan(done, a={"parameters": {"n": 5000}})
    before = {path: path.read_bytes() for path in done.rglob("*.json") if path.name != ".hashes.json"}
    ended = run(done, "--resume", "--dry-run")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[0].startswith("a  runs because parameter n changed 2000 -> 5000 (took ")
    assert lines[1].startswith("b  depends on the products of a (took ")
    assert lines[-1].startswith("1 reused, 1 to run, 2 to decide; estimated from earlier runs: ")
    assert before == {path: path.read_bytes() for path in done.rglob("*.json") if path.name != ".hashes.json"}
