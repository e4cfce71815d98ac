# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from simdriver import COMPILER, NO_COMPILER, SimulatedDriver
from support import warm

# Tests never assert how long something took: under load an example takes as long as it takes.
settings.register_profile("runner", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("runner")

# What a shell or nohup starts in the background ignores these, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Where it is set, each of the thousands of processes that the tests start compiles all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

warm.fork_programs()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what `make test-fast` uses."""
    parser.addoption("--in-process", action="store_true", help="skip each test that starts a process, once it does")


@pytest.fixture(autouse=True)
def _in_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.config.getoption("--in-process"):
        monkeypatch.setattr(subprocess.Popen, "__init__", lambda *_, **__: pytest.skip("starts a process"))


@pytest.fixture(scope="session")
def driver_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder where built driver libraries are kept for the session."""
    return tmp_path_factory.mktemp("simdriver")


@pytest.fixture
def simulated_driver(tmp_path: Path, driver_cache: Path) -> SimulatedDriver:
    """Give a driver without devices; `write` says what it answers, `env` leads a subprocess to it."""
    if not COMPILER:
        pytest.skip(NO_COMPILER)
    folder = tmp_path / "driver"
    folder.mkdir()
    return SimulatedDriver(folder, driver_cache)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of two megabytes."""
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting a small file system needs root: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


@pytest.fixture
def new_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start kernels as new processes, for tests of their start-up or of first imports."""
    monkeypatch.setattr(warm, "forked_kernels", False)
