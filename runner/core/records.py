# SPDX-License-Identifier: Apache-2.0
"""Records of a run.

Records are frozen and have no behaviour. Field names contain the units. A field that was not measured is ``None``, and
the record's ``unavailable`` maps it to the reason. `NAME.metrics.json` is `Metrics` as JSON; `metrics_schema` is its
JSON Schema.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from runner.core.machine_records import (
    Allocated,
    AllocatorProbe,
    DeviceShortage,
    Environment,
    GpuProcess,
    GpuUse,
    Host,
    Release,
    Sampling,
)
from runner.core.requirements import Requirements  # noqa: TC001  (the schema is made from annotations)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import TypeAdapter

SCHEMA_VERSION = 1


class Status(StrEnum):
    """Status of a notebook.

    `NOT_RUN`, `RUNNING` and `HELD` appear only in reports, `LOST` also in the record of an interrupted run.
    """

    SUCCEEDED = "succeeded"
    SKIPPED = "skipped"
    FAILED = "failed"
    REFUSED = "refused"
    TIMED_OUT = "timed-out"
    KERNEL_DIED = "kernel-died"
    INCOMPLETE = "incomplete"
    UNEXPECTED_RESULTS = "unexpected-results"
    NOT_RELEASED = "not-released"
    BROKEN_INPUT = "broken-input"
    TERMINATED = "terminated"
    NOT_RUN = "not-run"
    RUNNING = "running"
    HELD = "held"
    """A cell raised; kernel and GPU wait for `runner repair`."""
    LOST = "lost"


class CellStatus(StrEnum):
    """Status of a code cell of the source notebook."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    NOT_RUN = "not-run"
    DROPPED = "dropped"


class Cause(StrEnum):
    """Cause of a failure, if it matches a known signature."""

    HOST_MEMORY = "host-memory"
    DEVICE_MEMORY = "device-memory"
    SEGFAULT = "segfault"
    UCX = "ucx"
    DRIVER = "driver"
    """Driver, GPU and the CUDA build of a package are incompatible."""
    NO_DEVICE = "no-device"
    GPU_BUSY = "gpu-busy"
    MISSING_MODULE = "missing-module"
    MISSING_LIBRARY = "missing-library"
    MISSING_FILE = "missing-file"
    LFS_POINTER = "lfs-pointer"
    DISK_FULL = "disk-full"
    SHM = "shm"
    NETWORK = "network"
    KILLED = "killed"
    EXCEPTION = "exception"


EXIT_CODES: dict[Status, int] = {
    Status.SUCCEEDED: 0,
    Status.SKIPPED: 0,
    Status.FAILED: 1,
    Status.REFUSED: 3,
    Status.TIMED_OUT: 4,
    Status.KERNEL_DIED: 5,
    Status.INCOMPLETE: 6,
    Status.UNEXPECTED_RESULTS: 7,
    Status.NOT_RELEASED: 8,
    Status.BROKEN_INPUT: 9,
    Status.TERMINATED: 143,  # 130 after SIGINT
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The source notebook."""

    path: str
    sha256: str | None = None
    commit: str | None = None
    """The checked-out commit, if it contains the notebook exactly as it was run."""
    repository: str | None = None
    """URL of the repository that the commit came from, without credentials."""
    title: str | None = None
    kernel: str | None = None
    unavailable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateGpu:
    """One visible GPU as the gate saw it."""

    uuid: str
    index: int | None
    name: str
    total_bytes: int | None
    free_bytes: int | None
    good: bool
    reason: str
    holders: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of the machine against a requirement."""

    name: str
    status: Literal["pass", "warn", "fail"]
    seen: str
    needed: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The verdict of the gate and the facts behind it."""

    passed: bool
    reason: str
    asked: Requirements
    waited_seconds: float = 0.0
    gpus: tuple[GateGpu, ...] = ()
    chosen: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    driver_version: str | None = None
    cuda_version: str | None = None
    driver_problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change that preparation made to the notebook.

    ``rule`` is one of ``drop_cells, replace, insert, parameter, dataset, place, product``;
    ``cell_index`` counts the code cells of the source notebook from 0. ``new`` runs instead of
    ``old``; an added cell has no ``old``.
    """

    rule: str
    detail: str
    cell_index: int | None = None
    cell_id: str | None = None
    times: int = 1
    old: str | None = None
    new: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRun:
    """One execution of a cell; a repair may have changed its source."""

    source_sha256: str
    """Hash of the source as executed, which is in the executed notebook."""
    started_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One code cell of the source notebook."""

    index: int
    id: str
    status: CellStatus = CellStatus.NOT_RUN
    started_at: str | None = None
    runs: tuple[CellRun, ...] = ()
    wall_seconds: float | None = None
    output_bytes: int = 0
    figures: int = 0
    peak_gpu_memory_bytes: dict[str, int | None] = field(default_factory=dict)
    gpu_utilization_mean_percent: float | None = None
    gpu_energy_joules: float | None = None
    peak_host_memory_bytes: int | None = None
    gpu_activity: dict[str, float] = field(default_factory=dict)
    """Mean activity of the GPUs' units over the cell; Hopper and newer."""
    title: str | None = None
    """First meaningful line of the source, for tables."""
    allocated: tuple[Allocated, ...] = ()
    second_run: Literal["bit-equal", "equal-in-meaning", "unstable"] | None = None
    """Comparison of its outputs with those of the second run, with ``--twice``."""
    warnings: tuple[str, ...] = ()
    """Problems in a successful cell; also in the record's warnings, with the cell's number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The first failure."""

    message: str
    cell_index: int | None = None
    cell_id: str | None = None
    error_name: str | None = None
    traceback_tail: str | None = None
    signal: str | None = None
    cause: Cause | None = None
    hint: str | None = None
    device_memory: DeviceShortage | None = None
    """Set if the cause is ``device-memory``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """An expected result from the plan and the actual one."""

    kind: str
    target: str
    met: bool
    seen: str
    needed: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.kind} {self.target}: {self.seen}, needed {self.needed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Files of the run, relative to the output folder; ``None`` with a reason in ``unavailable``."""

    notebook: str | None = None
    html: str | None = None
    log: str | None = None
    samples: str | None = None
    dask: str | None = None
    """Dask's performance report of the notebook's cluster; made in its kernel, contains scripts."""
    bytes: dict[str, int] = field(default_factory=dict)
    figures: int = 0
    attempts: tuple[str, ...] = ()
    """Folders of earlier runs of this name."""
    products_moved: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    notebook_sha256: str | None = None
    product_sha256: dict[str, str] = field(default_factory=dict)
    """Hash of each product by its path in the checkout; like ``notebook_sha256`` only after a success."""
    saves: int = 0
    save_seconds: float = 0.0
    unavailable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReusedFrom:
    """The earlier run whose results were reused."""

    run_id: str
    ended_at: str
    reused_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """The record of one run of one notebook."""

    notebook: str
    source: Source
    run_id: str
    status: Status
    reason: str
    exit_code: int
    started_at: str
    ended_at: str
    wall_seconds: float
    schema_version: int = SCHEMA_VERSION
    provisional: bool = False
    """Written before all checks were done; see `runner.core.endings`."""
    stage: str | None = None
    """Stage in which a provisional record was written."""
    resume_key: str | None = None
    """Hash of all inputs of a successful run; see `runner.run.ingredients`."""
    ingredients: dict[str, str] = field(default_factory=dict)
    """Parts of the key, so that a later run can name the changed ones."""
    not_judged: tuple[str, ...] = ()
    """Inputs that the key cannot cover, such as hosts from which the notebook itself downloads."""
    reused_from: ReusedFrom | None = None
    """Set if nothing ran because the results of an earlier run with the same key were reused."""
    ran_because: tuple[str, ...] = ()
    """Why a resumed run did not reuse an earlier result."""
    repaired: bool = False
    """It failed, was held and continued with `runner repair`: the source notebook alone does not give this result."""
    held_seconds: float | None = None
    """Part of ``wall_seconds`` in which a failed notebook waited for its repair."""
    spent_seconds: float | None = None
    """Time that the reuse took; ``wall_seconds`` is that of the original run."""
    optional: bool = False
    plan: str | None = None
    gate: Gate | None = None
    preparation: tuple[Change, ...] = ()
    cells: tuple[Cell, ...] = ()
    failure: Failure | None = None
    gpus: tuple[GpuUse, ...] = ()
    host: Host | None = None
    release: Release | None = None
    expectations: tuple[Expectation, ...] = ()
    recorded: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Results that the notebook recorded by name, see `runner.record`."""
    outputs: Outputs = field(default_factory=Outputs)
    environment: Environment = field(default_factory=Environment)
    versions: dict[str, str] = field(default_factory=dict)
    sampler: Sampling | None = None
    allocator_probe: AllocatorProbe | None = None
    warnings: tuple[str, ...] = ()
    stages_seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of gate, prepare, start, execute, release, expect and convert."""


def origin(record: Metrics) -> str:
    """Return a short label of the run that produced the results of a record."""
    run_id = record.reused_from.run_id if record.reused_from else record.run_id
    return f"run {run_id[:8]} ({record.ended_at[:10]})"


def to_json(record: Any, mask: Callable[[Any], Any] | None = None) -> str:
    """Return a record as indented JSON text with a final newline.

    Parameters
    ----------
    mask
        Redacts the record, given as a tree of plain values.
    """
    tree = dataclasses.asdict(record)
    return json.dumps(mask(tree) if mask else tree, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_metrics(text: str | bytes) -> Metrics:
    """Read and validate the text of a metrics file.

    Raises
    ------
    ValueError
        The text is not valid JSON, or not of this schema; the message names the field.
    """
    return _adapter().validate_json(text)


@functools.cache
def _adapter() -> TypeAdapter[Metrics]:
    """Return the validator; building one takes longer than reading a record."""
    from pydantic import TypeAdapter

    return TypeAdapter(Metrics)


def metrics_schema() -> dict[str, Any]:
    """Return the JSON Schema of `Metrics`."""
    from pydantic import TypeAdapter

    return TypeAdapter(Metrics).json_schema()
