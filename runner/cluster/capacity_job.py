# SPDX-License-Identifier: Apache-2.0
"""The capacity check as it runs inside a Pod: asks for the nodes, judges, leaves records and results."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.cluster.api import Api, ApiError, ForbiddenError, NotInClusterError
from runner.cluster.capacity import Policy, Verdict, judge, read_nodes
from runner.cluster.devices import with_devices
from runner.cluster.second_try import why_not
from runner.core import files, log
from runner.core.errors import NetworkError
from runner.core.log import utc_now
from runner.core.records import EXIT_CODES, Metrics, Source, Status, to_json
from runner.outputs import attempts
from runner.outputs.claim import Claim
from runner.outputs.tekton_results import write_values
from runner.tekton.names import GPU_RESOURCE
from runner.tekton.sizes import on_larger_card

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.plan.model import Notebook, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked."""

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
    """The one notebook whose second try on a larger card is judged."""

    def notebooks(self) -> list[Notebook]:
        """Return the notebooks to judge, in the plan's order."""
        wanted = {self.plan.notebook(name).name for name in self.only}
        return [notebook for notebook in self.plan.notebooks if not wanted or notebook.name in wanted]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was found."""

    verdicts: tuple[Verdict, ...] = ()
    unchecked: str = ""
    """Why no node was looked at; empty when they were."""
    skipped: tuple[str, ...] = field(default=())
    refused: tuple[str, ...] = field(default=())

    def text(self) -> str:
        """Return a line for each notebook."""
        if self.unchecked:
            return f"capacity: not checked, all notebooks are let through: {self.unchecked}"
        return "\n".join(f"{one.outcome:8} {one.notebook}: {one.reason}" for one in self.verdicts)

    def summary(self) -> str:
        """Return one short line."""
        if self.unchecked:
            return f"not checked: {self.unchecked}"
        unknown = sum(one.outcome == "unknown" for one in self.verdicts)
        hosted = len(self.verdicts) - len(self.skipped) - len(self.refused) - unknown
        known = f"{hosted} hosted, {len(self.skipped)} skipped, {len(self.refused)} without a node"
        return f"{known}, {unknown} not known" if unknown else known

    def as_object(self) -> dict[str, Any]:
        """Return it for JSON."""
        import dataclasses

        return dataclasses.asdict(self)


def take(request: Request) -> Answer:
    """Judge the notebooks, write records of those that are left out, and Tekton's results.

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
        # Never an empty array: what consumes it compares names, and no notebook has an empty one.
        files.write(request.results_dir / "skipped-notebooks", json.dumps(list(answer.skipped) or [""]))
        write_values(request.results_dir, {"capacity": answer.summary()})
    return answer


def _second_try(request: Request, notebook: Notebook) -> Answer:
    """Judge a second try on a larger card; the record of the first one stands where there is none."""
    larger = on_larger_card(notebook)
    reason = why_not(request.output_dir, larger, request.run_id) if larger else "the plan has no retry_larger for it"
    if larger is not None and not reason:
        return _judged(replace(request, skip_unhostable_notebooks=True), [larger])
    verdict = Verdict(notebook=notebook.name, outcome="skipped", hosts=(), reason=reason)
    return Answer(verdicts=(verdict,), skipped=(notebook.name,))


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
    """Return ResourceSlices and DeviceClasses; none on a cluster that has no such thing, None without the right."""
    try:
        group = "/apis/resource.k8s.io/v1"
        return api.list(f"{group}/resourceslices"), api.list(f"{group}/deviceclasses")
    except ForbiddenError:
        return None, []
    except ApiError:
        return [], []


def write_record(folder: Path, plan: Plan, notebook: Notebook, verdict: Verdict, run_id: str) -> Metrics:
    """Write the metrics of a notebook that was judged without being run.

    An earlier run of the name is moved aside, as the runner does it; one in flight is left alone.

    Raises
    ------
    AlreadyRunningError
        Another run has this notebook under way in the same folder.
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
