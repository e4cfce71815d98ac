# SPDX-License-Identifier: Apache-2.0
"""Writes the machine-readable files next to the page.

A file that cannot be created is reported as a problem and does not affect the others.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING
from urllib.parse import unquote

from runner.core import files
from runner.core.files import write
from runner.core.hash_cache import sha256_of
from runner.core.records import to_json
from runner.outputs import sums
from runner.report.exports.github import error_commands, github_summary
from runner.report.exports.junit import junit_xml
from runner.report.exports.openmetrics import metrics_text
from runner.report.exports.ro_crate import PLAN_FILE, crate_json, crate_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from runner.core.redact import Redactor
    from runner.plan.model import Plan
    from runner.report.assemble import Report
    from runner.report.summary import Summary

CRATE_FILE = "ro-crate-metadata.json"
MARKDOWN_FILE = "reports/github-summary.md"


def export_texts(report: Report, summary: Summary, plan: Plan | None, redactor: Redactor) -> dict[str, str]:
    """Return the contents of the machine-readable files by path, without writing them."""
    texts = {
        "reports/summary.json": to_json(summary),
        "reports/junit.xml": junit_xml(report, summary),
        "reports/metrics.prom": metrics_text(summary),
        MARKDOWN_FILE: github_summary(summary),
    }
    if plan:
        # Records were redacted by their runs, a plan was not.
        document = redactor.tree(plan.model_dump(mode="json", by_alias=True, exclude_none=True), keys=True)
        texts[PLAN_FILE] = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    return texts


def write_exports(
    folder: Path, report: Report, texts: Mapping[str, str], *, plan: Plan | None, html: str, environ: Mapping[str, str]
) -> tuple[str, ...]:
    """Write the machine-readable files and return problems.

    Parameters
    ----------
    texts
        Result of `export_texts`.
    html
        Path of the page, relative to the folder.
    environ
        Environment, where `GITHUB_STEP_SUMMARY` may be a file to append to, and `GITHUB_ACTIONS` enables annotations
        on stderr.

    Raises
    ------
    RecordError
        The folder cannot be written.
    """
    problems: list[str] = []
    for path, text in texts.items():
        write(folder / path, text.encode(errors="replace"))
    if environ.get("GITHUB_STEP_SUMMARY"):
        problems += _append(environ["GITHUB_STEP_SUMMARY"], texts[MARKDOWN_FILE])
    try:
        sys.stderr.writelines(f"{line}\n" for line in error_commands(report, environ))
    except Exception as error:  # noqa: BLE001  (no file in the folder may prevent the report)
        problems.append(f"no annotations: {type(error).__name__}: {error}")
    try:
        paths = [html, *(path for path in texts if path != PLAN_FILE)]
        crate = crate_json(report, folder, paths, plan)
    except Exception as error:  # noqa: BLE001  (a fault of a library must not prevent the report)
        problems.append(f"{CRATE_FILE} cannot be created: {type(error).__name__}: {error}")
    else:
        write(folder / CRATE_FILE, crate.encode(errors="replace"))
    return tuple(problems)


def note_page(page: Path) -> None:
    """Update checksums and RO-Crate of an output folder after a notebook's page was converted again."""
    name = page.name.removesuffix(".html")
    sums.refresh(sums.of_notebook(page.parent, name), page.name)
    root = page.parents[3] if len(page.parents) > 3 and page.parents[2].name == "attempts" else page.parent
    crate = root / CRATE_FILE
    try:
        document = json.loads(files.read(crate))
        entity = next(one for one in document["@graph"] if unquote(one["@id"]) == page.relative_to(root).as_posix())
        entity |= {"sha256": sha256_of(page), "contentSize": str(page.stat().st_size)}
    except (OSError, ValueError, KeyError, TypeError, StopIteration, RecursionError):
        return  # there is no RO-Crate, or it does not list this page
    write(crate, crate_text(document))
    sums.refresh(root / sums.REPORT, f"../{CRATE_FILE}")


def _append(path: str, markdown: str) -> list[str]:
    try:
        with open(path, "a", encoding="utf-8", errors="replace") as stream:  # noqa: PTH123  (append mode, as GitHub requires)
            stream.write(markdown)
    except OSError as error:
        return [f"GITHUB_STEP_SUMMARY {path} cannot be written: {error}"]
    return []
