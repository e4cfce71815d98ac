# SPDX-License-Identifier: Apache-2.0
"""One GPU for the tests of this folder, however many the machine has."""

from __future__ import annotations

import os

import pytest

from runner.machine import gpus


@pytest.fixture(autouse=True)
def one_gpu(monkeypatch):
    """Show this process and its children the first visible GPU that is not in MIG mode, and nothing else.

    The gate takes the GPU with most free memory: with several, a test and `nvidia-smi` beside it could
    look at another one than the run.
    """
    try:
        with gpus.open_driver() as driver:
            visible = [gpu.uuid for gpu in driver.visible(os.environ) if not gpu.mig]
    except gpus.DriverProblem:
        return  # the tests themselves skip or fail, as they were asked for
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible[0])


@pytest.fixture
def two_gpus(monkeypatch, one_gpu):
    """Show two whole GPUs instead and give their UUIDs; skip where there are not two."""
    with gpus.open_driver() as driver:
        whole = [gpu.uuid for gpu in driver.devices() if not gpu.mig]
    if len(whole) < 2:
        pytest.skip("needs two GPUs")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(whole[:2]))
    return whole[:2]
