# SPDX-License-Identifier: Apache-2.0
"""Write the page of an executed notebook; its failure is a note and never the notebook's."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from runner.core import log

if TYPE_CHECKING:
    from runner.run.context import RunContext
    from runner.stages.convert.page import ConvertedHtml

SIGNAL_HTML_SECONDS = 20.0
"""After a signal, HTML is written if it is done within this time."""


def convert(run: RunContext, notebook: Any, *, signal_seconds: float | None = None) -> None:
    """Write the page, unless it is not done so many seconds after a signal."""
    job, metrics = run.job, run.metrics
    signal_seconds = SIGNAL_HTML_SECONDS if signal_seconds is None else signal_seconds
    if not job.options.html:
        metrics.note_outputs(unavailable={**metrics.record.outputs.unavailable, "html": "--no-html"})
        return
    outcome: list[ConvertedHtml | Exception] = []

    def work() -> None:
        from runner.stages.convert.page import write_page
        from runner.stages.execute.autosave import redacted

        try:
            page = write_page(
                redacted(notebook, run.redactor),
                job.path(".html"),
                name=job.name,
                trust=job.options.trust_html,
                folder=job.source.parent,
            )
            outcome.append(page)
        except Exception as error:  # noqa: BLE001  (a fault of conversion must not hide the notebook's)
            outcome.append(error)

    thread = threading.Thread(target=work, name="convert", daemon=True)
    thread.start()
    while thread.is_alive() and run.stopper.seconds_left(signal_seconds) > 0:
        thread.join(0.1)
    result = outcome[0] if outcome else None
    if result is not None and not isinstance(result, Exception):
        sizes = {**metrics.record.outputs.bytes, "html": result.bytes}
        metrics.note_outputs(html=job.path(".html").name, bytes=sizes)
        metrics.warn(*result.warnings)
        return
    reason = f"not done within {signal_seconds:.0f} s after the signal; `runner convert` can make it"
    if result is not None:
        reason = f"conversion failed: {type(result).__name__}: {result}"
    log.warning("convert", nb=job.name, reason=reason)
    metrics.warn(f"no HTML: {reason}")
    metrics.note_outputs(unavailable={**metrics.record.outputs.unavailable, "html": reason})
