# SPDX-License-Identifier: Apache-2.0
"""`index.html` of an output folder: a run while it goes on, afterwards the way to its newest report."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from runner.core.templates import policy_hash, templates, templates_folder
from runner.report import overview as overviews
from runner.report.html import formatting

if TYPE_CHECKING:
    import jinja2

    from runner.report.overview import Overview


def live_page(overview: Overview) -> str:
    """Return a page that shows where a run stands; it reloads itself, without a script, while anything runs."""
    return _template().render(overview=overview, report=None)


def forward_page(report: str) -> str:
    """Return a page that leads to a report, whose path is relative to the output folder."""
    return _template().render(overview=None, report=report)


@functools.cache
def _template() -> jinja2.Template:
    from markupsafe import Markup

    folder = templates_folder()
    environment = templates(folder)
    filters: dict[str, Any] = {
        "href": quote,
        "moment": formatting.moment,
        "detail": overviews.detail,
        "states": overviews.counted,
    }
    environment.filters.update(filters)
    style = (folder / "index.css").read_text(encoding="utf-8")
    environment.globals |= {"style": Markup(style), "style_hash": Markup(policy_hash(style))}  # noqa: S704  (ours)
    return environment.get_template("index.html")
