# SPDX-License-Identifier: Apache-2.0
"""The container engine of this machine, podman or docker, and what a build needs here.

A build gets the machine's own pip configuration and CA bundle as a secret and as mounts, so that
it reaches whatever index the machine uses; none of it may end in the image, which a test checks.
Where no registry can be reached a Debian base is made with debootstrap.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "images" / "Dockerfile"
BASE = "localhost/runner-test/debian"
# Two checkouts on one machine do not share what is built from them.
OURS = f"localhost/runner-test/{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}"
RAPIDS, CPU, GPU = f"{OURS}-rapids", f"{OURS}-cpu", f"{OURS}-gpu"
CPU_OPTIONS = ("--no-cache", "--target=cpu", "--build-arg=IMAGE=localhost/runner-test/cpu:test")
# podman puts a tmpfs on /tmp of a read-only container by itself, docker does not.
HARDENED = (
    "--read-only",
    "--tmpfs=/tmp:rw,exec,mode=1777",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--network=none",
)
# What of a machine's pip configuration tells how an index is reached; a constraint, say, is the machine's own matter.
_REACHING = {
    "index-url",
    "extra-index-url",
    "find-links",
    "trusted-host",
    "proxy",
    "cert",
    "client-cert",
    "default-timeout",
}
_CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=4096:16384", "nproc=4096:8192"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


@dataclass(frozen=True)
class Engine:
    """A program that builds and runs images, with what each call needs.

    Parameters
    ----------
    program
        ``podman`` or ``docker``.
    environ
        Environment of its calls.
    build_options
        How a build reaches the package index of this machine.
    secrets
        Texts of this machine's configuration that must not be in an image.
    """

    program: str
    environ: dict[str, str]
    build_options: tuple[str, ...]
    secrets: tuple[str, ...]

    def call(self, *arguments: str, check: bool = True, seconds: float = 600) -> subprocess.CompletedProcess[str]:
        """Call the engine; a failure shows the end of what it said."""
        done = subprocess.run(
            [self.program, *arguments], env=self.environ, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert not check or done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"[
            -6000:
        ]
        return done

    def build(self, tag: str, base: str, *options: str, dockerfile: Path = DOCKERFILE) -> str:
        """Build an image and return its id."""
        given = ["--build-arg", f"BASE_IMAGE={base}", "--file", str(dockerfile), "--tag", tag, *options]
        self.call("build", *self.build_options, *given, str(ROOT), seconds=1500)
        return self.inspect(tag)["Id"]

    def run(
        self, image: str, *arguments: str, options: tuple[str, ...] = (), **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a container to its end and remove it."""
        return self.call("run", "--rm", *options, image, *arguments, **more)

    def shell(self, image: str, script: str, *options: str) -> str:
        """Return what a shell script prints in a container, run by root so that it sees everything."""
        given = ("--user=0", "--entrypoint=sh", "--network=none", *options)
        return self.run(image, "-c", script, options=given).stdout

    def inspect(self, name: str) -> dict[str, Any]:
        """Return what the engine knows of an image or container."""
        return json.loads(self.call("inspect", name).stdout)[0]

    def tagged(self, pattern: str) -> set[str]:
        """Return the images whose names fit a pattern."""
        shown = ("--filter", f"reference={pattern}", "--format", "{{.Repository}}:{{.Tag}}")
        return set(self.call("images", *shown).stdout.split())

    def untagged(self) -> set[str]:
        """Return the images without a name: stages of builds, and what was built before under a name of now."""
        return set(self.call("images", "--quiet", "--no-trunc", "--filter", "dangling=true").stdout.split())

    def remove(self, images: set[str]) -> None:
        """Remove images, as far as nothing uses them."""
        if images:
            self.call("rmi", *sorted(images), check=False)

    def has(self, image: str) -> bool:
        """Return True if the image is here."""
        return self.call("image", "inspect", image, check=False).returncode == 0


def find(folder: Path) -> Engine:
    """Return a working engine, or skip and say what each lacks."""
    reasons = []
    chosen = os.environ.get("RUNNER_TEST_ENGINE")
    for program in (chosen,) if chosen else ("podman", "docker"):
        if shutil.which(program) is None:
            reasons.append(f"{program} is not installed")
            continue
        environ = {**os.environ, **(_podman_settings(folder) if program == "podman" else {})}
        done = subprocess.run([program, "info"], env=environ, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            options, secrets = _index_options(folder, program)
            return Engine(program, environ, options, secrets)
        reasons.append(f"{program} does not work: {done.stderr.strip()[-200:]}")
    pytest.skip("; ".join(reasons))


def _podman_settings(folder: Path) -> dict[str, str]:
    """Return settings for root on machines with cgroup v1, or where podman's own limits are refused."""
    if os.getuid() != 0 or "CONTAINERS_CONF" in os.environ:
        return {}
    first = not Path("/sys/fs/cgroup/cgroup.controllers").exists()
    text = _CONTAINERS_CONF + ('runtime = "runc"\n' if first and shutil.which("runc") else "")
    path = folder / "containers.conf"
    path.write_text(text)
    return {"CONTAINERS_CONF": str(path)}


def _index_options(folder: Path, program: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the options that hand the machine's pip configuration to a build, and what is secret in it."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    settings: dict[str, str] = {}
    for line in sorted(listed.splitlines(), reverse=True):  # the environment (":env:") comes last and wins
        key, _, value = line.partition("=")
        setting = key.rpartition(".")[2]
        if setting in _REACHING:
            settings[setting] = value.strip("'")
    configuration = folder / "pip.conf"
    configuration.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    options = ["--network=host", f"--secret=id=pipconf,src={configuration}"]
    if program == "podman":
        words = [word.removeprefix("file://") for value in settings.values() for word in value.split()]
        folders = {Path(word) for word in words if word.startswith("/") and Path(word).is_dir()}
        # The pages of a local index lead to files beside it.
        roots = {folder.parent if folder.name == "simple" else folder for folder in folders}
        mounts = sorted({Path("/etc/ssl/certs"), *roots})
        options += [f"--volume={path}:{path}:ro" for path in mounts]
        options += ["--timestamp=0"]
    secrets = tuple(
        word for key, value in settings.items() if "index" in key or "links" in key for word in value.split()
    )
    return tuple(options), secrets


def debian(engine: Engine) -> str:
    """Return an image with Debian's Python: a pulled one, one made before, or one made with debootstrap."""
    given = os.environ.get("RUNNER_TEST_BASE_IMAGE")
    if given:
        return given
    if engine.has(BASE):
        return BASE
    if os.getuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("no base image: set RUNNER_TEST_BASE_IMAGE, or run as root with debootstrap installed")
    host = subprocess.run(
        ["sh", "-c", ". /etc/os-release; echo $VERSION_CODENAME"], capture_output=True, text=True, check=True
    )
    for suite in dict.fromkeys(["trixie", host.stdout.strip()]):
        if _debootstrap(engine, suite):
            return BASE
    pytest.skip("no base image: debootstrap reached no Debian mirror")


def _debootstrap(engine: Engine, suite: str) -> bool:
    folder = Path("/var/tmp") / f"runner-test-{os.getpid()}"  # /tmp may forbid devices
    try:
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", "--include=python3-venv,ca-certificates,git", suite, str(folder)],
            capture_output=True,
            check=False,
        )
        if made.returncode != 0:
            return False
        for unneeded in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(folder / unneeded, ignore_errors=True)
        (folder / "var/cache/apt/archives/partial").mkdir(parents=True)
        archive = folder.with_suffix(".tar")
        subprocess.run(["tar", "--create", "--file", str(archive), "--directory", str(folder), "."], check=True)
        engine.call("import", str(archive), BASE)
        archive.unlink()
        return True
    finally:
        shutil.rmtree(folder, ignore_errors=True)
