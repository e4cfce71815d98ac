# SPDX-License-Identifier: Apache-2.0
"""Notebooks and processes on a real GPU, and a place for the figures that were measured."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support import cli, notebooks

MIB = 2**20
GIB = 2**30

# Holds device memory through libcuda alone: a line with a number of bytes sets what it holds.
HOLDER = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    assert code == 0, f"{name} failed with {code}"
context, address, device = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_int()
call("cuInit", 0)
call("cuDeviceGet", ctypes.byref(device), 0)
call("cuCtxCreate_v2", ctypes.byref(context), 0, device)
held = 0
for line in sys.stdin:
    if held:
        call("cuMemFree_v2", address)
    held = int(line)
    if held:
        call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(held))
        call("cuMemsetD8_v2", address, ctypes.c_ubyte(1), ctypes.c_size_t(held))
        call("cuCtxSynchronize")
    print(held, flush=True)
"""


class Holder:
    """A process that holds as much device memory as it is told."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environ or {})},
        )

    def hold(self, size: int) -> None:
        """Hold so much, and return when it is held."""
        self.process.stdin.write(f"{size}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == str(size)

    def end(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.communicate()


def require(request: pytest.FixtureRequest) -> None:
    """Skip a test where there is no GPU; who asks for these tests by name must have one."""
    from runner.machine.gpus import DriverProblem, open_driver

    try:
        open_driver().close()
    except DriverProblem as problem:
        asked = request.config.option.markexpr == "gpu"
        (pytest.fail if asked else pytest.skip)(f"needs a GPU: {problem}")


def needs(*modules: str) -> None:
    """Skip the test where a module is missing, with its name."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


def smi(*fields: str) -> list[str]:
    """Return what nvidia-smi says of the GPU that the tests use."""
    program = shutil.which("nvidia-smi")
    if not program:
        pytest.skip("nvidia-smi is not on PATH")
    query = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    query += ["-i", os.environ.get("CUDA_VISIBLE_DEVICES", "0")]  # tests/gpu shows one, by its UUID
    text = subprocess.run(query, check=True, capture_output=True, text=True).stdout
    return [part.strip() for part in text.splitlines()[0].split(",")]


def run(
    folder: Path, *cells: str, options: tuple[object, ...] = (), name: str = "n", env: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], Any]:
    """Run cells on one GPU of the machine and return metrics and executed notebook."""
    source = notebooks.write(folder / f"{name}.ipynb", *cells)
    out = folder / "out"
    ended = cli.runner("run", source, "--output-dir", out, "--no-html", "--min-gpus", "1", *options, env=env)
    assert (out / f"{name}.metrics.json").exists(), ended.err
    return cli.metrics(out, name), cli.executed(out, name)


def samples(folder: Path, name: str = "n") -> list[dict[str, float]]:
    """Return the samples of a run as numbers; empty fields are left out."""
    with (folder / "out" / f"{name}.samples.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return [{key: float(value) for key, value in row.items() if value and key != "gpu_uuid"} for row in rows]


def measured(name: str, **figures: object) -> None:
    """Print figures, and add them to the file that GPU_FIGURES names."""
    line = json.dumps({"name": name, **figures})
    print(line)
    path = os.environ.get("GPU_FIGURES")
    if path:
        with Path(path).open("a") as stream:
            stream.write(line + "\n")
