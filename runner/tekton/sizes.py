# SPDX-License-Identifier: Apache-2.0
"""What a notebook of a plan asks of a cluster: resources of its step, the GPU a node must have, time.

The renderer writes these numbers into the run, the capacity check compares them with the nodes.
Both take them from here, so a Pod that the check lets through is a Pod that can be placed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.core.errors import PlanError
from runner.core.units import hold_seconds
from runner.machine.card_size import next_card_gb
from runner.plan.model import requirements
from runner.tekton.names import GPU_RESOURCE

if TYPE_CHECKING:
    from runner.plan.model import Notebook

DEFAULTS = {False: (1.0, 4.0), True: (4.0, 16.0)}
"""Cores and GB of memory of a notebook without and with a GPU, where the plan says nothing."""
DEFAULT_DEADLINE_SECONDS = 7200.0
GPU_FREE_FRACTION = 0.95
"""The gate's own default: cards report a little less than they are sold as."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the Pod of a notebook asks of a node."""

    gpus: int
    gpu_memory_gb: float | None
    cpus: float
    memory_gib: int

    @property
    def min_gpu_memory_mib(self) -> int | None:
        """Smallest GPU, as GPU Feature Discovery labels it in MiB; the gate accepts no less."""
        if not self.gpus or self.gpu_memory_gb is None:
            return None
        return math.ceil(self.gpu_memory_gb * 1e9 * GPU_FREE_FRACTION / 2**20)

    def resources(self, gpu_resource: str = GPU_RESOURCE) -> dict[str, str]:
        """Return the requests of the step, which are its limits too.

        The GPU count is written even when it is 0: what is left out is taken from the Task, which asks for one.
        """
        found = {"cpu": f"{self.cpus:g}", "memory": f"{self.memory_gib}Gi", GPU_RESOURCE: "0"}
        found[gpu_resource] = str(self.gpus)
        return found


def needs(notebook: Notebook) -> Needs:
    """Return what a notebook asks of a node; memory in Gi leaves the runner itself some room above the plan's GB.

    A Pod cannot request a GPU only where there is one, so with ``cpu_fallback`` it requests none.
    """
    asked = requirements(notebook.requires)
    cpus, memory_gb = DEFAULTS[asked.gpus > 0]
    return Needs(
        gpus=0 if asked.cpu_fallback else asked.gpus,
        gpu_memory_gb=None if asked.cpu_fallback else asked.gpu_memory_gb,
        cpus=asked.cpus or cpus,
        memory_gib=math.ceil(asked.memory_gb or memory_gb),
    )


def on_larger_card(notebook: Notebook) -> Notebook | None:
    """Return a notebook as its second try asks for a GPU, None without ``retry_larger``.

    Raises
    ------
    PlanError
        There is no larger card.
    """
    asked = notebook.requires.gpu_memory_gb
    if not notebook.retry_larger or asked is None:
        return None
    card = next_card_gb(int(asked * 1e9))
    if card is None:
        raise PlanError(
            f"{notebook.name}: no common card has more than {asked:g} GB", hint="remove its retry_larger from the plan"
        )
    requires = notebook.requires.model_copy(update={"gpu_memory_gb": float(card)})
    return notebook.model_copy(update={"requires": requires})


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long things may take around a notebook, in seconds. Tekton counts all of it from a TaskRun's creation."""

    queue: float = 30 * 60.0
    image_pull: float = 30 * 60.0
    gate_wait: float = 10 * 60.0
    margin: float = 2 * 60.0
    clone: float = 15 * 60.0
    validate: float = 10 * 60.0
    download: float = 4 * 3600.0
    report: float = 15 * 60.0

    def small(self, work: float) -> float:
        """Return the timeout of a task without a GPU."""
        return self.image_pull + work

    def notebook(self, own_seconds: float, others_seconds: float = 0.0) -> float:
        """Return the timeout of a notebook's task: the runner's own deadline comes before it.

        Parameters
        ----------
        own_seconds
            How long the notebook may take, see `longest`.
        others_seconds
            Likewise of the notebooks that may have the GPU before this one gets it.
        """
        return self.queue + others_seconds + self.image_pull + self.gate_wait + own_seconds + self.margin


def held(notebook: Notebook, on_failure: str = "") -> float:
    """Return how many seconds the failure of a notebook is held.

    Parameters
    ----------
    on_failure
        The run's parameter, which beats the plan unless it is empty.
    """
    return hold_seconds(on_failure or notebook.on_failure or "end")


def longest(notebook: Notebook, on_failure: str = "") -> float:
    """Return how many seconds a notebook may have its GPU: its deadline, and as long as its failure is held."""
    return (notebook.timeout or DEFAULT_DEADLINE_SECONDS) + held(notebook, on_failure)


def go_duration(seconds: float) -> str:
    """Return a duration as Kubernetes writes it.

    >>> go_duration(11520)
    '3h12m0s'
    """
    whole = math.ceil(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{left}s"
    return f"{minutes}m{left}s" if minutes else f"{left}s"
