# SPDX-License-Identifier: Apache-2.0
"""What an image holds, and what it must not hold."""

from __future__ import annotations

import ast
import json
import subprocess

import pytest

from . import engine as engines

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]


@pytest.fixture(params=["cpu", "gpu"])
def image(request) -> str:
    return request.getfixturevalue(f"{request.param}_image")


def test_labels_tell_what_the_image_is(engine, image):
    """Title, licence and the rest stand where every tool looks for them."""
    labels = engine.inspect(image)["Config"]["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.title"].startswith("rapids-notebook-runner (")
    assert {"version", "revision", "source", "base.name", "base.digest", "description"} <= {
        name.removeprefix("org.opencontainers.image.") for name in labels
    }


def test_signals_reach_the_runner(engine, image):
    """The entrypoint is the program itself, with no shell in between, and the user is not root."""
    config = engine.inspect(image)["Config"]
    assert config["Entrypoint"] == ["runner"]
    assert config["Cmd"] == ["--help"]
    assert config["User"] == "1001"
    assert config["WorkingDir"] == "/workspace"


def test_no_program_becomes_root(engine, image):
    """No file has setuid or setgid."""
    assert engine.shell(image, "find / -xdev -type f -perm /6000") == ""


def test_no_file_is_writable_by_others(engine, image):
    """Only the temp folders are everybody's."""
    found = engine.shell(image, "find / -xdev ! -type l -perm -o=w ! -type c ! -type p | sort").split()
    assert set(found) <= {"/tmp", "/var/tmp", "/run/lock", "/var/lock"}


def test_nothing_of_the_build_machine_is_in_the_image(engine, image):
    """Neither files, environment nor history hold the index, the pip configuration or a cache."""
    inspected = json.dumps(engine.inspect(image)) + engine.call("history", "--no-trunc", image).stdout
    for secret in engine.secrets:
        assert secret not in inspected
        assert (
            engine.shell(image, f"grep -rlF -- '{secret}' /etc /root /opt /usr/local /home 2>/dev/null || true") == ""
        )
    kinds = ("-path '*/.cache/pip/*'", "-name pip.conf -size +0", "-name '*.deb'", "-path '/var/lib/apt/lists/*'")
    assert engine.shell(image, f"find / -xdev \\( {' -o '.join(kinds)} \\)") == ""


def test_the_lock_says_what_is_installed(engine, cpu_image):
    """Each package that was added has the version of the lock; nothing else came along."""
    added = json.loads(engine.shell(cpu_image, "cat /usr/local/share/runner/layer.json"))["added"]
    lock = (engines.ROOT / "images" / "requirements-cpu.lock").read_text()
    ours = [one for one in added if one["name"] == "rapids-notebook-runner"]
    assert len(ours) == 1
    for one in added:
        assert one["bytes"] > 0
        if one not in ours:
            assert f"\n{one['name']}=={one['version']} " in lock, one


def test_packages_of_the_base_stay_what_they_are(engine, gpu_image):
    """What RAPIDS brought is neither replaced nor upgraded; what it lacks comes from the lock."""
    base = json.loads(engine.shell(gpu_image, "cat /usr/local/share/runner/base.json"))
    added = json.loads(engine.shell(gpu_image, "cat /usr/local/share/runner/layer.json"))["added"]
    assert base["click"] == "8.1.8"
    assert {one["name"] for one in added} == {"papermill", "tqdm", "rapids-notebook-runner"}
    code = (
        "from importlib.metadata import distributions as d; print({x.metadata['Name'].lower(): x.version for x in d()})"
    )
    after = ast.literal_eval(engine.shell(gpu_image, f'/opt/conda/bin/python -c "{code}"'))
    changed = {name for name, version in base.items() if after.get(name, version) != version}
    assert changed == set()
    assert after["click"] == "8.1.8"


@pytest.mark.slow
def test_two_builds_give_one_image(engine, debian, cpu_image):
    """Two builds without any cache of layers give one id: times, orders and bytecode are settled."""
    if engine.program != "podman":
        pytest.skip("docker's classic output keeps times; buildx with rewrite-timestamp is used in CI")
    first = engine.inspect(cpu_image)["Id"]
    assert engine.build(f"{engines.CPU}-again", debian, *engines.CPU_OPTIONS) == first


def test_the_wheel_in_the_image_is_this_checkout(engine, cpu_image):
    """The modules in the image are those of the repository, byte for byte."""
    folder = engine.shell(
        cpu_image, "dirname $(/opt/runner/bin/python -c 'import runner; print(runner.__file__)')"
    ).strip()
    listed = engine.shell(cpu_image, f"cd {folder} && find . -name '*.py' | LC_ALL=C sort | xargs sha256sum")
    here = subprocess.run(
        "find . -name '*.py' | LC_ALL=C sort | xargs sha256sum",
        shell=True,
        cwd=engines.ROOT / "runner",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert listed == here
