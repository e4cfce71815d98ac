# SPDX-License-Identifier: Apache-2.0
"""Presents a validation: a table on a terminal, plain lines in a log, an HTML page for the report folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from runner.core.templates import policy_hash, templates, templates_folder
from runner.core.units import format_seconds

if TYPE_CHECKING:
    from runner.core.records import Check
    from runner.validate.result import Validation

_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red"}


def summary(validation: Validation) -> str:
    """Return the verdict in one line."""
    counted = ", ".join(f"{count} {level}" for level, count in validation.counts.items())
    return f"validate: {validation.verdict} ({counted}) in {format_seconds(validation.wall_seconds)}"


def lines(validation: Validation) -> Iterator[str]:
    """Yield one line per check, independent of the terminal's width."""
    for section in validation.sections:
        for check in section.checks:
            yield f"{check.status:4} {section.name}: {_plain(check)}"
    yield summary(validation)


def _plain(check: Check) -> str:
    needed = f" (required: {check.needed})" if check.needed else ""
    hint = f"; hint: {check.hint}" if check.hint and check.status != "pass" else ""
    return " ".join(f"{check.name}: {check.seen}{needed}{hint}".split())


def print_to_terminal(validation: Validation) -> None:
    """Print a table on a terminal, else lines."""
    if not sys.stdout.isatty():
        print("\n".join(lines(validation)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_edge=False)
    for title in ("", "check", "found", "required"):
        table.add_column(title, overflow="fold")
    for section in validation.sections:
        table.add_row("", Text(section.name, style="bold"))
        for check in section.checks:
            seen = Text(check.seen)
            if check.hint and check.status != "pass":
                seen.append(f"\n→ {check.hint}", style=_STYLES[check.status])
            table.add_row(Text(check.status, style=_STYLES[check.status]), Text(check.name), seen, Text(check.needed))
    console = Console()
    console.print(table)
    console.print(Text(summary(validation), style=_STYLES[validation.verdict]))


def page(validation: Validation) -> str:
    """Return the HTML page: a single file without scripts or external resources."""
    from markupsafe import Markup

    folder = templates_folder()
    style = (folder / "report.css").read_text(encoding="utf-8")
    policy = f"default-src 'none'; style-src '{policy_hash(style)}'; base-uri 'none'; form-action 'none'"
    # Both are ours, and must be unescaped to match the hash.
    ours = {"policy": Markup(policy), "style": Markup(style)}  # noqa: S704
    return (
        templates(folder)
        .get_template("validate/page.html")
        .render(validation=validation, took=format_seconds(validation.wall_seconds), **ours)
    )
