# SPDX-License-Identifier: Apache-2.0
"""What a provisional record stands for once its run is gone.

A record is written early, so that a run that is killed leaves one. Until everything in it has been
judged it is provisional: its success is not final. Whoever reads records reads them through here, so
that needs, Tekton's results and the report agree.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from runner.core.records import Status

if TYPE_CHECKING:
    from runner.core.records import Metrics

_NOT_JUDGED = {
    "held": "it was held for a repair, and release was not judged",
    "release": "expectations and release were not judged",
    "convert": "expectations and release were judged, but the page and the final record are missing",
}


def status_of(status: Status, *, provisional: bool) -> Status:
    """Return the status that a record stands for when its run is gone."""
    return Status.LOST if provisional and status is Status.SUCCEEDED else status


def settled(record: Metrics) -> Metrics:
    """Return a record as it stands when its run is gone.

    A success becomes `lost` and names the stage it came to; any other end stands, with a warning.
    """
    if not record.provisional:
        return record
    stage = record.stage or "unknown"
    judged = _NOT_JUDGED.get(stage, "the rest was not judged")
    status = status_of(record.status, provisional=True)
    if status is record.status:
        warning = f"{judged}: the run was cut off in stage {stage}"
        return dataclasses.replace(record, warnings=(*record.warnings, warning))
    return dataclasses.replace(
        record, status=status, reason=f"cells ran, {judged}: the run was cut off in stage {stage}", exit_code=70
    )
