# SPDX-License-Identifier: Apache-2.0
"""The command line: helps, options from the environment, usage errors, schemas, and our own faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from support import cli, notebooks

from runner.cli import COMMANDS
from runner.commands.option_types import Duration
from runner.plan.job import Options, resolve

SUBCOMMANDS = [*((name,) for name in COMMANDS if name not in {"plan", "cluster"}), *(("plan", name) for name in (
    "check", "show", "schema", "render"
))]  # fmt: skip


def plan(folder: Path, **changes: Any) -> Path:
    """Write a plan of two notebooks."""
    for name in ("01_quality", "02_clusters"):
        notebooks.write(folder / f"{name}.ipynb", "print('x')")
    document = {
        "version": 1,
        "name": "small",
        "defaults": {"timeout": "2h"},
        "notebooks": [
            {"name": "01_quality", "path": "01_quality.ipynb", "requires": {"gpu_memory_gb": 24}},
            {"name": "02_clusters", "path": "02_clusters.ipynb", "needs": ["01_quality"], "optional": True},
        ],
        **changes,
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(document))
    return folder / "plan.yaml"


def test_the_help_lists_every_command_and_how_to_set_options_by_variables() -> None:
    """A first look tells what there is, with examples."""
    ended = cli.runner("--help")

    assert ended.code == 0
    assert all(f"  {name} " in ended.out for name in COMMANDS)
    assert "RUNNER_<COMMAND>_<OPTION>" in ended.out
    assert "runner demo" in ended.out


@pytest.mark.parametrize("command", SUBCOMMANDS, ids=" ".join)
def test_each_help_has_an_example_on_a_line_of_its_own(command: tuple[str, ...]) -> None:
    """What is shown can be copied."""
    ended = cli.runner(*command, "--help")

    assert ended.code == 0, ended.err
    lines = [line.strip() for line in ended.out.splitlines()]
    assert {"Example:", "Examples:"} & set(lines)
    assert any(line.startswith(f"runner {' '.join(command)}") for line in lines)


@pytest.mark.parametrize(
    "arguments",
    [
        ("fly",),
        ("run",),
        ("run", "n.ipynb", "--no-such-option"),
        ("run", "n.ipynb", "--timeout", "soon"),
        ("run", "n.ipynb", "--timeout", "10"),
        ("run", "n.ipynb", "--memory-guard", "1.5"),
        ("run", "n.ipynb", "--min-gpus", "-1"),
        ("run", "n.ipynb", "--min-gpus", "two"),
        ("run", "n.ipynb", "--gpu-free-fraction", "0"),
        ("run", "n.ipynb", "--memory-guard", "nan"),
        ("run", "n.ipynb", "--gpu-free-fraction", "nan"),
        ("run", "n.ipynb", "--min-gpu-memory-gb", "inf"),
        ("run", "n.ipynb", "--min-gpu-memory-gb", "24 cards"),
        ("run", "n.ipynb", "--timeout", f"{'9' * 400}h"),
        ("run", "n.ipynb", "--gpu-visibility", "none"),
        ("run", "n.ipynb", "--env", "NAME"),
        ("run", "n.ipynb", "--env", "1X=2"),
        ("run", "n.ipynb", "-p", "name"),
        ("run", "n.ipynb", "--parameters-yaml", "[1, 2]"),
        ("run", "n.ipynb", "--parameters-yaml", "a: [1"),
        ("run", "n.ipynb", "--output-dir", "n.ipynb"),
        ("run", "name", "--plan", "no-such-plan.yaml"),
        ("run-all", "no-such-plan.yaml"),
        ("plan", "check", "n.ipynb"),
        ("plan", "schema", "novel"),
        ("convert",),
        ("report", "no-such-folder"),
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_a_usage_error_that_runs_and_writes_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Exit 2, a message on stderr, nothing on stdout, no traceback."""
    notebooks.write(tmp_path / "n.ipynb", "1")

    ended = cli.runner(*arguments, cwd=tmp_path)

    assert ended.code == 2, ended.err
    assert ended.err.strip()
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["n.ipynb"]


def test_an_unknown_name_of_a_plan_is_answered_with_the_nearest(tmp_path: Path) -> None:
    """A typing error is found in a moment."""
    ended = cli.runner("run", "01_qualty", "--plan", plan(tmp_path), "--output-dir", tmp_path / "out")

    assert ended.code == 2
    assert "did you mean '01_quality'" in ended.err
    assert "02_clusters" in ended.err
    assert not (tmp_path / "out").exists()


SHOW = "import os\nprint('A', os.environ.get('A'), 'B', os.environ.get('B'), 'n', n)"


def test_options_come_from_variables_and_the_command_line_wins(tmp_path: Path) -> None:
    """Texts, numbers, durations, flags, pairs and repeats; what is typed beats the variable."""
    notebooks.write(tmp_path / "n.ipynb", "n = 1", SHOW)
    variables = {
        "RUNNER_RUN_OUTPUT_DIR": str(tmp_path / "out"),
        "RUNNER_RUN_NAME": "from-variable",
        "RUNNER_RUN_TIMEOUT": "1h",
        "RUNNER_RUN_RUN_ID": "run-9",
        "RUNNER_RUN_ENV": "A=1 B=2",
        "RUNNER_RUN_PARAMETERS_YAML": "n: 7",
        "RUNNER_RUN_NO_HTML": "true",
        "RUNNER_RUN_OPTIONAL": "1",
        "RUNNER_RUN_MEMORY_GUARD": "0",
    }

    ended = cli.runner("run", tmp_path / "n.ipynb", "--name", "typed", env=variables)

    assert ended.code == 0, ended.err
    record = cli.metrics(tmp_path / "out", "typed")
    assert (record["run_id"], record["optional"], record["outputs"]["html"]) == ("run-9", True, None)
    assert record["host"]["guard"]["fraction"] == 0
    assert "A 1 B 2 n 7" in cli.text_of(cli.executed(tmp_path / "out", "typed"))


@pytest.mark.parametrize("word", ["false", "0", "no", "off"])
def test_flags_can_be_switched_off_by_a_variable(tmp_path: Path, word: str) -> None:
    """A pipeline's boolean parameter is written as it is."""
    notebooks.write(tmp_path / "n.ipynb", "1")
    variables = {"RUNNER_RUN_NO_HTML": word, "RUNNER_RUN_OPTIONAL": word}

    ended = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out", env=variables)

    assert ended.code == 0, ended.err
    assert (tmp_path / "out" / "n.html").exists()
    assert cli.metrics(tmp_path / "out", "n")["optional"] is False


def option_variables() -> list[str]:
    """Return the variables of all options of `runner run`."""
    from runner.commands.run import command

    return [f"RUNNER_RUN_{param.name.upper()}" for param in command.params if param.name != "notebook"]


def test_an_empty_variable_means_not_given(tmp_path: Path) -> None:
    """A pipeline hands on every parameter, set or not."""
    notebooks.write(tmp_path / "n.ipynb", "1")
    variables = dict.fromkeys(option_variables(), "")
    assert len(variables) > 30

    ended = cli.runner("run", tmp_path / "n.ipynb", cwd=tmp_path, env=variables)

    assert ended.code == 0, ended.err
    record = cli.metrics(tmp_path / "outputs", "n")
    assert (record["status"], record["optional"], record["outputs"]["html"]) == ("succeeded", False, "n.html")
    assert record["host"]["guard"]["fraction"] == 0.97


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7), ("7.5", 7.5), ("1e3", 1000.0), ("True", True), ("None", None), ("true", "true"), ("07x", "07x"),
        ("with blanks", "with blanks"), ("", ""), ("'quoted'", "'quoted'"), ("nan", "nan"), ("-inf", "-inf"),
    ],
)  # fmt: skip
def test_parameters_are_typed_as_papermill_types_them(tmp_path: Path, text: str, value: object) -> None:
    """The notebook gets the value and the record holds it, whatever it is."""
    notebooks.write(tmp_path / "n.ipynb", "n = 'before'", "print(repr(n))")

    ended = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path, "--no-html", "-p", "n", text)

    assert ended.code == 0, ended.err
    shown = text.removeprefix("+") if text in {"nan", "-inf"} else repr(value)
    assert shown in cli.text_of(cli.executed(tmp_path, "n"))
    assert cli.metrics(tmp_path, "n")["status"] == "succeeded"


@pytest.mark.parametrize(
    ("text", "recorded"),
    [("day: 2026-11-20", "2026-11-20"), ("day: {a: [.nan, 1.5, true]}", {"a": ["nan", 1.5, True]})],
)
def test_a_parameter_of_a_kind_that_json_lacks_is_recorded(tmp_path: Path, text: str, recorded: object) -> None:
    """YAML knows dates and NaN, also within lists; a run is not lost over one, and the record has its text."""
    notebooks.write(tmp_path / "n.ipynb", "day = None", "print(day)")

    ended = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path, "--no-html", "--parameters-yaml", text)

    assert ended.code == 0, ended.err
    assert cli.metrics(tmp_path, "n")["environment"]["parameters"] == {"day": recorded}


def test_plan_check_says_sound_or_what_is_wrong(tmp_path: Path) -> None:
    """Exit 0 and a word, or exit 2 with file, key path and what is allowed."""
    path = plan(tmp_path)
    good = cli.runner("plan", "check", path)
    assert (good.code, "2 notebooks: sound" in good.out) == (0, True), good.err
    assert json.loads(cli.runner("plan", "check", path, "--json").out)["problems"] == []

    bad = cli.runner("plan", "check", plan(tmp_path, notebooks=[{"name": "a", "path": "a.ipynb", "colour": "green"}]))
    assert bad.code == 2
    assert f"{path}:5: notebook 'a': colour: unknown key" in bad.err


def test_plan_check_compares_with_a_checkout(tmp_path: Path) -> None:
    """The plan's own folder by default, or --checkout: a missing notebook is a problem of the plan."""
    path = plan(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "02_clusters.ipynb").rename(tmp_path / "elsewhere" / "02_clusters.ipynb")

    ended = cli.runner("plan", "check", path)

    assert ended.code == 9, ended.err
    assert "02_clusters" in ended.out
    assert "01_quality" not in ended.out
    assert "01_quality" in cli.runner("plan", "check", path, "--checkout", tmp_path / "elsewhere").out
    (tmp_path / "01_quality.ipynb").unlink()
    assert "give their folder with --checkout" in cli.runner("plan", "check", path).out


def test_plan_show_fills_the_defaults_in(tmp_path: Path) -> None:
    """As text for people and as JSON, which is a plan again."""
    path = plan(tmp_path)
    text = cli.runner("plan", "show", path).out
    assert "01_quality: 01_quality.ipynb  gpu_memory_gb 24" in text
    assert "optional; needs 01_quality" in text
    shown = json.loads(cli.runner("plan", "show", path, "--json").out)
    assert [notebook["timeout"] for notebook in shown["notebooks"]] == [7200, 7200]


def test_plan_check_and_show_list_what_notebooks_share(tmp_path: Path) -> None:
    """Products and datasets with the notebooks, as text; in the JSON of the check as mappings."""
    both = [
        {"name": name, "path": f"{name}.ipynb", "datasets": ["census"], "products": [product]}
        for name, product in (("01_quality", "h5/dli_*.h5ad"), ("02_clusters", "h5/*_census.h5ad"))
    ]
    path = plan(tmp_path, notebooks=both, datasets={"census": {"url": "https://x.org/a.h5ad", "path": "a.h5ad"}})

    for command in ("check", "show"):
        out = cli.runner("plan", command, path).out.splitlines()
        assert "shared product h5/*_census.h5ad: 01_quality, 02_clusters" in out
        assert "shared dataset census: 01_quality, 02_clusters" in out
    names = ["01_quality", "02_clusters"]
    shared = json.loads(cli.runner("plan", "check", path, "--json").out)["shared"]
    assert shared == {"products": {"h5/*_census.h5ad": names}, "datasets": {"census": names}}
    assert "shared" not in json.loads(cli.runner("plan", "show", path, "--json").out)


def test_plan_check_refuses_products_that_hold_the_notebooks_or_the_plan(tmp_path: Path) -> None:
    """Before a run would refuse them."""
    wide = [{"name": "01_quality", "path": "01_quality.ipynb", "products": ["*.yaml", "*.ipynb"]}]

    ended = cli.runner("plan", "check", plan(tmp_path, notebooks=wide), "--checkout", tmp_path)

    assert ended.code == 9, ended.err
    assert "the pattern '*.yaml' matches plan.yaml: the plan would be moved away" in ended.out
    assert "the pattern '*.ipynb' matches 01_quality.ipynb: the notebook 01_quality.ipynb would be moved" in ended.out


def schema(document: str) -> dict[str, Any]:
    ended = cli.runner("plan", "schema", document)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def test_the_plans_schema_takes_real_plans_and_no_others(tmp_path: Path) -> None:
    """The demo's plan and ours are valid as they are written; a wrong key is not."""
    import runner.demo

    validator = jsonschema.Draft202012Validator(schema("plan"))
    for path in (plan(tmp_path), Path(runner.demo.__file__).parent / "plan.yaml"):
        validator.validate(yaml.safe_load(path.read_text()))
    wrong = yaml.safe_load((tmp_path / "plan.yaml").read_text())
    wrong["notebooks"][0]["colour"] = "green"
    assert not validator.is_valid(wrong)


def test_the_schemas_of_metrics_and_summary_take_real_files(tmp_path: Path) -> None:
    """What a success, a failure, a refusal and broken input leave is as published."""
    out = tmp_path / "out"
    for name, cells in {"good": ("1",), "bad": ("1 / 0",), "dead": ("import os; os._exit(1)",)}.items():
        notebooks.write(tmp_path / f"{name}.ipynb", *cells)
        cli.runner("run", tmp_path / f"{name}.ipynb", "--output-dir", out, "--no-html", "--run-id", "r")
    cli.runner("run", tmp_path / "missing.ipynb", "--output-dir", out, "--run-id", "r")
    cli.runner(
        "run", tmp_path / "good.ipynb", "--output-dir", out, "--name", "refused", "--min-gpus", "64", "--run-id", "r"
    )
    assert cli.runner("report", out).code == 0

    metrics = jsonschema.Draft202012Validator(schema("metrics"))
    files = sorted(out.glob("*.metrics.json"))
    assert [path.name.split(".")[0] for path in files] == ["bad", "dead", "good", "missing", "refused"]
    for path in files:
        metrics.validate(json.loads(path.read_text()))
    jsonschema.Draft202012Validator(schema("summary")).validate(
        json.loads((out / "reports" / "summary.json").read_text())
    )


def test_the_gate_answers_as_json(tmp_path: Path) -> None:
    """Exit 0 without a wish; 3 with the reason where there is no driver; stdout is JSON alone."""
    passed = cli.runner("gate", "--json")
    assert (passed.code, json.loads(passed.out)["passed"]) == (0, True)

    refused = cli.runner("gate", "--min-gpus", "64", "--json")
    record = json.loads(refused.out)
    assert (refused.code, record["passed"], record["asked"]["gpus"]) == (3, False, 64)
    assert record["reason"]
    assert "refused: " in cli.runner("gate", "--min-gpus", "64").out


def test_convert_takes_files_and_folders_and_says_what_it_could_not(tmp_path: Path) -> None:
    """All notebooks are tried; the code tells that one of them was none."""
    notebooks.write(tmp_path / "in" / "a.executed.ipynb", "1")
    notebooks.write(tmp_path / "in" / "b.ipynb", "2")
    notebooks.write(tmp_path / "c.ipynb", "3")

    ended = cli.runner("convert", tmp_path / "in", tmp_path / "c.ipynb", "--output-dir", tmp_path / "pages")

    assert ended.code == 0, ended.err
    pages = sorted((tmp_path / "pages").iterdir())
    assert [page.name for page in pages] == ["a.html", "b.html", "c.html"]
    assert ended.out.split() == [str(page) for page in pages]

    (tmp_path / "in" / "broken.ipynb").write_text("{")
    broken = cli.runner("convert", tmp_path / "in", "--json")
    assert broken.code == 9
    answer = json.loads(broken.out)
    assert len(answer["converted"]) == 2
    assert [Path(failed["notebook"]).name for failed in answer["failed"]] == ["broken.ipynb"]
    assert (tmp_path / "in" / "a.html").exists()


def test_a_folder_without_notebooks_is_told(tmp_path: Path) -> None:
    """Nothing to convert is no success."""
    ended = cli.runner("convert", tmp_path)
    assert ended.code == 9
    assert "Traceback" not in ended.err


def test_prepare_only_writes_the_notebook_that_would_run(tmp_path: Path) -> None:
    """Parameters set, the shutdown cell out, nothing run, nothing else written."""
    notebooks.write(tmp_path / "n.ipynb", "n = 1", "open('ran', 'w')", notebooks.SHUTDOWN)

    ended = cli.runner(
        "run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out", "-p", "n", "5", "--prepare-only", "--json"
    )

    assert ended.code == 0, ended.err
    answer = json.loads(ended.out)
    assert sorted(change["rule"] for change in answer["changes"]) == ["drop_cells", "parameter"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["n.prepared.ipynb"]
    assert "n = 5" in (tmp_path / "out" / "n.prepared.ipynb").read_text()
    assert not (tmp_path / "ran").exists()


def test_prepare_only_keeps_secrets_out(tmp_path: Path) -> None:
    """A secret that stands in a source is in neither the prepared notebook nor the list of changes."""
    notebooks.write(tmp_path / "n.ipynb", "n = 'hunter2-hunter2'", "print('hunter2-hunter2')")
    ended = cli.runner(
        "run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out", "-p", "n", "5", "--prepare-only",
        "--secret-env", "TOKEN", env={"TOKEN": "hunter2-hunter2"},
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "hunter2" not in (tmp_path / "out" / "n.prepared.ipynb").read_text() + ended.out + ended.err


FAULTY = """
import sys
import runner.stages.gate.gate
def broken(*arguments, **options):
    raise RuntimeError("the gate fell off its hinges")
runner.stages.gate.gate.gate = broken
sys.argv = ["runner", *sys.argv[1:]]
from runner.cli import main
main()
"""


def test_a_fault_of_our_own_has_its_code_and_leaves_stdout_alone(tmp_path: Path) -> None:
    """Exit 70, the traceback on stderr and in the log, and the name is free again."""
    notebooks.write(tmp_path / "n.ipynb", "1")
    command = [sys.executable, "-c", FAULTY, "run", str(tmp_path / "n.ipynb"), "--output-dir", str(tmp_path / "out")]

    done = subprocess.run(command, capture_output=True, text=True, env=cli.environment(), check=False)

    assert done.returncode == 70, done.stderr
    assert done.stdout == ""
    assert "fell off its hinges" in done.stderr
    assert "internal error in runner" in done.stderr
    assert "fell off its hinges" in (tmp_path / "out" / "n.log").read_text()
    assert not (tmp_path / "out" / "n.running").exists()


def test_no_deadline_on_the_command_line_beats_the_plans(tmp_path: Path) -> None:
    """0s is how one run does without the deadline that its plan sets."""
    job = resolve(Options(notebook="01_quality", plan=plan(tmp_path), timeout=Duration().convert("0s", None, None)))

    assert job.notebook_seconds == 0
    assert resolve(Options(notebook="01_quality", plan=plan(tmp_path))).notebook_seconds == 7200


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a notebook that succeeds."""
    folder = tmp_path_factory.mktemp("small")
    notebooks.write(folder / "n.ipynb", "print('first')", "print('second')")
    return folder


@pytest.mark.parametrize("redirected", ["2>/dev/full", ">/dev/full", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_cannot_be_written_changes_nothing(small: Path, tmp_path: Path, redirected: str) -> None:
    """With a full disk behind stdout or stderr, or one of them closed, the run ends as it ended and leaves its record."""
    command = [*cli.RUNNER, "run", str(small / "n.ipynb"), "--output-dir", str(tmp_path), "--no-html"]

    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirected}', "sh", *command],
        capture_output=True,
        text=True,
        env=cli.environment(),
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert [cell["status"] for cell in cli.metrics(tmp_path, "n")["cells"]] == ["succeeded"] * 2
    assert "second" in cli.text_of(cli.executed(tmp_path, "n"))
    assert "Traceback" not in done.stderr + (tmp_path / "n.log").read_text()
    assert "start nb=n" not in done.stdout


def test_a_reader_that_leaves_does_not_change_the_exit_code(small: Path, tmp_path: Path) -> None:
    """`runner run ... | true` ends with the notebook's code."""
    ours, theirs = os.pipe()
    os.close(ours)
    command = [*cli.RUNNER, "run", str(small / "n.ipynb"), "--output-dir", str(tmp_path), "--no-html"]

    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, env=cli.environment(), check=False)
    os.close(theirs)

    assert done.returncode == 0, done.stderr
    assert 'reason="Broken pipe"' in done.stderr


def test_an_answer_that_cannot_be_printed_is_no_fault_of_ours() -> None:
    """Where the answer is all there is, its loss is told with the code of a record that cannot be written."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*cli.RUNNER, "plan", "schema"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=cli.environment(),
            check=False,
        )

    assert done.returncode == 74
    assert done.stderr == "runner: cannot write to stdout: No space left on device\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("redirected", ["2>/dev/full", ">/dev/full 2>/dev/full", ">/dev/full 2>&1", "2>&-"])
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ([*cli.RUNNER, "run", "none.ipynb", "--timeout", "soon"], 2),
        ([*cli.RUNNER, "plan", "check", "none.yaml"], 2),
        ([*cli.RUNNER, "gate", "--min-gpus", "64"], 3),
        ([sys.executable, "-c", FAULTY, "gate"], 70),
    ],
    ids=["usage", "plan", "refused", "our fault"],
)
def test_the_exit_code_is_right_where_nobody_can_be_told(
    tmp_path: Path, command: list[str], code: int, redirected: str, unbuffered: str
) -> None:
    """Errors keep their codes with a full or closed stderr, whether or not Python buffers its streams."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirected}', "sh", *command],
        stdout=subprocess.DEVNULL,
        cwd=tmp_path,
        env=cli.environment({"PYTHONUNBUFFERED": unbuffered}),
        check=False,
    )

    assert done.returncode == code
