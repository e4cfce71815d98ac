# SPDX-License-Identifier: Apache-2.0
"""`reports/junit.xml`: one test case per notebook; valid against junit-10.xsd of Jenkins' xUnit plugin.

Statuses have no equivalent in the schema: problems with the results of cells are a `failure`, others an `error`, with
the status as type.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from runner.core.records import Status
from runner.core.units import format_bytes
from runner.report.html.formatting import energy, first_line, plain, tail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.report.assemble import Report
    from runner.report.summary import NotebookSummary, Summary

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FAILURES = {Status.FAILED, Status.INCOMPLETE, Status.UNEXPECTED_RESULTS, Status.NOT_RELEASED}


def junit_xml(report: Report, summary: Summary) -> str:
    """Return the XML of a report."""
    bad = [nb for nb in summary.notebooks if not nb.ok]
    counts = {
        "tests": str(len(summary.notebooks)),
        "failures": str(sum(nb.status in _FAILURES for nb in bad)),
        "errors": str(sum(nb.status not in _FAILURES for nb in bad)),
        "time": f"{sum(nb.wall_seconds or 0 for nb in summary.notebooks):.3f}",
    }
    name = _xml(report.plan_name or "notebooks")
    root = ET.Element("testsuites", {"name": name, **counts})
    skipped = str(sum(nb.ok and nb.status is Status.SKIPPED for nb in summary.notebooks))
    of_suite = {"name": name, **counts, "skipped": skipped, "timestamp": (report.started_at or "")[:19]}
    suite = ET.SubElement(root, "testsuite", of_suite)
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
        failure = entry.metrics.failure if entry.metrics else None
        _outcome(case, nb, tail(failure.traceback_tail) if failure and failure.traceback_tail else "")
        ET.SubElement(case, "system-out").text = _xml("\n".join(_figures(nb)))
    ET.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _figures(nb: NotebookSummary) -> Iterator[str]:
    """Yield the figures of a run as text, as the schema has no properties for a test case."""
    yield f"status: {nb.status.value}"
    if nb.run_id:
        yield f"run: {nb.run_id}"
    if nb.cause:
        yield f"cause: {nb.cause}"
    for words, value in (
        ("GPU memory peak", nb.peak_gpu_memory_bytes),
        ("host memory peak", nb.peak_host_memory_bytes),
    ):
        if value is not None:
            yield f"{words}: {format_bytes(value)}"
    if nb.gpu_energy_joules is not None:
        yield f"GPU energy: {energy(nb.gpu_energy_joules)}"


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
    """Return text without characters that are invalid in XML 1.0."""
    return _NOT_XML.sub("\ufffd", plain(text))
