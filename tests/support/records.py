# SPDX-License-Identifier: Apache-2.0
"""Builds output folders as real runs leave them: records, samples, notebooks, logs.

Everything goes through the product's own writers, so that no test believes in a field, a column or a
mark that no run ever writes. Deterministic: the same call writes the same bytes, so that a picture of a
page can be compared.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nbformat import from_dict

from runner.core import files
from runner.core.machine_records import (
    Allocated,
    Environment,
    GpuProcess,
    GpuUse,
    Guard,
    Host,
    Process,
    Release,
    Sampling,
)
from runner.core.records import (
    EXIT_CODES,
    Cause,
    Cell,
    CellStatus,
    Change,
    Check,
    Expectation,
    Failure,
    Gate,
    GateGpu,
    Metrics,
    Outputs,
    Source,
    Status,
    to_json,
)
from runner.core.requirements import Requirements
from runner.machine.device import Reading
from runner.machine.samples import ACTIVITY, COLUMNS, SamplesFile, row
from runner.outputs.claim import Running
from runner.plan import model as plans
from runner.plan.job import Job, Options, resolve
from runner.stages.execute.executed_notebook import mark, notebook_bytes
from runner.stages.execute.outcome import Facts, NotebookResult
from runner.stages.record.metrics_builder import MetricsBuilder

RUN = "run-2026-11-20"
START = datetime(2026, 11, 20, 9, 0, 0, tzinfo=UTC)
TOTAL = 24_152_899_584
UUIDS = tuple(f"GPU-{i}f3c5a7e-1b2d-4c6f-8a9b-0c1d2e3f4a5b" for i in range(8))
HEADER = ",".join(COLUMNS)
NO_UNITS = "," * len(ACTIVITY)
"""The end of a line of a GPU that does not tell what its units did."""
TITLES = (
    "import scanpy as sc",
    "rmm.reinitialize(managed_memory=False, pool_allocator=True)",
    "adata = sc.read('h5/dli_census.h5ad')",
    "rsc.pp.calculate_qc_metrics(adata, qc_vars=['MT'])",
    "sc.pl.violin(adata, ['n_genes_by_counts', 'total_counts'])",
    "rsc.pp.filter_genes(adata, min_counts=3)",
    "rsc.pp.normalize_total(adata, target_sum=1e4)",
    "rsc.pp.highly_variable_genes(adata, n_top_genes=5000)",
    "rsc.pp.scale(adata, max_value=10)",
    "rsc.pp.pca(adata, n_comps=100)",
    "rsc.pp.neighbors(adata, n_neighbors=15, n_pcs=40)",
    "rsc.tl.umap(adata)",
    "rsc.tl.leiden(adata, resolution=0.6)",
    "sc.pl.umap(adata, color=['leiden', 'CellType'])",
    "rsc.tl.rank_genes_groups_logreg(adata, groupby='CellType')",
    "adata.write('h5/dli_decoupler.h5ad')",
)


def iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@functools.cache
def _job() -> Job:
    job = resolve(Options(notebook="notebooks/any.ipynb", run_id=RUN), {})
    return dataclasses.replace(job, plan=plan_of("any"))


def metrics(
    name: str = "01_scRNA_analysis_preprocessing",
    *,
    status: Status = Status.SUCCEEDED,
    run_id: str = RUN,
    start: datetime = START,
    wall: float = 240.0,
    cells: int = 16,
    gpus: int = 1,
    failed_cell: int | None = None,
    peak_fraction: float = 0.55,
    seed: int = 1,
    **changes: object,
) -> Metrics:
    """Return a record with all its parts, of a notebook that took `wall` seconds."""
    rng = random.Random(f"{name}{seed}")
    shares = [rng.paretovariate(1.2) for _ in range(cells)]
    lengths = [0.94 * wall * share / sum(shares) for share in shares]
    at, made = 0.02 * wall, []
    peak = int(peak_fraction * TOTAL)
    for index, length in enumerate(lengths):
        reached = failed_cell is None or index <= failed_cell
        made.append(
            Cell(
                index=index,
                id=f"cell-{index:02d}",
                status=_cell_status(status, index, failed_cell),
                started_at=iso(start + timedelta(seconds=at)) if reached else None,
                wall_seconds=round(length, 3) if reached else None,
                output_bytes=rng.randrange(200, 400_000) if reached else 0,
                figures=int(reached and "sc.pl" in TITLES[index % len(TITLES)]),
                peak_gpu_memory_bytes=dict.fromkeys(UUIDS[:gpus], int(peak * (0.3 + 0.7 * (index + 1) / cells)))
                if reached
                else {},
                gpu_utilization_mean_percent=round(rng.uniform(0, 96), 1) if gpus and reached else None,
                gpu_energy_joules=round(length * 140 * gpus, 1) if gpus and reached else None,
                peak_host_memory_bytes=int(3e9 + 9e9 * (index + 1) / cells) if reached else None,
                title=TITLES[index % len(TITLES)],
            )
        )
        at += length
    uses = tuple(gpu_use(index, peak=peak, wall=wall) for index in range(gpus))
    job = dataclasses.replace(_job(), name=name, source_label=f"notebooks/{name}.ipynb", run_id=run_id)
    builder = MetricsBuilder(job)
    builder.note(
        started_at=iso(start),
        source=Source(
            path=f"notebooks/{name}.ipynb",
            sha256="9f2c" * 16,
            commit="3b1f0c9d6a5e4b7c8d9e0f1a2b3c4d5e6f708192",
            title="Preprocessing of single cells on GPUs",
            kernel="python3",
        ),
        gate=gate(gpus),
        preparation=(
            Change(
                rule="drop_cells", detail="the cell that stops its own kernel", cell_index=cells - 1, cell_id="cell-15"
            ),
            Change(
                rule="parameter", detail="n_top_genes", cell_index=7, old="n_top_genes = 5000", new="n_top_genes = 2000"
            ),
            Change(rule="dataset", detail="census is served by the loopback mirror", cell_index=2),
        ),
        cells=tuple(made),
        gpus=uses,
        host=Host(
            hostname="gpu-node-1",
            cpus=8.0,
            memory_limit_bytes=32_000_000_000,
            memory_limit_source="cgroup v2",
            peak_memory_bytes=12_000_000_000,
            container_peak_memory_bytes=15_200_000_000,
            cpu_seconds=1.4 * wall,
            disk_read_bytes=2_400_000_000,
            disk_written_bytes=310_000_000,
            oom_kills=0,
            guard=Guard(
                fraction=0.97, limit_bytes=32_000_000_000, peak_unreclaimable_bytes=12_600_000_000, cpu_seconds=0.4
            ),
        ),
        release=Release(
            released=True if gpus else None,
            reason="device memory is back at the baseline" if gpus else "no GPU was used",
            seconds=1.2 if gpus else None,
            tolerance_bytes=64_000_000,
            baseline_bytes=dict.fromkeys(UUIDS[:gpus], 455_081_984),
            after_bytes=dict.fromkeys(UUIDS[:gpus], 455_081_984),
        ),
        expectations=(
            Expectation(kind="file", target="notebooks/h5/out.h5ad", met=True, seen="1.2 GB", needed="exists"),
            Expectation(kind="figures", target=name, met=True, seen="9", needed="at least 4"),
        ),
        outputs=Outputs(
            notebook=f"{name}.executed.ipynb",
            html=f"{name}.html",
            log=f"{name}.log",
            samples=f"{name}.samples.csv",
            bytes={"notebook": 3_400_000, "html": 4_100_000, "log": 21_000},
            figures=9,
            saves=14,
            save_seconds=1.1,
            products=("notebooks/h5/out.h5ad",),
        ),
        environment=Environment(
            image="registry.example/rapids-runner:25.06@sha256:0f1e2d",
            python="3.12.9",
            platform="Linux-6.8-x86_64",
            cwd="notebooks",
            kernel="python3",
            transport="ipc",
            command=("runner", "run", name, "--plan", "plan.yaml"),
            variables={"UCX_MEMTYPE_CACHE": "n"},
            secrets=("HF_TOKEN",),
            parameters={"n_top_genes": 2000},
        ),
        versions={
            "anndata": "0.12.2",
            "cupy-cuda12x": "13.6.0",
            "papermill": "2.7.0",
            "rapids-singlecell": "0.12.6",
            "rapids-notebook-runner": "0.1.0",
            "scanpy": "1.11.5",
        },
        sampler=Sampling(interval_seconds=0.5, ticks=int(wall * 2), cpu_seconds=wall * 0.002),
        stages_seconds={
            "gate": 0.1,
            "prepare": 0.2,
            "execute": wall - 4,
            "release": 1.2,
            "expect": 0.1,
            "convert": 1.4,
        },
    )
    builder.end(status, "all cells ran" if status is Status.SUCCEEDED else status.value, EXIT_CODES.get(status, 70))
    at_its_end = {"ended_at": iso(start + timedelta(seconds=wall)), "wall_seconds": wall}
    return dataclasses.replace(builder.metrics(), **{**at_its_end, **changes})  # type: ignore[arg-type]


def _cell_status(status: Status, index: int, failed_cell: int | None) -> CellStatus:
    if failed_cell is None or index < failed_cell:
        return CellStatus.SUCCEEDED
    if index > failed_cell:
        return CellStatus.NOT_RUN
    return CellStatus.FAILED if status in (Status.FAILED, Status.INCOMPLETE) else CellStatus.INTERRUPTED


def gpu_use(index: int = 0, *, peak: int = 13_000_000_000, wall: float = 240.0, total: int = TOTAL) -> GpuUse:
    uuid = UUIDS[index]
    return GpuUse(
        uuid=uuid,
        index=index,
        name="NVIDIA L4",
        total_bytes=total,
        memory_api="v2",
        memory_source="nvml",
        baseline_bytes=455_081_984,
        peak_gpu_memory_bytes=peak,
        utilization_mean_percent=41.5,
        utilization_max_percent=100.0,
        energy_joules=wall * 140,
        held_seconds=wall,
        busy_seconds=wall * 0.47,
        temperature_max_celsius=71,
        driver_version="570.86.15",
        cuda_version="12.8",
        allocated=Allocated(
            uuid=uuid,
            source="rmm",
            peak_allocated_bytes=int(peak * 0.6),
            end_allocated_bytes=int(peak * 0.1),
            pool_bytes=int(peak * 0.95),
            overhead_bytes=600_000_000,
        ),
        need_bytes=int(peak * 0.6) + 600_000_000,
        smallest_card_gb=16,
    )


def gate(gpus: int = 1, *, passed: bool = True, reason: str = "", asked_gb: float = 15.0, waited: float = 0.0) -> Gate:
    seen = tuple(
        GateGpu(
            uuid=UUIDS[index],
            index=index,
            name="NVIDIA L4",
            total_bytes=TOTAL,
            free_bytes=TOTAL - (455_081_984 if passed else 20_000_000_000),
            good=passed,
            reason="" if passed else "4.2 GB free, 15 GB asked",
            holders=() if passed else (GpuProcess(pid=4711, used_bytes=19_400_000_000, name="python"),),
        )
        for index in range(gpus)
    )
    return Gate(
        passed=passed,
        reason=reason or (f"{gpus} GPU(s) of 15 GB free" if gpus else "no GPU requested"),
        asked=Requirements(gpus=gpus, gpu_memory_gb=asked_gb if gpus else None, memory_gb=16, shm_gb=1),
        waited_seconds=waited,
        gpus=seen,
        chosen=UUIDS[:gpus] if passed else (),
        checks=(
            Check(name="shm", status="pass", seen="1.1 GB", needed="1.0 GB"),
            Check(name="disk", status="pass", seen="210 GB", needed="20 GB"),
            Check(name="memory", status="warn", seen="32.0 GB", needed="16.0 GB", hint="the limit is the container's"),
        ),
        driver_version="570.86.15",
        cuda_version="12.8",
    )


def samples(
    path: Path,
    *,
    seconds: float = 240.0,
    interval: float = 0.5,
    gpus: int = 1,
    peak: int = 13_000_000_000,
    host_end: int = 12_000_000_000,
    pool: bool = False,
    seed: int = 1,
    spike_at: int | None = None,
    spike: int = 0,
) -> None:
    """Write a samples file: memory that grows in steps, bursts of work, and a spike where asked."""
    rng = random.Random(seed)
    count = max(1, int(seconds / interval))
    bursts = [rng.random() for _ in range(64)]
    rows = []
    for tick in range(count):
        share = tick / count
        at, host = tick * interval, int(1.5e9 + (host_end - 1.5e9) * math.sqrt(share))
        cpu = round(60 + 300 * bursts[(tick // 40) % 64], 1)
        busy = bursts[(tick // 25) % 64]
        work = 0 if busy < 0.35 else min(100, int(110 * busy + 8 * bursts[tick % 64]))
        grown = 0.2 + 0.8 * math.floor(share * 9) / 9 * (1 - 0.25 * bursts[(tick // 60) % 64])
        if pool:
            grown = float(share > 0.04)
        memory = int(455_081_984 + (peak - 455_081_984) * grown * (share > 0.02))
        if tick == count - max(2, count // 6):
            memory = peak
        if tick == spike_at:
            memory = spike
        if not gpus:
            rows.append(row(at, "", None, host, cpu))
        for gpu, uuid in enumerate(UUIDS[:gpus]):  # another GPU of a run holds and does less than the first one
            used = int(memory * (1 - 0.09 * gpu))
            reading = Reading(
                uuid=uuid,
                total_bytes=TOTAL,
                free_bytes=TOTAL - used,
                used_bytes=used,
                reserved_bytes=None,
                memory_api="v2",
                memory_source="nvml",
                energy_joules=None,
                unavailable={},
                utilization_percent=int(work * (1 - 0.08 * gpu)),
                power_watts=60 + 2.4 * work,
                temperature_celsius=48 + work // 5,
            )
            rows.append(row(at, uuid, reading, host, cpu))
    file = SamplesFile(path)
    file.append(rows)
    file.close()


def executed_notebook(
    path: Path, *, cells: int = 16, done: int = 16, run_id: str = RUN, ended: Metrics | None = None
) -> None:
    """Write a notebook as a save in the middle of a run leaves it, or at its end: each cell took ten seconds."""
    code = [
        {
            "cell_type": "code",
            "id": f"cell-{index:02d}",
            "metadata": {"runner": {"index": index}, "papermill": _marks(index, done)},
            "source": TITLES[index % len(TITLES)],
            "execution_count": index + 1 if index < done else None,
            "outputs": [],
        }
        for index in range(cells)
    ]
    document = {"cells": code, "metadata": {"runner": {"run_id": run_id}}, "nbformat": 4, "nbformat_minor": 5}
    notebook = from_dict(document)
    if ended is not None:
        verdict = NotebookResult(
            ended.status, ended.reason, ended.exit_code, {cell.id: cell.status for cell in ended.cells}
        )
        mark(notebook, verdict, Facts())
        notebook.metadata.runner.run_id = run_id
    files.write(path, notebook_bytes(notebook))


def _marks(index: int, done: int) -> dict[str, object]:
    """Return papermill's marks of a cell: done, under way, or not begun."""
    began, ended = (START + timedelta(seconds=seconds) for seconds in (2 + 10 * index, 12 + 10 * index))
    return {
        "start_time": began.isoformat() if index <= done else None,
        "end_time": ended.isoformat() if index < done else None,
    }


def running(
    folder: Path, name: str, *, run_id: str = RUN, cell_index: int = 8, cell_count: int = 16, beat: int = 31
) -> None:
    """Write the file of a run in flight."""
    content = Running(
        notebook=name,
        run_id=run_id,
        pid=4711,
        host="gpu-node-1",
        beat=beat,
        started_at=iso(START),
        cell_index=cell_index,
        cell_count=cell_count,
        last_save_at=iso(START + timedelta(seconds=95)),
        plan="rapids-single-cell",
    )
    files.write(folder / f"{name}.running", content.text())


def leave(folder: Path, record: Metrics, *, with_samples: bool = True, **shape: object) -> Metrics:
    """Write a record and the files that stand in it."""
    folder.mkdir(parents=True, exist_ok=True)
    name = record.notebook
    files.write(folder / f"{name}.metrics.json", to_json(record))
    if record.outputs.html:
        (folder / f"{name}.html").write_text(f"<!doctype html><title>{len(name)}</title>")
        (folder / f"{name}.log").write_text("2026-11-20T09:00:00.000Z run-started\n")
        done = sum(cell.started_at is not None for cell in record.cells)
        path = folder / f"{name}.executed.ipynb"
        executed_notebook(path, cells=len(record.cells), done=done, run_id=record.run_id, ended=record)
    if with_samples and record.outputs.samples:
        options = {
            "seconds": record.wall_seconds,
            "gpus": len(record.gpus),
            "peak": max((gpu.peak_gpu_memory_bytes or 0 for gpu in record.gpus), default=13_000_000_000),
            **shape,
        }
        samples(folder / f"{name}.samples.csv", **options)  # type: ignore[arg-type]
    return record


def plan_of(
    *names: str,
    optional: tuple[str, ...] = (),
    needs: dict[str, list[str]] | None = None,
    stages: dict[str, str] | None = None,
    gpu_memory_gb: float = 15,
) -> plans.Plan:
    """Return a plan of these notebooks."""
    return plans.Plan.model_validate(
        {
            "version": 1,
            "name": "rapids-single-cell",
            "notebooks": [
                {
                    "name": name,
                    "path": f"notebooks/{name}.ipynb",
                    "optional": name in optional,
                    "needs": (needs or {}).get(name, []),
                    "stage": (stages or {}).get(name),
                    "requires": {"gpus": 1, "gpu_memory_gb": gpu_memory_gb},
                }
                for name in names
            ],
        }
    )


TRACEBACK = """---------------------------------------------------------------------------
OutOfMemoryError                          Traceback (most recent call last)
Cell In[10], line 1
----> 1 rsc.pp.pca(adata, n_comps=100)

File /opt/conda/lib/python3.12/site-packages/rapids_singlecell/preprocessing/_pca.py:178, in pca(adata, n_comps)
    176     X = X.toarray()
    177 else:
--> 178     X = cp.asarray(X)

File cupy/cuda/memory.pyx:1500, in cupy.cuda.memory.MemoryPool.malloc()

\x1b[0;31mOutOfMemoryError\x1b[0m: Out of memory allocating 88,233,017,344 bytes (allocated so far: 21,004,110,336 bytes)."""


def every_status(folder: Path) -> plans.Plan:
    """Write one notebook of each status and return the plan that lists them all."""
    at = START
    names: list[str] = []
    optional: list[str] = []

    def add(status: Status, wall: float = 60.0, **options: object) -> None:
        nonlocal at
        name = f"{len(names) + 1:02d}_{status.value.replace('-', '_')}"
        names.append(name)
        record = metrics(name, status=status, start=at, wall=wall, **options)  # type: ignore[arg-type]
        at += timedelta(seconds=wall + 3)
        leave(folder, record, with_samples=bool(record.cells))

    add(Status.SUCCEEDED, 240)
    add(
        Status.SKIPPED,
        0.4,
        cells=0,
        gpus=0,
        optional=True,
        outputs=Outputs(),
        reason="optional, and the gate refused: 80 GB asked, 24.2 GB there",
        gate=gate(1, passed=False, reason="80 GB asked, 24.2 GB there", asked_gb=80),
        release=None,
        preparation=(),
        expectations=(),
    )
    optional.append(names[-1])
    add(
        Status.FAILED,
        95,
        failed_cell=9,
        reason="cell 10 raised OutOfMemoryError",
        exit_code=1,
        failure=Failure(
            message="Out of memory allocating 88,233,017,344 bytes (allocated so far: 21,004,110,336 bytes).",
            cell_index=9,
            cell_id="cell-09",
            error_name="OutOfMemoryError",
            traceback_tail=TRACEBACK,
            cause=Cause.DEVICE_MEMORY,
            hint="88.2 GB were asked at once: a densified matrix; take fewer rows, or managed memory",
        ),
    )
    add(
        Status.REFUSED,
        900,
        cells=0,
        outputs=Outputs(),
        exit_code=3,
        reason="no GPU with 15 GB free within 15m",
        gate=gate(1, passed=False, reason="no GPU with 15 GB free within 15m", waited=900.0),
        release=None,
        gpus=0,
    )
    add(
        Status.TIMED_OUT,
        120,
        failed_cell=12,
        reason="cell 13 passed its deadline of 1m00s",
        exit_code=4,
        failure=Failure(message="cell 13 passed its deadline of 1m00s", cell_index=12, cell_id="cell-12"),
    )
    add(
        Status.KERNEL_DIED,
        45,
        failed_cell=4,
        reason="the kernel was killed by SIGKILL in cell 5: host memory ran out",
        exit_code=5,
        failure=Failure(
            message="the memory guard ended the kernel at 31.1 GB of 32.0 GB",
            cell_index=4,
            cell_id="cell-04",
            signal="SIGKILL",
            cause=Cause.HOST_MEMORY,
            hint="give the container more memory or read fewer cells",
        ),
        warnings=("2 processes of the run outlived the kernel",),
    )
    add(
        Status.INCOMPLETE,
        30,
        failed_cell=6,
        reason="the notebook ended itself in cell 7: SystemExit(0)",
        exit_code=6,
        failure=Failure(message="SystemExit: 0", cell_index=6, cell_id="cell-06", error_name="SystemExit"),
    )
    add(
        Status.UNEXPECTED_RESULTS,
        70,
        reason="1 expectation was not met",
        exit_code=7,
        expectations=(
            Expectation(kind="file", target="notebooks/h5/out.h5ad", met=False, seen="nothing", needed="exists"),
            Expectation(
                kind="drift", target="cell 12: n_clusters", met=False, seen="31", needed="28", severity="warning"
            ),
        ),
    )
    add(
        Status.NOT_RELEASED,
        80,
        reason="3.2 GB of GPU memory were not given back within 30 s",
        exit_code=8,
        release=Release(
            released=False,
            reason="3.2 GB above the baseline after 30 s",
            seconds=30.0,
            baseline_bytes={UUIDS[0]: 455_081_984},
            after_bytes={UUIDS[0]: 3_655_081_984},
            swept=(
                Process(pid=812, name="dask-worker", ended_by="survived"),
                Process(pid=813, name="python", ended_by="SIGKILL"),
            ),
        ),
    )
    add(
        Status.BROKEN_INPUT,
        0.6,
        cells=0,
        gpus=0,
        outputs=Outputs(),
        exit_code=9,
        reason="rule 2 (replace) matched nothing: upstream moved",
        failure=Failure(
            message="prepare[1].replace matched nothing: 'adata[:1_000_000, :]'",
            hint="look at the source and change the rule",
        ),
        gate=None,
        release=None,
    )
    add(
        Status.TERMINATED,
        50,
        failed_cell=10,
        reason="SIGTERM in cell 11",
        exit_code=143,
        failure=Failure(message="SIGTERM", cell_index=10, signal="SIGTERM"),
    )
    names += ["12_not_run", "13_lost"]
    running(folder, "13_lost")
    samples(folder / "13_lost.samples.csv", seconds=101, host_end=30_500_000_000)
    executed_notebook(folder / "13_lost.executed.ipynb", done=8)
    stages = {name: ("basic" if int(name[:2]) < 6 else "advanced") for name in names}
    return plan_of(*names, optional=tuple(optional), needs={names[4]: [names[0]], names[11]: [names[2]]}, stages=stages)


def many(folder: Path, count: int, *, wall: float = 60.0, cells: int = 16) -> plans.Plan:
    """Write many notebooks that went well, but each thirteenth."""
    names = [f"nb_{index:03d}" for index in range(count)]
    for index, name in enumerate(names):
        bad = index % 13 == 12
        record = metrics(
            name,
            start=START + timedelta(seconds=index * wall * 0.6),
            wall=wall * (0.4 + (index * 7 % 11) / 10),
            cells=cells,
            status=Status.FAILED if bad else Status.SUCCEEDED,
            failed_cell=cells // 2 if bad else None,
            seed=index,
            failure=Failure(
                message="KeyError: 'leiden'", cell_index=cells // 2, error_name="KeyError", cause=Cause.EXCEPTION
            )
            if bad
            else None,
        )
        leave(folder, record, seed=index)
    return plan_of(*names, stages={name: f"stage {index // 10 + 1}" for index, name in enumerate(names)})
