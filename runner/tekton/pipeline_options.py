# SPDX-License-Identifier: Apache-2.0
"""What kind of pipeline is wanted: the choices that a plan leaves open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from runner import __version__
from runner.tekton import names

if TYPE_CHECKING:
    from runner.plan import Notebook, Plan
    from runner.tekton.task_order import Order

IMAGE = f"{names.PART_OF}:{__version__}"
"""A version and not `latest`, which would be pulled anew for every Pod."""
PLAN_PATH = f"/etc/runner/plan/{names.PLAN_KEY}"
"""Where the tasks mount the ConfigMap of the plan."""

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What kind of pipeline is wanted."""

    name: str
    order: Order = "serial"
    source: Literal["clone", "demo"] = "clone"
    only: tuple[str, ...] = ()
    """Notebooks to run; none means all of them."""
    image: str = IMAGE
    plan_config_map: str = names.PLAN_CONFIG_MAP
    repository_url: str = ""
    revision: str = ""
    title: str = ""
    description: str = ""

    def select(self, plan: Plan) -> list[Notebook]:
        """Return the notebooks to run, in the plan's order."""
        wanted = {plan.notebook(name).name for name in self.only}
        return [notebook for notebook in plan.notebooks if not wanted or notebook.name in wanted]

    @property
    def plan_path(self) -> str:
        """Where the tasks find the plan: a ConfigMap, or for the demo beside its notebooks."""
        return "source/plan.yaml" if self.source == "demo" else PLAN_PATH
