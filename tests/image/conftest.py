# SPDX-License-Identifier: Apache-2.0
"""The engine and the images that the tests here share; each image is built once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from . import engine as engines


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[engines.Engine]:
    """Give podman or docker; what was built goes at the end, the Debian base excepted."""
    found = engines.find(tmp_path_factory.mktemp("engine"))
    before = found.untagged()
    yield found
    found.remove(found.tagged(f"{engines.OURS}-*"))
    found.remove(found.untagged() - before)


@pytest.fixture(scope="session")
def debian(engine: engines.Engine) -> str:
    """Give a base with Debian's Python."""
    return engines.debian(engine)


@pytest.fixture(scope="session")
def cpu_image(engine: engines.Engine, debian: str) -> str:
    """Give the cpu image, built from this checkout and without layers of another day, which hold that day's packages."""
    engine.build(engines.CPU, debian, *engines.CPU_OPTIONS)
    return engines.CPU


@pytest.fixture(scope="session")
def rapids_base(engine: engines.Engine, debian: str, cpu_image: str) -> str:
    """Give a stand-in for the RAPIDS base."""
    dockerfile = Path(__file__).with_name("stand-in.Dockerfile")
    engine.build(engines.RAPIDS, debian, f"--build-arg=PACKAGES={cpu_image}", dockerfile=dockerfile)
    return engines.RAPIDS


@pytest.fixture(scope="session")
def gpu_image(engine: engines.Engine, rapids_base: str) -> str:
    """Give the gpu image on the stand-in, with the cpu lock, most of which the stand-in has."""
    engine.build(engines.GPU, rapids_base, "--target=gpu", "--build-arg=GENERATION=cpu")
    return engines.GPU


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Give a folder that any user may write, as a volume with fsGroup is."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    folder.chmod(0o777)
    tmp_path.chmod(0o755)
    return folder
