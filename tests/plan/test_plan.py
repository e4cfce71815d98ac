# SPDX-License-Identifier: Apache-2.0
"""Errors of a plan name the place and the allowed values; an outdated plan is reported before a run."""

from __future__ import annotations

import re
import shutil
import subprocess
from fnmatch import fnmatchcase

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import notebooks

from runner.commands.parameter_values import take
from runner.core.errors import PlanError, UsageError
from runner.plan.model import is_config_map, load, parse
from runner.plan.sharing import overlap, shared_datasets, shared_products, shared_with
from runner.stages.prepare.plan_check import check_plan

MINIMAL = {"version": 1, "name": "p", "notebooks": [{"name": "a", "path": "a.ipynb"}]}


def plan_of(*entries, **fields):
    """Parse a plan of notebooks given by name or by fields."""
    made = [entry if isinstance(entry, dict) else {"name": entry} for entry in entries]
    made = [{"path": f"notebooks/{entry['name']}.ipynb", **entry} for entry in made]
    return parse(yaml.safe_dump({**MINIMAL, "notebooks": made, **fields}), "plan.yaml")


def changed(*path, value) -> str:
    """Return the minimal plan with one value put at a path."""
    document = yaml.safe_load(yaml.safe_dump(MINIMAL))
    inner = document
    for key in path[:-1]:
        inner = inner.setdefault(key, {}) if isinstance(inner, dict) else inner[key]
    inner[path[-1]] = value
    return yaml.safe_dump(document)


NB = ("notebooks", 0)
DATASET = {"url": "https://x.org/a", "path": "a"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a plan must be a mapping, this is NoneType"),
        ("- a", "a plan must be a mapping, this is list"),
        ("a: [", "plan.yaml:1: not valid YAML: "),
        ("a: 2026-13-45", "not valid YAML: a value that cannot be read"),
        ("name: a\nversion: 1\nname: b", "plan.yaml:3: not valid YAML: the key 'name' appears twice"),
        (
            "notebooks:\n  - name: a\n    env: {A: '1', A: '2'}",
            "plan.yaml:3: not valid YAML: the key 'A' appears twice",
        ),
        (changed("version", value=2), r"version: .*\(found 2\)"),
        (changed("notebook", value=[]), "notebook: unknown key"),
        (changed("notebooks", value=[]), "notebooks: List should have at least 1 item"),
        (changed(*NB, "nmae", value="x"), r"notebook 'a': nmae: unknown key \(did you mean 'name'\?\)"),
        (changed(*NB, "name", value="../a"), r"notebooks\[0\].name: .*is not a valid notebook name"),
        (changed(*NB, "path", value="../a.ipynb"), r"notebook 'a': path: .*leaves the folder"),
        (changed(*NB, "path", value="/a.ipynb"), r"notebook 'a': path: .*leaves the folder"),
        (changed(*NB, "cwd", value="a/../.."), r"notebook 'a': cwd: .*leaves the folder"),
        (changed(*NB, "timeout", value=90), r"notebook 'a': timeout: .*write it like 90s"),
        (changed(*NB, "timeout", value="1 day"), r"notebook 'a': timeout: .*not a valid duration"),
        (changed(*NB, "needs", value=["b"]), r"notebook 'a': needs\[0\]: unknown notebook 'b' \(it has a\)"),
        (changed(*NB, "needs", value=["a"]), "circular needs: a -> a"),
        (changed(*NB, "datasets", value=["d"]), r"notebook 'a': datasets\[0\]: unknown dataset 'd' \(it has none\)"),
        (changed(*NB, "env", value={"A": True}), r"notebook 'a': env.A: is a boolean to YAML; put it in quotes"),
        (changed(*NB, "env", value={"1A": "x"}), r"notebook 'a': env"),
        (changed(*NB, "parameters", value={"n-top": 1}), "'n-top' is not a valid variable name"),
        (changed(*NB, "parameters", value={"class": 1}), "'class' is not a valid variable name"),
        (changed(*NB, "requires", value={"gpus": -1}), r"notebook 'a': requires.gpus: .*\(found -1\)"),
        (
            changed(*NB, "requires", value={"gpu_memory": 1}),
            r"notebook 'a': requires.gpu_memory: unknown key \(did you mean 'gpu_memory_gb'\?\)",
        ),
        (changed(*NB, "prepare", value=[{}]), r"notebook 'a': prepare\[0\]: a rule must have exactly one of"),
        (changed(*NB, "prepare", value=[{"replace": {"find": "", "with": "x"}}]), r"prepare\[0\].replace.find"),
        (changed(*NB, "prepare", value=[{"replace": {"find": "x"}}]), r"prepare\[0\].replace.with: is required"),
        (changed(*NB, "prepare", value=[{"drop_cells": {"containing": []}}]), r"drop_cells.containing"),
        (changed(*NB, "prepare", value=[{"insert": {"source": "x"}}]), "exactly one of before, after"),
        (changed(*NB, "products", value=["h5/**.h5ad"]), r"notebook 'a': products\[0\]: .*`\*\*` matches folders"),
        (changed(*NB, "expect", value={"files": ["a**"]}), r"expect.files\[0\]: .*`\*\*` matches folders"),
        (changed(*NB, "expect", value={"drift": "maybe"}), r"expect.drift: .*'off', 'warn' or 'error'"),
        (
            changed("datasets", "d", value={"url": "ftp://x/a", "path": "a"}),
            r"d.url: .*must start with one of http",
        ),
        (changed("datasets", "d", value={"url": "--help", "path": "a"}), r"datasets.d.url"),
        (changed("datasets", "d", value={**DATASET, "path": "../a"}), r"datasets.d.path: .*leaves the folder"),
        (changed("datasets", "d", value={**DATASET, "path": ".staged/a"}), r"datasets.d.path: .*cannot name a staged"),
        (changed("datasets", "d", value={**DATASET, "sha256": "x"}), r"datasets.d.sha256"),
        (
            changed("datasets", value={"a": DATASET, "b": {**DATASET, "path": "./a"}}),
            r"b.path: .*also the path of 'a'",
        ),
        (changed("defaults", value={"path": "x"}), r"plan.yaml:2: defaults.path: unknown key \(allowed: .*cwd"),
        ("kind: ConfigMap\ndata: {}", r"the ConfigMap has no data\['plan.yaml'\]"),
    ],
)
def test_a_wrong_plan_says_where_and_what_is_allowed(text, message):
    """The message has file and key path."""
    with pytest.raises(PlanError, match=message) as caught:
        parse(text, "plan.yaml")
    assert "plan.yaml" in caught.value.message or "defaults" in caught.value.message


def test_needs_follow_the_order_of_the_plan():
    """A notebook that needs a later one could never run."""
    with pytest.raises(PlanError, match=r"notebook 'a': needs\[0\]: 'b' comes later in the plan"):
        plan_of({"name": "a", "needs": ["b"]}, "b")
    with pytest.raises(PlanError, match="circular needs"):
        plan_of({"name": "a", "needs": ["b"]}, {"name": "b", "needs": ["a"]})
    with pytest.raises(PlanError, match="the name 'a' appears twice"):
        plan_of("a", "a")


def test_aliases_cannot_unfold_without_end():
    """A small file that would fill the memory is refused quickly; honest aliases work."""
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12))
    with pytest.raises(PlanError, match="expands to more than"):
        parse(f"l0: &l0 [x]\n{levels}", "plan.yaml")
    text = yaml.safe_dump({**MINIMAL, "notebooks": []}).replace("notebooks: []", "")
    entries = "notebooks:\n- {name: a, path: a.ipynb, env: &e {A: '1'}}\n- {name: b, path: b.ipynb, env: *e}"
    assert parse(f"{text}\n{entries}", "plan.yaml").notebook("b").env == {"A": "1"}


MERGES = "\n".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 30))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"a0: &a0 {{k: 1}}\n{MERGES}", "merge keys (<<) add more than 200000 values"),
        ("a: &a {<<: *a}", "a value that cannot be read"),
        ("a: " + "9" * 20_000, "a number of 20000 characters, the limit is 1000; put it in quotes"),
        ("a: 0x" + "f" * 20_000, "a number of 20002 characters"),
        ("a: 1" + ":59" * 20_000, "a number of 60001 characters"),
        ("a: 1" + ":59" * 320 + ":59.5", "a value that cannot be read"),
        ("a: " + "9" * 20_000 + ".5", "a number of 20002 characters"),
        ("a: " + "[" * 200_000, "nested deeper than 100 levels"),
        ("a: " + "{a: " * 200_000, "nested deeper than 100 levels"),
        ("\n".join(" " * level + "a:" for level in range(2000)), "nested deeper than 100 levels"),
        ("- " * 100_000, "nested deeper than 100 levels"),
        ("a: " + "x" * 4_000_000, "4000003 characters, the limit is 4000000"),
    ],
    ids=lambda value: value[:30],
)
def test_a_plan_that_would_keep_us_busy_is_refused_with_a_reason(tmp_path, text, message):
    """Multiplying merge keys, endless numbers and nesting are usage errors, for each way in."""
    with pytest.raises(PlanError, match="not valid YAML") as caught:
        parse(text, "plan.yaml")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500
    with pytest.raises(PlanError, match="not valid YAML"):
        parse(yaml.safe_dump({"kind": "ConfigMap", "data": {"plan.yaml": text}}), "plan.yaml")
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(yaml.YAMLError):
        is_config_map(tmp_path / "plan.yaml")
    with pytest.raises(UsageError, match="--parameters-yaml"):
        take({"parameters_yaml": (text,)})


def test_merge_keys_of_honest_plans_work():
    """Merged keys, and long numbers that Python can print, are unchanged."""
    text = f"version: 1\nname: p\nnotebooks:\n- &n {{name: a, path: a.ipynb, parameters: {{k: {'7' * 900}}}}}\n- {{<<: *n, name: b}}"
    assert parse(text, "plan.yaml").notebook("b").parameters == {"k": int("7" * 900)}


def test_defaults_are_filled_in():
    """Mappings are merged, lists and values replaced."""
    defaults = {"env": {"A": "1", "B": "1"}, "timeout": "2h", "prepare": [{"drop_cells": {"containing": ["x"]}}]}
    plan = plan_of({"name": "a", "env": {"B": "2"}, "prepare": []}, "b", defaults=defaults)
    assert plan.notebook("a").env == {"A": "1", "B": "2"}
    assert plan.notebook("a").prepare == []
    assert plan.notebook("b").timeout == 7200
    assert len(plan.notebook("b").prepare) == 1


def test_a_size_may_name_its_unit():
    """As on the command line; an invalid value is reported with an example."""
    for size in ("24GB", "24 gb", 24, "24"):
        assert (
            parse(changed(*NB, "requires", value={"gpu_memory_gb": size}), "p").notebooks[0].requires.gpu_memory_gb
            == 24
        )
    with pytest.raises(PlanError, match=r"requires.shm_gb: 'much' is not a valid size; write it like 24"):
        parse(changed(*NB, "requires", value={"shm_gb": "much"}), "p")


def test_a_config_map_is_read_like_a_file(tmp_path):
    """With the place in messages."""
    path = tmp_path / "map.yaml"
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": {"plan.yaml": yaml.safe_dump(MINIMAL)}}
    path.write_text(yaml.safe_dump(document))
    assert load(path).name == "p"
    document["data"]["plan.yaml"] = "version: 2"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(PlanError, match=r"map.yaml data\['plan.yaml'\]: version"):
        load(path)


def test_an_unknown_notebook_gets_a_guess():
    """With the names there are."""
    with pytest.raises(PlanError, match=r"has no notebook '01_pre' \(did you mean '01_prep'\? it has 01_prep, 02_x"):
        plan_of("01_prep", "02_x").notebook("01_pre")


# Sharing


def test_notebooks_that_share_a_file_are_listed():
    """Equal patterns, one that matches the other, a file in a folder; others are not shared."""
    plan = plan_of(
        {"name": "a", "products": ["h5/x.h5ad", "own.csv"]},
        {"name": "b", "products": ["h5/*.h5ad"]},
        {"name": "c", "products": ["zarr/y.zarr"]},
        {"name": "d", "products": ["zarr/y.zarr/obs"]},
        {"name": "e", "products": ["h5/x.h5ad", "zarr/z.zarr"]},
        "f",
    )
    assert shared_products(plan) == {"h5/*.h5ad": ("a", "b", "e"), "zarr/y.zarr": ("c", "d")}
    assert shared_with(plan, "b") == {"h5/*.h5ad": ("a", "e")}
    assert shared_with(plan, "f") == {}


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("h5/dli_*.h5ad", "h5/*_census.h5ad", True),
        ("h5/dli_*.h5ad", "h5/*_census.zarr", False),
        ("h5/a?c", "h5/ab*", True),
        ("h5/a?c", "h5/ab", False),
        ("h5/[ab]x", "h5/ax", True),
        ("h5/[ab]x", "h5/cx", False),
        ("h5/[!]a]x", "h5/bx", True),
        ("h5/[]a]x", "h5/]x", True),
        ("h5/[]x", "h5/[]x", True),
        ("h5/[a-c]*", "h5/?1", True),
        ("h5/[ab]", "h5/[bc]", True),
        ("**/*.h5ad", "h5/x/y.h5ad", True),
        ("**/*.h5ad", "h5/x/y.zarr/**", True),
        ("a/**/z/x.csv", "a/b/c/z/*.csv", True),
        ("a/**/z", "b/**", False),
        ("*", "h5/x.h5ad", True),
        ("h5/*", "h5/x/y", True),
        ("h5/x.h5ad/*", "h5/*.h5ad", True),
        ("h5/x/*", "h5/*.h5ad/y", False),
        (".", "h5", True),
        ("./h5", "h5//x", True),
        ("h5/H", "h5/h", False),
        ("a" * 600, "a?" * 300, True),
        ("x*" * 300, "*x" * 300, True),
    ],
)
def test_patterns_meet_when_one_file_can_match_both(one, other, meet):
    """Also as a file in a folder that the other names; in doubt they meet."""
    assert overlap(one, other) is meet
    assert overlap(other, one) is meet


names = st.text("ab.", min_size=1, max_size=3)
patterns = st.lists(st.text("ab.*?[]!", min_size=1, max_size=4) | st.just("**"), min_size=1, max_size=3).map("/".join)


@settings(max_examples=300)
@given(one=patterns, other=patterns, path=st.lists(names, min_size=1, max_size=3))
def test_no_two_patterns_that_match_one_file_are_held_apart(one, other, path):
    """All files that glob finds for both, or in a folder that it finds."""
    assume(not any("**" in part and part != "**" for part in (one + "/" + other).split("/")))

    def matches(pattern: str) -> bool:
        return any(matched(pattern.split("/"), path[:length]) for length in range(1, len(path) + 1))

    if matches(one) and matches(other):
        assert overlap(one, other)


def matched(pattern: list[str], path: list[str]) -> bool:
    """Return True if a pattern of names matches a path whole, as glob does."""
    if not pattern:
        return not path
    if pattern[0] == ".":
        return matched(pattern[1:], path)
    if pattern[0] == "**" and (matched(pattern[1:], path) or (bool(path) and matched(pattern, path[1:]))):
        return True
    return bool(path) and fnmatchcase(path[0], pattern[0]) and matched(pattern[1:], path[1:])


def test_shared_datasets_are_listed_with_their_readers():
    """In the plan's order; one that a single notebook reads is left out."""
    data = {name: {**DATASET, "path": name} for name in ("one", "two")}
    plan = plan_of({"name": "a", "datasets": ["one", "two"]}, {"name": "b", "datasets": ["one"]}, "c", datasets=data)
    assert shared_datasets(plan) == {"one": ("a", "b")}


# Against a checkout


@pytest.fixture
def checkout(tmp_path):
    cells = [
        "import os\nn_top = 5\ncluster(devices=[0, 1])",
        "url = 'https://x.org/data.h5ad'",
        "y = 1",
        notebooks.SHUTDOWN,
        "",
    ]
    notebooks.write(tmp_path / "notebooks" / "a.ipynb", *cells)
    return tmp_path


def problems(checkout, entry, **fields) -> list[str]:
    return [str(problem) for problem in check_plan(plan_of({"name": "a", **entry}, **fields), checkout)]


def test_a_plan_that_fits_has_no_problems(checkout):
    """Rules, parameters, datasets, folders and products."""
    entry = {
        "cwd": "notebooks",
        "parameters": {"n_top": 7},
        "prepare": [
            {"drop_cells": {"containing": ["do_shutdown(True)", "IPython.Application.instance()"]}},
            {"replace": {"find": "devices=[0, 1]", "with": "devices=None"}},
            {"replace": {"find": "devices=None", "with": "devices=3"}},
            {"insert": {"source": "x = 1", "after": "n_top"}},
        ],
        "datasets": ["data"],
        "products": ["notebooks/h5/*.h5ad", "notebooks/zarr"],
        "expect": {"files": ["notebooks/h5/out.h5ad", "notebooks/zarr/a.zarr"]},
    }
    datasets = {"data": {"url": "https://x.org/data.h5ad", "path": "data.h5ad", "sha256": "0" * 64}}
    assert problems(checkout, entry, datasets=datasets) == []


def test_every_problem_is_listed_at_once(checkout):
    """Each with its key path, and the ones behind a broken rule too."""
    entry = {
        "cwd": "notebok",
        "parameters": {"n_top": 1, "n_tops": 7},
        "prepare": [
            {"replace": {"find": "devices=[0,1]", "with": "x"}},
            {"drop_cells": {"containing": ["nothing like it"]}},
            {"replace": {"find": "y = 1", "with": "y = ("}},
            {"insert": {"source": "def (", "before": "n_top"}},
        ],
        "datasets": ["data"],
        "products": ["notebooks/*.ipynb"],
        "expect": {"files": ["out.csv"]},
    }
    found = problems(checkout, entry, datasets={"data": {"url": "https://x.org/data.h5", "path": "d"}, "e": DATASET})
    expected = [
        "warning: datasets.data: has no checksum",
        "warning: datasets.e: no notebook uses 'e'",
        "warning: datasets.e: has no checksum",
        r"error: notebooks\[0\].cwd: .*notebok is not a folder",
        r"error: notebooks\[0\].products: the pattern 'notebooks/\*.ipynb' matches .*: the notebook notebooks/a.ipynb",
        r"warning: notebooks\[0\].expect.files: out.csv is expected but not a product",
        r"error: notebooks\[0\].prepare\[0\]: .*nearest text: 'cluster\(devices=\[0, 1\]\)'",
        r"error: notebooks\[0\].prepare\[1\]: .*matched no cell",
        r"error: notebooks\[0\].parameters.n_tops: ",
        r"error: notebooks\[0\].datasets.data: .*no cell contains the URL",
        r"error: notebooks\[0\].prepare: an inserted cell is not valid Python",
        r"error: notebooks\[0\].prepare: code cell 3 after the rules is not valid Python",
    ]
    for pattern, text in zip(expected, found, strict=True):
        assert re.match(pattern, text), (pattern, found)


def test_a_notebook_that_is_not_there_is_one_problem(checkout):
    """The others are still checked."""
    plan = plan_of("gone", {"name": "a", "parameters": {"nope": 1}})
    assert [problem.where for problem in check_plan(plan, checkout)] == [
        "notebooks[0].path",
        "notebooks[1].parameters.nope",
    ]


@pytest.mark.skipif(not shutil.which("git"), reason="no git on PATH")
def test_a_product_that_the_repository_tracks_is_a_problem(checkout):
    """It would be moved away as a leftover."""
    (checkout / "notebooks" / "nets").mkdir()
    for name in ("nets/net.parquet", "made.parquet"):
        (checkout / "notebooks" / name).write_text("x")
    subprocess.run(["git", "init", "-q"], cwd=checkout, check=True)
    subprocess.run(["git", "add", "notebooks/nets"], cwd=checkout, check=True)
    found = problems(checkout, {"products": ["notebooks/*.parquet", "notebooks/nets"]})
    assert len(found) == 1
    assert "matches notebooks/nets: notebooks/nets/net.parquet, a file of the repository, would be moved" in found[0]
    assert problems(checkout, {"expect": {"files": ["notebooks/nets/net.parquet"]}}) == []


@pytest.mark.parametrize("pattern", ["notebooks", "notebooks/**", "**/*", "*", "conf/*"])
def test_a_product_that_holds_a_source_is_a_problem_without_git(checkout, monkeypatch, pattern):
    """The plan's notebooks and the plan itself are known without a repository; each such pattern is named."""
    monkeypatch.setenv("PATH", "")
    (checkout / "conf").mkdir()
    (checkout / "conf" / "plan.yaml").touch()
    plan = plan_of({"name": "a", "products": [pattern, "h5/*.h5ad"]}, "b")
    found = [problem for problem in check_plan(plan, checkout, checkout / "conf" / "plan.yaml") if problem.hint]
    assert [problem.where for problem in found if problem.where.endswith("products")]
    assert {repr(pattern) in problem.message for problem in found if problem.where.endswith("products")} == {True}


@pytest.mark.skipif(not shutil.which("git"), reason="no git on PATH")
def test_a_repository_that_cannot_be_read_is_said(checkout, capsys, monkeypatch):
    """Its files are not known then; the plan's notebooks still are."""
    (checkout / ".git").mkdir()
    (checkout / ".git" / "index").write_text("damaged")
    assert "repository-not-read" not in capsys.readouterr().err
    found = problems(checkout, {"products": ["notebooks/*"]})
    assert any("the notebook notebooks/a.ipynb" in text for text in found)
    assert problems(checkout, {"products": ["made/*", "notebooks/h5"]}) == []
    (checkout / "made").mkdir()
    (checkout / "made" / "x").touch()
    assert problems(checkout, {"products": ["made/*"]}) == []
    assert "repository-not-read" in capsys.readouterr().err
