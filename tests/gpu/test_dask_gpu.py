# SPDX-License-Identifier: Apache-2.0
"""On real GPUs: what each worker of a Dask cluster held."""

from __future__ import annotations

import pytest
from support.realgpu import GIB, measured, needs, require, run

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def device(request):
    """Need a GPU."""
    require(request)


CLUSTER = """\
import os, time
from dask.distributed import Client
from dask_cuda import LocalCUDACluster
cluster = LocalCUDACluster(dashboard_address=None)
client = Client(cluster)
"""
WORK = """\
def hold(size):
    import os, time, cupy
    kept = cupy.zeros(size, "u1")
    time.sleep(4)
    return os.getpid()
pids = list(client.run(hold, 3 * 2**30).values())
import runner
runner.record("pid", pids[0])
"""


def test_each_worker_has_its_peak(tmp_path):
    """By NVML's list of processes, beside the kernel's; where that list has the pids of a host, there is none."""
    needs("cupy", "dask_cuda", "distributed")
    record, _ = run(tmp_path, CLUSTER, WORK)
    assert record["status"] == "succeeded", record["reason"]
    (gpu,) = record["gpus"]
    measured("dask", processes=gpu["processes"], peak=gpu["peak_gpu_memory_bytes"])
    if not gpu["processes"]:
        pytest.skip("NVML lists no process of this pid namespace")
    worker = next(one for one in gpu["processes"] if one["pid"] == record["recorded"]["pid"])
    assert 3 * GIB <= worker["used_bytes"] <= gpu["peak_gpu_memory_bytes"]
