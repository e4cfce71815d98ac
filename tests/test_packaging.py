# SPDX-License-Identifier: Apache-2.0
"""What is shipped is complete, pinned, and speaks of no machine or registry."""

from __future__ import annotations

import configparser
import os
import re
import runpy
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pydantic
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = ("3.11", "3.12", "3.13")
REQUIREMENTS = [
    *PROJECT["dependencies"],
    *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
]
CONSTRAINTS = [
    line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.strip() and not line.startswith("#")
]

# Written so that they do not find themselves.
REGISTRY = re.compile(
    r"pypi\.(?:org|nvidia|anaconda)|python[h]osted|conda\.[a]naconda|registry\.[n]pmjs"
    r"|--(?:extra-)?index-[u]rl|--find-[l]inks"
)
MACHINE_PATH = re.compile(r"(?<![\w.$}~])/(?:root|work|home/(?!rapids/)[a-z][\w-]*)/\w")


def repository_files() -> list[Path]:
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("this is no git checkout, so nobody can tell what belongs to the project")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def texts() -> list[tuple[Path, str]]:
    found = []
    for path in repository_files():
        try:
            found.append((path.relative_to(ROOT), path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-index", "--no-deps"]
    done = subprocess.run(
        [*command, "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_every_module_and_demo_file_of_the_package(wheel):
    """An installed package lacks nothing that the checkout has."""
    shipped = set(wheel.namelist())
    ours = {
        path.relative_to(ROOT).as_posix() for path in repository_files() if path.relative_to(ROOT).parts[0] == "runner"
    }
    assert {"runner/demo/plan.yaml", "runner/cli.py"} <= ours
    assert ours - shipped == set()


def test_the_wheel_holds_every_template_where_the_package_looks_for_it(wheel, tmp_path):
    """A wheel finds its templates inside itself, a checkout beside the package."""
    from runner.core.templates import templates_folder

    here = {path.relative_to(ROOT / "report_templates").as_posix() for path in files_below(ROOT / "report_templates")}
    assert here
    assert templates_folder() == ROOT / "report_templates"

    wheel.extractall(tmp_path)
    found = subprocess.run(
        [sys.executable, "-c", "from runner.core.templates import templates_folder; print(templates_folder())"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    installed = Path(found)
    assert installed.is_relative_to(tmp_path)
    assert {path.relative_to(installed).as_posix() for path in files_below(installed)} == here


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_wheel_declares_the_command_and_the_papermill_engine(wheel):
    """Installing gives the command `runner` and papermill an engine of that name."""
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(next(n for n in wheel.namelist() if n.endswith("entry_points.txt"))).decode())
    assert parser["console_scripts"]["runner"] == "runner.cli:main"
    assert parser["papermill.engine"]["runner"] == "runner.stages.execute.papermill_engine:RunnerEngine"


def test_the_wheel_holds_nothing_but_the_package(wheel):
    """No test, output or stray file is shipped."""
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"runner"}
    assert not [name for name in wheel.namelist() if "__pycache__" in name or name.endswith(".h5ad")]


def test_the_licence_is_shipped(wheel):
    """Whoever has the wheel has the licence."""
    assert PROJECT["license"] == "Apache-2.0"
    name = next(name for name in wheel.namelist() if name.endswith("/licenses/LICENSE"))
    assert "Apache License" in wheel.read(name).decode()


def environment(python: str) -> dict[str, str]:
    return {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux"}


APPLICABLE = [
    (line, python)
    for line in REQUIREMENTS
    for python in PYTHONS
    if (marker := Requirement(line).marker) is None or marker.evaluate(environment(python))
]


@pytest.mark.parametrize(("line", "python"), APPLICABLE)
def test_every_dependency_is_pinned_to_a_version_that_it_allows(line, python):
    """On each supported Python exactly one pin applies to a dependency, and it satisfies it."""
    wanted = Requirement(line)
    pins = [
        pin
        for pin in map(Requirement, CONSTRAINTS)
        if canonicalize_name(pin.name) == canonicalize_name(wanted.name)
        and (pin.marker is None or pin.marker.evaluate(environment(python)))
    ]
    assert len(pins) == 1
    (specifier,) = pins[0].specifier
    assert specifier.operator == "=="
    assert wanted.specifier.contains(Version(specifier.version))


def test_constraints_are_names_and_versions_only():
    """No host, hash, option or path stands in constraints.txt, and no name twice for the same Python."""
    for line in CONSTRAINTS:
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[\w.]+( ; python_full_version [<>=]+ '[\d.]+')?", line), line


def test_every_dependency_says_why_it_is_there():
    """A reader of pyproject.toml learns what each dependency is for."""
    for line in (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines():
        if re.match(r' +"[\w\[\]-]+>=', line) and "python_version <" not in line:
            assert "#" in line, line


def test_every_python_file_starts_with_its_licence():
    """The first line, after a shebang if there is one, names the licence."""
    files = [(path, text) for path, text in texts() if path.suffix == ".py"]
    assert files
    for path, text in files:
        lines = text.splitlines()
        first = lines[1] if lines and lines[0].startswith("#!") else next(iter(lines), "")
        assert first == "# SPDX-License-Identifier: Apache-2.0", path


def test_no_file_names_a_package_registry_or_a_folder_of_one_machine():
    """The repository is for everyone: the index is the user's choice, and paths are relative."""
    for path, text in texts():
        for pattern in (REGISTRY, MACHINE_PATH):
            match = pattern.search(text)
            assert match is None, f"{path}: {match}"


@pytest.mark.parametrize(
    "parts",
    [("pypi", ".org/simple"), ("--index-", "url X"), ("in /", "root/x"), ('"/', 'home/ann/x"'), ("/", "work/x")],
)
def test_the_search_for_registries_and_folders_finds_them(parts):
    """The search would find what it looks for; the examples stand in two parts so that it does not find these."""
    text = "".join(parts)
    assert REGISTRY.search(text) or MACHINE_PATH.search(text)


@pytest.mark.parametrize("text", ["/workspace/source", "notebooks/work/x", "$HOME/work/x", "${X}/root/y"])
def test_the_search_for_folders_leaves_others_alone(text):
    """Folders of a container or below another are no folders of one machine."""
    assert not MACHINE_PATH.search(text)


def test_make_lists_its_targets_and_ci_runs_the_two_checks():
    """`make` alone explains itself, and CI runs what a person runs."""
    listed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert re.findall(r"^  make (demo|test|lint|bench) ", listed, re.MULTILINE) == ["demo", "test", "lint", "bench"]
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.findall(r"^make (.+)$", script.read_text(), re.MULTILINE) == [
        "lint",
        "docs",
        "image-test",
        "conformance ENGINES=runner",
        "soak SECONDS=120 SEED=1",
        "pythons",
        "demo OUTPUT=.build/outputs",
        "test",
    ]


def test_the_published_schemas_are_those_of_the_models():
    """What is checked in is what `make schemas` writes; other versions of pydantic word it differently."""
    pinned = re.search(r"^pydantic==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    if pinned[1] != pydantic.VERSION:
        pytest.skip(f"pydantic {pydantic.VERSION} is not the pinned {pinned[1]}")
    texts = runpy.run_path(str(ROOT / ".ci" / "schemas.py"))["texts"]()
    folder = ROOT / "runner" / "core" / "schemas"
    assert {path.name: path.read_text() for path in folder.glob("*.json")} == texts


def test_an_old_python_is_refused_with_what_to_do(tmp_path):
    """`make` says which Python it needs instead of failing somewhere inside pip."""
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit 0\nexit 1\n')
    old.chmod(0o755)
    command = ["make", "--no-print-directory", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}", "lint"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Python 3.9.2; Python 3.11 or newer is needed" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_ci_starts_with_a_clean_environment(tmp_path):
    """What a machine happens to set reaches no check; how package indexes are reached does."""
    copy = tmp_path / ".ci" / "run"
    copy.parent.mkdir()
    beginning, mark, _rest = (ROOT / ".ci" / "run").read_text().partition("unset RUNNER_CI_CLEAN\n")
    assert mark
    copy.write_text(beginning + mark + "env\n")
    copy.chmod(0o755)
    kept = {
        "https_proxy": "http://proxy.example:3128",
        "PIP_INDEX_URL": "https://index.example/a b",
        "UV_LINK_MODE": "copy",
    }
    lost = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": "/x",
        "MPLBACKEND": "Agg",
        "LC_ALL": "de_DE.UTF-8",
        "RUNNER_RUN_TIMEOUT": "1s",
    }
    surroundings = {"HOME": "/nobody", "PATH": os.environ["PATH"], "LANG": "de_DE.UTF-8"}
    done = subprocess.run([copy], env={**surroundings, **kept, **lost}, capture_output=True, text=True, check=True)
    seen = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert {name: seen.get(name) for name in kept} == kept
    assert {"HOME": "/nobody", "LANG": "C.UTF-8"}.items() <= seen.items()
    assert not lost.keys() & seen.keys()
    assert not [name for name in seen if name.startswith("PYTHON")]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "npm error code SELF_SIGNED_CERT_IN_CHAIN\nnpm error reason: self-signed certificate",
            "NODE_EXTRA_CA_CERTS=FILE",
        ),
        ("npm ERR! code ENOTFOUND\nnpm ERR! getaddrinfo ENOTFOUND", "does not reach its registry"),
        (
            "npm error code ETARGET\nnpm error notarget No matching version found for p@1",
            "No matching version found for p@1",
        ),
        ("", "npm failed"),
    ],
)
def test_a_failing_npm_is_reported_with_its_reason(tmp_path, said, reason):
    """A missing CA is called a missing CA, in the last line of stderr."""
    (tmp_path / "npm").write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{said}\nEND\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    command = [ROOT / ".ci" / "npm-install", tmp_path / "modules", "p@1"]
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("p@1 cannot be installed: ")
    assert reason in last
