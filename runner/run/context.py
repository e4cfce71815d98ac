# SPDX-License-Identifier: Apache-2.0
"""State shared by all stages of a run."""

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
    """A run: its job, its record, and the source of stop requests."""

    job: Job
    metrics: MetricsBuilder
    """The record so far, to which each stage adds its results."""
    stopper: Stopper
    redactor: Redactor
    runlog: RunLog
    claim: Claim
    trace: Trace
    repairs: list[Channel] = field(default_factory=list)
    """Connections of repairs that wait for the end of the run."""
    cleanup: ExitStack = field(default_factory=ExitStack)
    """Callbacks that clean up after the stages, even after an error."""
    twice: ExitStack = field(default_factory=ExitStack)
    """Removes the scratch folder of a second run."""
    files: dict[str, str] = field(default_factory=lambda: {"log": ".log"})
    """Suffixes of files written continuously during the run, by their key in `Outputs`."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage and show it in the claim."""
        self.claim.update(stage=name)
        with self.trace.span(name), self.metrics.stage(name):
            yield

    def notify_repairs(self, **message: Any) -> None:
        """Send a message to waiting repairs, and drop closed connections."""
        for channel in tuple(self.repairs):
            try:
                channel.send(**self.redactor.tree(message))
            except OSError:
                self.repairs.remove(channel)
                channel.close()

    def close_repairs(self) -> None:
        """Close the connections of waiting repairs."""
        while self.repairs:
            self.repairs.pop().close()
