# SPDX-License-Identifier: Apache-2.0
"""The capacity check inside a Pod: lists the nodes, judges the notebooks, writes records and results."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.cluster.api import Api, ApiError, ForbiddenError, NotInClusterError
from runner.cluster.capacity import Policy, Verdict, judge, read_nodes, with_devices
from runner.core import files, log
from runner.core.endings import record_of_run
from runner.core.errors import NetworkError
from runner.core.log import utc_now
from runner.core.records import EXIT_CODES, Cause, Metrics, Source, Status, to_json
from runner.outputs import attempts
from runner.outputs.claim import Claim
from runner.outputs.tekton_results import write_values
from runner.tekton.names import GPU_RESOURCE
from runner.tekton.sizes import GPU_FREE_FRACTION, on_larger_card

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.plan.model import Notebook, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The notebooks to judge, and the settings of the check."""

    plan: Plan
    only: tuple[str, ...] = ()
    check: bool = True
    skip_optional_notebooks: bool = True
    skip_unhostable_notebooks: bool = False
    gpu_resource: str = GPU_RESOURCE
    tolerate: tuple[str, ...] = ()
    output_dir: Path = Path("outputs")
    run_id: str | None = None
    results_dir: Path | None = None
    larger_card: str | None = None
    """Notebook whose retry on a larger card is judged, instead of all."""

    def notebooks(self) -> list[Notebook]:
        """Return the notebooks to judge, in the plan's order."""
        wanted = {self.plan.notebook(name).name for name in self.only}
        return [notebook for notebook in self.plan.notebooks if not wanted or notebook.name in wanted]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Result of the check."""

    verdicts: tuple[Verdict, ...] = ()
    unchecked: str = ""
    """Why nodes were not checked, empty if they were."""
    skipped: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def text(self) -> str:
        """Return one line per notebook."""
        if self.unchecked:
            return f"capacity: not checked, all notebooks will run: {self.unchecked}"
        return "\n".join(f"{one.outcome:8} {one.notebook}: {one.reason}" for one in self.verdicts)

    def summary(self) -> str:
        """Return a one-line summary."""
        if self.unchecked:
            return f"not checked: {self.unchecked}"
        unknown = sum(one.outcome == "unknown" for one in self.verdicts)
        hosted = len(self.verdicts) - len(self.skipped) - len(self.refused) - unknown
        known = f"{hosted} hosted, {len(self.skipped)} skipped, {len(self.refused)} without a node"
        return f"{known}, {unknown} unknown" if unknown else known


def take(request: Request) -> Answer:
    """Judge the notebooks, write the records of those that cannot run, and Tekton's results.

    Raises
    ------
    RecordError, AlreadyRunningError
        A record cannot be written.
    """
    if request.larger_card is not None:
        answer = _second_try(request, request.plan.notebook(request.larger_card))
    else:
        answer = _judged(request, request.notebooks())
        run_id = request.run_id or str(uuid.uuid4())
        for verdict in answer.verdicts:
            if verdict.outcome in {"skipped", "refused"}:
                notebook = request.plan.notebook(verdict.notebook)
                write_record(request.output_dir, request.plan, notebook, verdict, run_id)
    log.info("capacity", summary=answer.summary())
    if request.results_dir is not None:
        # Never an empty array: consumers compare names, and no notebook has an empty one.
        files.write(request.results_dir / "skipped-notebooks", json.dumps(list(answer.skipped) or [""]))
        write_values(request.results_dir, {"capacity": answer.summary()})
    return answer


def _second_try(request: Request, notebook: Notebook) -> Answer:
    """Judge a retry on a larger card; without one, the first try's record remains."""
    larger = on_larger_card(notebook)
    reason = _why_not(request.output_dir, larger, request.run_id) if larger else "the plan has no retry_larger for it"
    if larger is not None and not reason:
        return _judged(replace(request, skip_unhostable_notebooks=True), [larger])
    verdict = Verdict(notebook=notebook.name, outcome="skipped", hosts=(), reason=reason)
    return Answer(verdicts=(verdict,), skipped=(notebook.name,))


def _why_not(output_dir: Path, larger: Notebook, run_id: str | None) -> str:
    """Return why the first try's record does not justify a larger card, empty if it does.

    Parameters
    ----------
    larger
        The notebook with the second try's GPU request.
    """
    record = record_of_run(output_dir / f"{larger.name}.metrics.json", run_id)
    if record is None:
        return "this run has no record of a first try"
    if record.failure is None or record.failure.cause is not Cause.DEVICE_MEMORY:
        return f"its first try ended as {record.status.value}, but not because GPU memory ran out"
    gpus = [gpu for gpu in record.gate.gpus if gpu.uuid in record.gate.chosen] if record.gate else []
    had = max((gpu.total_bytes or 0 for gpu in gpus), default=0)
    if had >= GPU_FREE_FRACTION * (larger.requires.gpu_memory_gb or 0) * 1e9:
        return f"its first try already had a GPU of {had / 1e9:.0f} GB"
    return ""


def _judged(request: Request, notebooks: Sequence[Notebook]) -> Answer:
    if not request.check:
        return Answer(unchecked="it was switched off")
    try:
        api = Api.from_pod()
        nodes = read_nodes(api.list("/api/v1/nodes"))
    except (NotInClusterError, ForbiddenError, ApiError, NetworkError) as error:
        return Answer(unchecked=str(error))
    slices, classes = _devices(api)
    nodes, unknown = with_devices(nodes, slices, classes, request.gpu_resource)
    policy = Policy(
        skip_optional=request.skip_optional_notebooks,
        skip_all=request.skip_unhostable_notebooks,
        gpu_resource=request.gpu_resource,
        tolerated=request.tolerate or (GPU_RESOURCE,),
    )
    verdicts = tuple(judge(notebooks, nodes, policy, unknown))
    return Answer(
        verdicts=verdicts,
        skipped=tuple(one.notebook for one in verdicts if one.outcome == "skipped"),
        refused=tuple(one.notebook for one in verdicts if one.outcome == "refused"),
    )


def _devices(api: Api) -> tuple[list[dict[str, Any]] | None, list[dict[str, Any]]]:
    """Return ResourceSlices and DeviceClasses, empty if the cluster has none; slices are None without the right."""
    try:
        group = "/apis/resource.k8s.io/v1"
        return api.list(f"{group}/resourceslices"), api.list(f"{group}/deviceclasses")
    except ForbiddenError:
        return None, []
    except ApiError:
        return [], []


def write_record(folder: Path, plan: Plan, notebook: Notebook, verdict: Verdict, run_id: str) -> Metrics:
    """Write the metrics of a notebook that is skipped or refused without being run.

    An earlier run of the same name is moved to the attempts; a run in progress is not touched.

    Raises
    ------
    AlreadyRunningError
        Another run is executing this notebook in the same folder.
    RecordError
        The folder cannot be written.
    """
    status = Status.SKIPPED if verdict.outcome == "skipped" else Status.REFUSED
    now = utc_now()
    metrics = Metrics(
        notebook=notebook.name,
        source=Source(path=notebook.path),
        run_id=run_id,
        status=status,
        reason=verdict.reason,
        exit_code=EXIT_CODES[status],
        started_at=now,
        ended_at=now,
        wall_seconds=0.0,
        optional=notebook.optional or status is Status.SKIPPED,
        plan=plan.name,
    )
    with Claim.of(folder, notebook.name, run_id, plan.name):
        attempts.set_aside(folder, notebook.name)
        files.write(folder / f"{notebook.name}.metrics.json", to_json(metrics))
    return metrics
