# SPDX-License-Identifier: Apache-2.0
"""Pages, notebooks and products that would be one file are refused before one overwrites the other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from support import cli, notebooks

from runner.core import files, trials
from runner.core.errors import BrokenInputError, UsageError
from runner.outputs import attempts
from runner.plan import model as plan
from runner.plan.job import Options, resolve
from runner.run import preflight
from runner.stages.prepare.plan_check import check_plan


@pytest.fixture
def one_case(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a folder in which file names are case-insensitive."""
    real = os.stat

    def stat(path, *arguments, **options):
        try:
            return real(path, *arguments, **options)
        except FileNotFoundError:
            place = Path(os.fsdecode(path))
            if not place.is_relative_to(tmp_path):
                raise
            same = [path.name for path in place.parent.glob("*") if path.name.casefold() == place.name.casefold()]
            if not same:
                raise
            return real(place.parent / same[0], *arguments, **options)

    monkeypatch.setattr(os, "stat", stat)
    return tmp_path


def test_a_folder_is_asked_whether_it_ignores_case(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Also for a folder that does not exist yet; no files are left, and an unwritable folder gives False."""
    assert not files.ignores_case(tmp_path / "new" / "deep")
    request.getfixturevalue("one_case")
    assert files.ignores_case(tmp_path / "new" / "deep")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("other", ["b/x.ipynb", "a/x.executed.ipynb"])
def test_two_notebooks_never_become_one_page(tmp_path: Path, other: str) -> None:
    """Exit 2 names both and the page; no page is written. The same notebook twice is one page."""
    for name in ("a/x.ipynb", other):
        notebooks.write(tmp_path / name, f"print({name!r})")

    ended = cli.runner("convert", "a/x.ipynb", other, "--output-dir", "pages", cwd=tmp_path)

    assert ended.code == 2, ended.err
    assert f"a/x.ipynb and {other} would both become pages/x.html" in ended.err
    assert not (tmp_path / "pages").exists()
    assert cli.runner("convert", "a/x.ipynb", "./a/x.ipynb", "--output-dir", "pages", cwd=tmp_path).code == 0


def planned(folder: Path, *, products: tuple[str, str]) -> Path:
    for name in ("a", "A"):
        notebooks.write(folder / "in" / f"{name}.ipynb", "1")
    entries = [{"name": n, "path": f"in/{n}.ipynb", "products": [p]} for n, p in zip("aA", products, strict=True)]
    (folder / "plan.yaml").write_text(yaml.safe_dump({"version": 1, "name": "p", "notebooks": entries}))
    return folder / "plan.yaml"


def test_names_in_two_cases_are_refused_where_they_are_one_file(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """On a case-sensitive volume they are two notebooks."""
    preflight.check_names(["a", "A"], tmp_path / "out")
    request.getfixturevalue("one_case")
    preflight.check_names(["a", "b", "a"], tmp_path / "out")
    with pytest.raises(UsageError, match="the notebooks 'a' and 'A' would have the same files"):
        preflight.check_names(["a", "A"], tmp_path / "out")


def test_a_run_does_not_take_the_files_of_a_name_in_another_case(one_case: Path) -> None:
    """They are in the folder from an earlier run; those with the same spelling are its own earlier run."""
    source = notebooks.write(one_case / "in" / "n.ipynb", "1")
    (one_case / "out").mkdir()
    (one_case / "out" / "N.metrics.json").write_text("{}")

    with pytest.raises(UsageError, match=r"'N\.metrics\.json' of another"):
        preflight.check_name_is_free(resolve(Options(notebook=str(source), output_dir=one_case / "out")))

    preflight.check_name_is_free(resolve(Options(notebook=str(source), output_dir=one_case / "out", name="N")))


def test_products_in_two_cases_are_refused_where_they_are_one_file(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """By `plan check` and by the run of each notebook that makes one of them."""
    path = planned(tmp_path, products=("h5/Out.h5ad", "h5/out.*"))
    assert check_plan(plan.load(path), tmp_path) == []
    job = resolve(Options(notebook="a", plan=path, output_dir=tmp_path / "out"))
    preflight.check(job)

    request.getfixturevalue("one_case")

    (problem,) = check_plan(plan.load(path), tmp_path)
    assert "'h5/Out.h5ad' and 'h5/out.*' may be the same file" in str(problem)
    with pytest.raises(BrokenInputError, match="may be the same file"):
        preflight.check(job)


def test_files_of_two_notebooks_are_never_one() -> None:
    """No ending of their files ends another: else `x.dask` beside `x` could share a file with it."""
    endings = {*attempts.SUFFIXES, attempts.SUMS, ".running", ".prepared.ipynb", trials.FIT, trials.FORECAST}
    assert [(one, other) for one in endings for other in endings - {one} if one.endswith(other)] == []
