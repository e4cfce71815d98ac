# SPDX-License-Identifier: Apache-2.0
"""The files that images are made of agree with each other; no container engine is needed to see it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "images"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSIONS = dict(re.findall(r"^([A-Z0-9_]+)=(.*)$", (IMAGES / "versions.env").read_text(), re.MULTILINE))
DOCKERFILE = (IMAGES / "Dockerfile").read_text()
GENERATIONS = ("g1", "g2", "g3")
LOCKS = ("cpu", *GENERATIONS)


def load_layer() -> object:
    spec = importlib.util.spec_from_file_location("layer", IMAGES / "layer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


layer = load_layer()


@pytest.fixture(params=LOCKS)
def lock(request) -> str:
    return (IMAGES / f"requirements-{request.param}.lock").read_text()


def test_every_dependency_of_the_package_is_locked_in_a_version_that_fits(lock):
    """A new dependency that nobody locked would fail the build of the image, an hour later."""
    pins = dict(re.findall(r"^([\w.-]+)==([^ ;]+)", lock, re.MULTILINE))
    for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["otel"]):
        requirement = Requirement(text)
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{text} is not locked: run `python images/lock.py`"
        assert requirement.specifier.contains(pin), f"{text} is locked as {pin}: run `python images/lock.py --upgrade`"


def test_every_locked_version_has_hashes_and_nothing_has_an_address(lock):
    """What may be installed is fixed, where it comes from is not."""
    entries = re.split(r"\n(?=\S)", lock.strip())
    pinned = [entry for entry in entries if not entry.startswith("#")]
    assert len(pinned) > 20
    assert all("--hash=sha256:" in entry for entry in pinned)
    assert not re.search(r"https?://|index-u[r]l|find-l[i]nks|@ ", lock)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_locks_of_the_generations_hold_what_upstream_ran(generation):
    """The direct requirements stand in the lock as they are written."""
    lock = (IMAGES / f"requirements-{generation}.lock").read_text()
    wanted = [line for line in (IMAGES / f"requirements-{generation}.in").read_text().splitlines() if "==" in line]
    assert any(line.startswith("rapids-singlecell") for line in wanted)
    missing = [
        line for line in wanted if f"\n{canonicalize_name(line.split('==')[0])}=={line.split('==')[1]}" not in lock
    ]
    # 1.12 and 1.12.0 are one version
    assert [line for line in missing if f"{line}.0" not in lock] == []


def test_the_lock_brings_no_rapids_of_its_own():
    """cudf, cupy and the CUDA libraries are the base's; a wheel of another name would hide them."""
    for generation in GENERATIONS:
        lock = (IMAGES / f"requirements-{generation}.lock").read_text()
        assert not re.findall(
            r"^(?:cudf|cuml|cugraph|cuvs|cupy|rmm|pylibraft|nvidia-cu|nvidia-nccl)[\w-]*==", lock, re.MULTILINE
        )


def test_the_versions_stand_in_one_place():
    """Defaults of the Dockerfile, for those who call docker by hand, are those of versions.env."""
    defaults = set(re.findall(r"^FROM \$\{BASE_IMAGE:-([^}]+)\}", DOCKERFILE, re.MULTILINE))
    assert defaults == {VERSIONS["CPU_BASE"], VERSIONS["G3_BASE"]}
    bake = (ROOT / "docker-bake.hcl").read_text()
    assert set(re.findall(r'variable "((?:G\d|CPU)_\w+)"', bake)) == {name for name in VERSIONS if "BASE" in name}
    for name in map(str.upper, GENERATIONS):
        assert f"py{VERSIONS[f'{name}_PYTHON']}" in VERSIONS[f"{name}_BASE"]


def test_the_newest_generation_has_what_its_plan_and_the_extra_for_its_cuda_say():
    """Image, plan and `pip install rapids-notebook-runner[gpu-cu13]` mean the same versions."""
    text = (IMAGES / "requirements-g3.lock").read_text() + "\n" + (IMAGES / "rapids-g3.txt").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==([^ ;\n]+)", text, re.MULTILINE))
    pins["rapids-singlecell"] = pins["rapids-singlecell-cu13"]
    manifest = yaml.safe_load((ROOT / "tekton/configs/current-notebooks-plan.yaml").read_text())
    fits = yaml.safe_load(manifest["data"]["plan.yaml"])["fits"]
    pins["cudf"] = re.search(r":(\d+\.\d+)-cuda13", VERSIONS["G3_BASE"])[1]
    for name, wanted in fits.items():
        assert SpecifierSet(wanted).contains(pins[name]), name
    extra = [Requirement(text) for text in PROJECT["optional-dependencies"]["gpu-cu13"]]
    (singlecell,) = [one for one in extra if one.name == "rapids-singlecell-cu13"]
    assert singlecell.specifier.contains(pins["rapids-singlecell-cu13"])


def test_no_shell_stands_between_docker_and_the_runner():
    """Signals reach it, as both images end in exec form and as a user."""
    for part in ("cpu", "gpu"):
        text = re.split(rf"^FROM .* AS {part}$", DOCKERFILE, flags=re.MULTILINE)[1].split("\nFROM ")[0]
        assert 'ENTRYPOINT ["runner"]' in text
        assert re.findall(r"^USER (\S+)$", text, re.MULTILINE)[-1] == "1001"
        assert "STOPSIGNAL SIGTERM" in text


def test_compose_gives_time_to_save_and_what_gpus_need():
    """Docker's own ten seconds are too short; UCX wants shared memory and unlimited locks."""
    services = yaml.safe_load((IMAGES / "compose.yaml").read_text())["services"]
    assert set(services) == {"run-all", "validate", "demo"}
    for service in services.values():
        assert service["stop_grace_period"] == "60s"
        assert service["shm_size"] == "1g"
        assert service["ulimits"] == {"memlock": -1, "stack": 67108864}
    assert services["demo"]["deploy"] == {}


def test_the_build_sees_only_what_it_copies():
    """Each COPY of the context is let through by .dockerignore, and nothing private is."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = []
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        copied += line.replace("$GENERATION", "g3").split()[:-1]
    patterns = [re.escape(entry).replace(r"\*", "[^/]*") for entry in allowed]
    for path in copied:
        assert any(re.fullmatch(f"{pattern}(/.*)?", path) for pattern in patterns), path
        assert (ROOT / path).exists(), path
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()


def test_only_entries_that_hold_for_this_python_are_installed():
    """Markers are read, hashes stay with their entry, and names are compared as tools do."""
    text = "# comment\nA.b==1 \\\n    --hash=sha256:aa\nc==2 ; python_full_version < '3' \\\n    --hash=sha256:bb\n"
    assert layer.locked(text) == {"a-b": "A.b==1 \\\n    --hash=sha256:aa"}


def test_a_package_of_the_base_that_changed_is_told():
    """Replaced or gone, with both versions."""
    assert layer.changed({"numpy": "2.0", "cupy": "13"}, {"numpy": "2.0", "cupy": "13", "more": "1"}) == []
    assert layer.changed({"numpy": "2.0", "cupy": "13"}, {"numpy": "2.1"}) == [
        "numpy was 2.0, is 2.1",
        "cupy was 13, is None",
    ]


def test_a_requirement_that_the_base_does_not_meet_is_told():
    """Too old and missing, by who asks; markers and extras that do not hold are no requirement."""
    requires = ["tornado>=6.5.7", "click>=8", "gone", "x; extra == 'more'", "y; python_version < '3'"]
    added = {"ipykernel": SimpleNamespace(version="7.4", requires=requires)}
    assert layer.unmet(added, {"tornado": "6.5.1", "click": "8.1"}) == [
        "ipykernel 7.4 needs tornado>=6.5.7, the base has 6.5.1",
        "ipykernel 7.4 needs gone, the base has none",
    ]


def test_bytecode_does_not_depend_on_time(tmp_path):
    """Two compilations of one source with other times give the same bytes."""
    source = tmp_path / "module.py"
    results = []
    for stamp in (1, 10**9):
        source.write_text("VALUE = {'a', 'b'}\n")
        os.utime(source, (stamp, stamp))
        layer.compile_all([source])
        (compiled,) = (tmp_path / "__pycache__").iterdir()
        results.append(compiled.read_bytes())
        compiled.unlink()
    assert results[0] == results[1]


def test_tests_that_packages_ship_are_left_out(tmp_path):
    """Test files in a folder `tests` go; helpers beside them stay, because numpy imports one of its own."""
    for name in ("pkg/tests/test_a.py", "pkg/tests/__init__.py", "pkg/tests/_natype.py", "pkg/testing/test_b.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.py")]
    distribution = SimpleNamespace(files=files, locate_file=lambda file: tmp_path / file)
    layer.leave_out_tests([distribution])
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.py")}
    assert left == {"pkg/tests/__init__.py", "pkg/tests/_natype.py", "pkg/testing/test_b.py"}


def program(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_the_dockerfiles_pass_hadolint():
    """With the ignores of images/.hadolint.yaml, each of which has its reason."""
    config = IMAGES / ".hadolint.yaml"
    assert all("#" in line for line in config.read_text().splitlines() if line.strip().startswith("- "))
    command = [program("hadolint"), "--config", str(config), str(IMAGES / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_workflow_passes_zizmor():
    """Least permissions, pinned actions, no injection; offline."""
    files = [str(ROOT / ".github" / "workflows" / "image.yml"), str(ROOT / "action.yml")]
    command = [program("zizmor"), "--offline", "--no-progress", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflow_pins_every_action_by_commit_with_its_version():
    """A tag can be moved to other code; a commit cannot."""
    used = re.findall(r"uses: (\S+)(.*)$", (ROOT / ".github/workflows/image.yml").read_text(), re.MULTILINE)
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v?\d+\.\d+\.\d+", comment), action


def test_the_probes_are_commands():
    """Each has a name, a description, and a command as a list; names are unique."""
    checks = yaml.safe_load((IMAGES / "canary.yaml").read_text())["checks"]
    assert len({check["name"] for check in checks}) == len(checks) > 10
    for check in checks:
        assert check["description"]
        assert all(isinstance(word, str) for word in check["probe"]["exec"]["command"])


def test_distributions_are_found_under_their_canonical_names():
    """As the lock names them."""
    assert layer.installed()["papermill"].version == metadata.version("papermill")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("base", "warned"), [("x/base:1", True), ("x/base:1@sha256:" + "0" * 64, False)])
def test_a_build_on_a_base_without_a_digest_says_so(tmp_path, base, warned):
    """Before anything is built, with where the digest is to be had; and afterwards what the tag meant."""
    engine = tmp_path / "engine"
    engine.write_text('#!/bin/sh\n[ "$2" != inspect ] || echo "x/base@sha256:abc"\n')
    engine.chmod(0o755)
    command = ["make", "--silent", "image-cpu", f"ENGINE={engine}", f"BASE_IMAGE={base}"]
    done = subprocess.run(command, cwd=IMAGES.parent, capture_output=True, text=True, check=False)
    assert ("has no digest" in done.stderr) is warned
    assert "base: x/base@sha256:abc" in done.stdout
