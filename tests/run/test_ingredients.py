# SPDX-License-Identifier: Apache-2.0
"""The key of a notebook: what must run it again changes it, what must not leaves it alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from support import records

from runner.core.hash_cache import HashCache
from runner.plan.job import Job, Options, resolve
from runner.run import ingredients, preflight, ran_because
from runner.run.ingredients import Recipe
from runner.stages.record import provenance

SOURCES = ["# Parameters\nn = 2000\nname = 'pbmc'", "def f(x):\n    return x + n\n\nf(1)", "%time f(2)", "f(3);"]


def write_notebook(folder: Path, sources: list[str] | None = None, **tags: list[str]) -> None:
    cells = [new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(sources or SOURCES)]
    for name, found in tags.items():
        cells[int(name.removeprefix("cell"))].metadata.tags = found
    nb = new_notebook(cells=[new_markdown_cell("# Title", id="title"), *cells])
    nb.metadata.kernelspec = {"name": "python3", "language": "python", "display_name": "Python 3"}
    (folder / "nb").mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, folder / "nb" / "a.ipynb")


def job_of(folder: Path, *, options: dict[str, Any] | None = None, data: Any = None, **entry: Any) -> Job:
    """Return the job of a plan with a notebook `a` that needs `first`, which makes out/first.txt."""
    if not (folder / "nb" / "a.ipynb").exists():
        write_notebook(folder)
    shutil.copy(folder / "nb" / "a.ipynb", folder / "nb" / "first.ipynb")
    notebooks = [
        {"name": "first", "path": "nb/first.ipynb", "products": ["out/*.txt"]},
        {"name": "a", "path": "nb/a.ipynb", "needs": ["first"], **entry},
    ]
    plan = {"version": 1, "name": "p", "notebooks": notebooks, "datasets": data or {}}
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    given: dict[str, Any] = {"notebook": "a", "plan": folder / "plan.yaml", "output_dir": folder / "outputs"}
    return resolve(Options(**(given | (options or {}))), {"TOKEN": "secret value", "OTHER": "other value"})


def recipe(job: Job) -> Recipe:
    return ingredients.declared(job, preflight.check(job))


def key(job: Job) -> str:
    return recipe(job).key


def sources(*changed: str, at: int = 0) -> list[str]:
    return [*SOURCES[:at], *changed, *SOURCES[at + 1 :]]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: write_notebook(folder, sources("# Parameters\nn = 2001\nname = 'pbmc'")),
        lambda folder: write_notebook(folder, sources("f(3)", at=3)),
        lambda folder: write_notebook(folder, sources("%time f(2)  # twice", at=2)),
        lambda folder: write_notebook(folder, [*SOURCES, "print(n)"]),
        lambda folder: write_notebook(folder, SOURCES[:-1]),
        lambda folder: write_notebook(folder, [SOURCES[1], SOURCES[0], *SOURCES[2:]]),
        lambda folder: write_notebook(folder, cell3=["raises-exception"]),
        lambda folder: write_notebook(folder, cell3=["skip-execution"]),
    ],
    ids=["value", "semicolon", "magic", "added", "removed", "order", "raises-exception", "skip-execution"],
)
def test_what_runs_changes_the_key(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """A semicolon hides a figure, and what follows a magic may be part of its command."""
    before = key(job_of(tmp_path))
    change(tmp_path)
    assert key(job_of(tmp_path)) != before


def test_errors_that_are_allowed_count_wherever_they_are(tmp_path: Path) -> None:
    """By an option or the plan, or by the author in the notebook and in a cell."""
    keys = {key(job_of(tmp_path)), key(job_of(tmp_path, allow_errors=True))}
    path = tmp_path / "nb" / "a.ipynb"
    for place in (lambda nb: nb.metadata, lambda nb: nb.cells[-1].metadata):
        write_notebook(tmp_path)
        nb = nbformat.read(path, as_version=4)
        name = "runner" if place(nb) is not nb.metadata else "execution"
        place(nb)[name] = {"allow_errors": True}
        nbformat.write(nb, path)
        keys.add(key(job_of(tmp_path)))
    assert len(keys) == 3, "for all cells by two ways, for one cell"


def only_text(folder: Path) -> None:
    write_notebook(folder)
    path = folder / "nb" / "a.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells[0].source = "# Another title"
    nb.cells.insert(2, new_markdown_cell("A new page of text."))
    nb.cells[-1].id = "another-id"
    nb.cells[-1].metadata.collapsed = True
    nbformat.write(nb, path)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: write_notebook(folder, sources("n = 2000  # genes\n\n\n# whose\nname = 'pbmc'")),
        lambda folder: write_notebook(folder, sources("def f( x ):\n  return x+n  # sum\nf(1)", at=1)),
        lambda folder: write_notebook(folder, [*SOURCES, "# nothing but a comment", "  "]),
        lambda folder: write_notebook(folder, cell3=["remove-input"]),
        only_text,
    ],
    ids=["comment", "format", "empty-cells", "tag", "markdown"],
)
def test_what_does_not_run_leaves_the_key_alone(tmp_path: Path, change: Callable[[Path], None]) -> None:
    before = key(job_of(tmp_path))
    change(tmp_path)
    assert key(job_of(tmp_path)) == before


def test_a_comment_in_a_text_is_part_of_the_text(tmp_path: Path) -> None:
    write_notebook(tmp_path, ["x = '''\n# one\n'''"])
    before = key(job_of(tmp_path))
    write_notebook(tmp_path, ["x = '''\n# two\n'''"])
    assert key(job_of(tmp_path)) != before


def test_a_comment_of_another_language_is_not_judged(tmp_path: Path) -> None:
    """R and Julia are not parsed, so every character counts."""
    nb = nbformat.v4.new_notebook(cells=[new_code_cell("x <- 1 # one")])
    nb.metadata.kernelspec = {"name": "python3", "language": "R", "display_name": "R"}
    (tmp_path / "nb").mkdir()
    nbformat.write(nb, tmp_path / "nb" / "a.ipynb")
    before = key(job_of(tmp_path))
    nb.cells[0].source = "x <- 1 # two"
    nbformat.write(nb, tmp_path / "nb" / "a.ipynb")
    assert key(job_of(tmp_path)) != before


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ({}, {"parameters": {"n": 5000}}, False),
        ({"parameters": {"n": 2000}}, {}, True),
        ({}, {"env": {"UCX_TLS": "tcp"}}, False),
        ({"env": {"A": "1", "B": "2"}}, {"env": {"B": "2", "A": "1"}}, True),
        ({}, {"cwd": "."}, False),
        ({"cwd": "nb"}, {}, True),
        ({}, {"prepare": [{"drop_cells": {"containing": ["f(3)"]}}]}, False),
        ({}, {"prepare": [{"replace": {"find": "2000", "with": "7"}}]}, False),
        ({}, {"prepare": [{"insert": {"source": "print(1)", "after": "n = 2000"}}]}, False),
        ({"timeout": "1h"}, {"timeout": "2h"}, True),
        ({}, {"optional": True, "stage": "basic", "requires": {"memory_gb": 1}}, True),
        ({}, {"expect": {"min_figures": 0}}, True),
    ],
    ids=[
        "parameter", "parameter-as-it-is", "variable", "order-of-variables", "cwd", "cwd-as-it-is", "dropped",
        "replaced", "inserted", "timeout", "of-the-plan-only", "expectations",
    ],
)  # fmt: skip
def test_the_plan_and_the_key(tmp_path: Path, before: dict[str, Any], after: dict[str, Any], same: bool) -> None:
    assert (key(job_of(tmp_path, **before)) == key(job_of(tmp_path, **after))) is same


def test_of_a_secret_the_name_counts_and_the_value_is_nowhere(tmp_path: Path) -> None:
    none = key(job_of(tmp_path))
    job = job_of(tmp_path, options={"secret_env": ("TOKEN",)})
    other = resolve(dataclasses.replace(job.options), {"TOKEN": "rotated value"})

    assert key(job) != none
    assert key(other) == key(job)
    assert "secret value" not in json.dumps(dict(recipe(job).ingredients))
    in_env = job_of(tmp_path, options={"secret_env": ("TOKEN",)}, env={"TOKEN": "secret value"})
    assert key(in_env) == key(job), "of a secret that the plan sets the value is no ingredient"


def test_a_checkout_that_moves_keeps_its_keys(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    before = key(job_of(here, cwd="nb"))
    here.rename(tmp_path / "there")
    assert key(job_of(tmp_path / "there", cwd="nb")) == before


def test_packages_and_image_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tag may be moved to another image, so only a digest counts; a port of the mirror is nowhere."""
    job = job_of(tmp_path)
    before = key(job)
    monkeypatch.setenv("RUNNER_IMAGE", "registry/rapids:latest")
    assert key(job) == before
    monkeypatch.setenv("RUNNER_IMAGE", "registry/rapids@sha256:aa")
    with_image = key(job)
    monkeypatch.setenv("RUNNER_IMAGE", "mirror.example/other@sha256:aa")
    assert with_image == key(job) != before

    monkeypatch.setattr(ingredients, "_here", lambda: {**provenance.here(), "scanpy": "9.9"})
    assert key(job) != with_image


def test_the_content_of_a_dataset_counts_and_not_its_place(tmp_path: Path) -> None:
    reads: dict[str, Any] = {"datasets": ["d"]}

    def staged(cache: str, content: bytes) -> str:
        (tmp_path / cache).mkdir(exist_ok=True)
        (tmp_path / cache / "d.csv").write_bytes(content)
        data = {"d": {"url": "https://example.org/d.csv", "path": "d.csv"}}
        write_notebook(tmp_path, [*SOURCES, "url = 'https://example.org/d.csv'"])
        return key(job_of(tmp_path, data=data, options={"cache": tmp_path / cache}, **reads))

    assert staged("one", b"a,b\n") == staged("two", b"a,b\n") != staged("three", b"a,c\n")


def test_products_of_all_that_is_needed_are_inputs_and_own_ones_are_not(tmp_path: Path) -> None:
    job = job_of(tmp_path, products=["own/*.txt", "out/shared.txt"])
    for name in ("out/first.txt", "out/shared.txt", "own/a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)

    assert [str(path) for path in ingredients.needed_products(job)] == ["out/first.txt"]
    hashes = HashCache(tmp_path / "cache")
    before = ingredients.content(["out/first.txt"], ingredients.PRODUCT, tmp_path, hashes)
    (tmp_path / "out/first.txt").write_text("changed")
    assert ingredients.content(["out/first.txt"], ingredients.PRODUCT, tmp_path, hashes) != before
    assert ingredients.content(["gone"], ingredients.FILE, tmp_path, hashes) == {"file gone": ingredients.MISSING}


def test_number_and_architecture_of_gpus() -> None:
    assert ingredients.gpus(["sm_90", "sm_90"]) == "2 x sm_90"
    assert ingredients.gpus(["sm_90", "sm_80"]) == "1 x sm_80, 1 x sm_90"
    assert ingredients.gpus([]) == "none"


def why(old: Job, new: Job, **versions: str) -> tuple[str, ...]:
    """Return the reasons that a run of ``new`` names after a success of ``old``."""
    then, now = recipe(old), recipe(new)
    record = dataclasses.replace(
        records.metrics("a"),
        ingredients=dict(then.ingredients),
        versions=dict(then.packages or {}),
        environment=dataclasses.replace(
            records.metrics("a").environment, parameters=dict(old.parameters), variables=dict(old.env)
        ),
    )
    if versions:
        packages = {**(now.packages or {}), **versions}
        now = Recipe(ingredients={**now.ingredients, "packages": "another"}, packages=packages)
    return ran_because.differences(record, now, parameters=new.parameters, variables=new.env)


def test_a_parameter_is_named_with_its_values_and_not_as_a_changed_cell(tmp_path: Path) -> None:
    old = job_of(tmp_path, parameters={"n": 2500})
    assert why(old, job_of(tmp_path, parameters={"n": 5000})) == ("parameter n changed 2500 -> 5000",)
    assert why(old, job_of(tmp_path)) == ("parameter n was removed",)
    write = job_of(tmp_path, parameters={"n": 5000})
    then, old_record = recipe(old), dict(recipe(old).ingredients)
    write_notebook(tmp_path, sources("f(4)", at=3))
    now = recipe(job_of(tmp_path, parameters={"n": 5000}))
    record = dataclasses.replace(
        records.metrics("a"),
        ingredients=old_record,
        versions=dict(then.packages or {}),
        environment=dataclasses.replace(records.metrics("a").environment, parameters={"n": 2500}, variables={}),
    )
    assert ran_because.differences(record, now, parameters=write.parameters, variables={}) == (
        "parameter n changed 2500 -> 5000",
        "cell 4 changed",
    )


def test_cells_packages_and_variables_are_named(tmp_path: Path) -> None:
    old = job_of(tmp_path)
    assert why(old, job_of(tmp_path, env={"X": "1"})) == ("variable X was added",)
    click = provenance.here()["click"]
    told = why(old, job_of(tmp_path), click="99.0", nonesuch="1.0")
    assert told == (f"click {click} -> 99.0, nonesuch (not installed) -> 1.0",)
    assert why(job_of(tmp_path, env={"X": "1"}), job_of(tmp_path, env={"X": "2"})) == ("variable X changed 1 -> 2",)


def test_cells_that_are_added_changed_and_taken_out_are_told_apart() -> None:
    def edits(before: str, after: str) -> list[str]:
        return list(ran_because._edits(before, after))

    assert edits("a,b,c", "a,x,c") == ["cell 2 changed"]
    assert edits("a,b,c", "a,b,n,c") == ["cell 3 was added"]
    assert edits("a,b,c", "a,c") == ["cell 2 was removed"]
    assert edits("a,,b", "a,-,b") == []
    assert edits("a,b", "a,+n,b") == ["an inserted cell was added"]
    assert edits("a,+n,b", "a,+n,c") == ["cell 2 changed"]
