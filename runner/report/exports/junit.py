# SPDX-License-Identifier: Apache-2.0
"""`reports/junit.xml`: one test case a notebook, for CI systems.

The schema has no word for most of our statuses: what is not fine becomes a `failure` when cells
ran and came out wrong, else an `error`, with the status as its type.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from runner.core.records import Status
from runner.report.html.formatting import first_line, plain, tail

if TYPE_CHECKING:
    from runner.report.assemble import Report
    from runner.report.summary import NotebookSummary, Summary

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FAILURES = {Status.FAILED, Status.INCOMPLETE, Status.UNEXPECTED_RESULTS, Status.NOT_RELEASED}
_PROPERTIES = ("status", "run_id", "peak_gpu_memory_bytes", "peak_host_memory_bytes", "gpu_energy_joules", "cause")


def junit_xml(report: Report, summary: Summary) -> str:
    """Return the XML of a report."""
    bad = [nb for nb in summary.notebooks if not nb.ok]
    counts = {
        "tests": str(len(summary.notebooks)),
        "failures": str(sum(nb.status in _FAILURES for nb in bad)),
        "errors": str(sum(nb.status not in _FAILURES for nb in bad)),
        "skipped": str(sum(nb.ok and nb.status is Status.SKIPPED for nb in summary.notebooks)),
        "time": f"{sum(nb.wall_seconds or 0 for nb in summary.notebooks):.3f}",
    }
    name = _xml(report.plan_name or "notebooks")
    root = ET.Element("testsuites", {"name": name, **counts})
    suite = ET.SubElement(root, "testsuite", {"name": name, **counts, "timestamp": (report.started_at or "")[:19]})
    for entry, nb in zip(report.entries, summary.notebooks, strict=True):
        case = ET.SubElement(
            suite,
            "testcase",
            {
                "classname": _xml(".".join(filter(None, [report.plan_name or "notebooks", entry.stage]))),
                "name": _xml(nb.name),
                "time": f"{nb.wall_seconds or 0:.3f}",
            },
        )
        properties = ET.SubElement(case, "properties")
        for field in _PROPERTIES:
            value = getattr(nb, field)
            if value is not None:
                ET.SubElement(properties, "property", {"name": field, "value": _xml(str(value))})
        failure = entry.metrics.failure if entry.metrics else None
        _outcome(case, nb, tail(failure.traceback_tail) if failure and failure.traceback_tail else "")
    ET.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _outcome(case: ET.Element, nb: NotebookSummary, traceback: str) -> None:
    if nb.ok:
        if nb.status is Status.SKIPPED:
            ET.SubElement(case, "skipped", {"message": _xml(first_line(nb.reason, 500))})
        return
    kind = "failure" if nb.status in _FAILURES else "error"
    outcome = ET.SubElement(case, kind, {"type": nb.status.value, "message": _xml(first_line(nb.reason, 500))})
    line = f"line: {nb.failed_line}" if nb.failed_line else ""
    hint = f"hint: {nb.hint}" if nb.hint else ""
    outcome.text = _xml("\n".join(part for part in (nb.reason, line, hint, traceback) if part))


def _xml(text: str) -> str:
    """Return text without what XML 1.0 cannot hold."""
    return _NOT_XML.sub("\ufffd", plain(text))
