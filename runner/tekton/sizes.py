# SPDX-License-Identifier: Apache-2.0
"""Resource requests and timeouts of a plan's notebooks on a cluster.

The renderer writes them into the run, and the capacity check compares the same numbers with the nodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from runner.core.errors import PlanError
from runner.core.units import hold_seconds
from runner.machine.card_size import next_card_gb
from runner.plan.model import requirements
from runner.tekton.names import GPU_RESOURCE

if TYPE_CHECKING:
    from runner.plan.model import Notebook

DEFAULTS = {False: (1.0, 4.0), True: (4.0, 16.0)}
"""Default cores and GB of memory of a notebook without and with a GPU."""
DEFAULT_DEADLINE_SECONDS = 7200.0
GPU_FREE_FRACTION = 0.95
"""The gate's default: cards report slightly less than their nominal size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Requests of a notebook's Pod."""

    gpus: int
    gpu_memory_gb: float | None
    cpus: float
    memory_gib: int

    @property
    def min_gpu_memory_mib(self) -> int | None:
        """Minimum GPU memory in MiB, the unit of GPU Feature Discovery's label; the gate accepts no less."""
        if not self.gpus or self.gpu_memory_gb is None:
            return None
        return math.ceil(self.gpu_memory_gb * 1e9 * GPU_FREE_FRACTION / 2**20)

    def resources(self, gpu_resource: str = GPU_RESOURCE) -> dict[str, str]:
        """Return the step's requests, which are also its limits.

        A GPU count of 0 is included: otherwise the Task's own request of one applies.
        """
        found = {"cpu": f"{self.cpus:g}", "memory": f"{self.memory_gib}Gi", GPU_RESOURCE: "0"}
        found[gpu_resource] = str(self.gpus)
        return found


def needs(notebook: Notebook) -> Needs:
    """Return the requests of a notebook; memory in GiB instead of the plan's GB leaves room for the runner itself.

    A Pod cannot request a GPU optionally, so with ``cpu_fallback`` it requests none.
    """
    required = requirements(notebook.requires)
    cpus, memory_gb = DEFAULTS[required.gpus > 0]
    return Needs(
        gpus=0 if required.cpu_fallback else required.gpus,
        gpu_memory_gb=None if required.cpu_fallback else required.gpu_memory_gb,
        cpus=required.cpus or cpus,
        memory_gib=math.ceil(required.memory_gb or memory_gb),
    )


def on_larger_card(notebook: Notebook) -> Notebook | None:
    """Return a notebook with its second try's GPU memory, or None without ``retry_larger``.

    Raises
    ------
    PlanError
        There is no larger card.
    """
    first = notebook.requires.gpu_memory_gb
    if not notebook.retry_larger or first is None:
        return None
    card = next_card_gb(int(first * 1e9))
    if card is None:
        raise PlanError(
            f"{notebook.name}: no common card has more than {first:g} GB", hint="remove its retry_larger from the plan"
        )
    requires = notebook.requires.model_copy(update={"gpu_memory_gb": float(card)})
    return notebook.model_copy(update={"requires": requires})


QUEUE_SECONDS, IMAGE_PULL_SECONDS, GATE_WAIT_SECONDS, MARGIN_SECONDS = 30 * 60.0, 30 * 60.0, 10 * 60.0, 2 * 60.0
"""Time limits around the work of a task. Tekton counts them all from the TaskRun's creation."""


def task_timeout(work: Literal["clone", "validate", "download", "report"]) -> float:
    """Return the timeout in seconds of a task without a GPU."""
    minutes = {"clone": 15, "validate": 10, "download": 240, "report": 15}
    return IMAGE_PULL_SECONDS + 60 * minutes[work]


def notebook_timeout(own_seconds: float, others_seconds: float) -> float:
    """Return the timeout in seconds of a notebook's task, which is later than the runner's own deadline.

    Parameters
    ----------
    own_seconds
        Maximum duration of the notebook, see `longest`.
    others_seconds
        Maximum duration of the notebooks that may get the GPU first.
    """
    return QUEUE_SECONDS + others_seconds + IMAGE_PULL_SECONDS + GATE_WAIT_SECONDS + own_seconds + MARGIN_SECONDS


def held(notebook: Notebook, on_failure: str = "") -> float:
    """Return for how many seconds a failed notebook is held.

    Parameters
    ----------
    on_failure
        The run's parameter, which overrides the plan unless empty.
    """
    return hold_seconds(on_failure or notebook.on_failure or "end")


def longest(notebook: Notebook, on_failure: str = "") -> float:
    """Return for how many seconds a notebook may occupy its GPU: its deadline plus its hold."""
    return (notebook.timeout or DEFAULT_DEADLINE_SECONDS) + held(notebook, on_failure)


def go_duration(seconds: float) -> str:
    """Return a duration in Go's format, as Kubernetes uses it.

    >>> go_duration(11520)
    '3h12m0s'
    """
    whole = math.ceil(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{left}s"
    return f"{minutes}m{left}s" if minutes else f"{left}s"
