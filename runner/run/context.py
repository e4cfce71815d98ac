# SPDX-License-Identifier: Apache-2.0
"""What all stages of a run share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.core.redact import Redactor
    from runner.core.stop import Stopper
    from runner.core.trace import Trace
    from runner.outputs.claim import Claim
    from runner.outputs.repair_channel import Channel
    from runner.outputs.run_log import RunLog
    from runner.plan.job import Job
    from runner.stages.record.metrics_builder import MetricsBuilder


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """One run: its job, where it notes results, and who may end it."""

    job: Job
    metrics: MetricsBuilder
    """Takes what each stage finds out."""
    stopper: Stopper
    redactor: Redactor
    runlog: RunLog
    claim: Claim
    trace: Trace
    repairs: list[Channel] = field(default_factory=list)
    """Those who repaired the notebook and wait for how it ends."""
    cleanup: ExitStack = field(default_factory=ExitStack)
    """Undoes at the end what stages began, whatever happened."""
    twice: ExitStack = field(default_factory=ExitStack)
    """Removes the scratch folder of a second run."""
    files: dict[str, str] = field(default_factory=lambda: {"log": ".log"})
    """Suffixes of files that the run writes while it goes on, by their key in `Outputs`."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, and say in the claim that the run is in it."""
        self.claim.update(stage=name)
        with self.trace.span(name), self.metrics.stage(name):
            yield

    def tell(self, **message: Any) -> None:
        """Tell those who repaired the notebook; whoever does not listen is let go."""
        for channel in tuple(self.repairs):
            try:
                channel.send(**self.redactor.tree(message))
            except OSError:
                self.repairs.remove(channel)
                channel.close()

    def let_go(self) -> None:
        """Part with those who repaired the notebook, who know how it ended."""
        while self.repairs:
            self.repairs.pop().close()
