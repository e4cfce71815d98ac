# SPDX-License-Identifier: Apache-2.0
"""Options grouped under headings, for commands with too many to read as one list.

Options are declared by their heading, ``gpus("--min-gpus", ...)``, as with `click.option`. Commands without the class
`Sectioned` list them as usual.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import click

_TITLES = ("Notebook", "Parameters", "Plan", "GPUs", "Limits", "Reuse", "Outputs", "Options")


class _Option(click.Option):
    def __init__(self, *args: Any, heading: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.heading = heading


notebook, parameters, plan, gpus, limits, reuse, outputs = (
    partial(click.option, cls=_Option, heading=title) for title in _TITLES[:-1]
)


class Sectioned(click.Command):
    """A command whose help lists its options by heading."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options."""
        rows: dict[str, list[tuple[str, str]]] = {title: [] for title in _TITLES}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
                rows[getattr(param, "heading", _TITLES[-1])].append(record)
        for title, records in rows.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
