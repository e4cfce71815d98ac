# SPDX-License-Identifier: Apache-2.0
"""Renders the report page, as one file with its stylesheet and script, and `index.html` of an output folder.

The Content-Security-Policy allows only these, by their hashes, and embedded figures.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from runner.core.templates import policy_hash, templates, templates_folder
from runner.core.units import format_count
from runner.report import overview as overviews
from runner.report.html import formatting

if TYPE_CHECKING:
    import jinja2

    from runner.report.overview import Overview


@functools.cache
def environment() -> jinja2.Environment:
    """Return the templates of the report with their filters."""
    found = templates(templates_folder(), finalize=formatting.plain)
    for name in (
        "seconds",
        "size",
        "percent",
        "energy",
        "energy_unit",
        "breakable",
        "moment",
        "href",
        "first_line",
        "one_line",
        "tail",
        "largest",
        "unit_of",
    ):
        found.filters[name] = getattr(formatting, name)
    found.filters |= {"count": format_count, "command": shlex.join}
    return found


def render(view: Mapping[str, Any]) -> str:
    """Return the HTML of a report.

    Parameters
    ----------
    view
        The names that the templates use; see `report_templates/report.html`.
    """
    from markupsafe import Markup

    folder = templates_folder()
    style = (folder / "report.css").read_text(encoding="utf-8")
    script = (folder / "report.js").read_text(encoding="utf-8")
    images = "img-src data:; " if view["gallery"].figures or view["outcomes"] else ""
    policy = (
        f"default-src 'none'; {images}style-src '{policy_hash(style)}'; script-src '{policy_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    # All three are trusted, and must not be escaped, or the hashes would not match.
    ours = {"policy": Markup(policy), "style": Markup(style), "script": Markup(script)}  # noqa: S704
    return environment().get_template("report.html").render(**view, **ours)


def live_page(overview: Overview) -> str:
    """Return a page with the progress of a run, which reloads itself without a script while the run is active."""
    return _index_template().render(overview=overview, report=None)


def forward_page(report: str) -> str:
    """Return a page that redirects to a report, given its path relative to the output folder."""
    return _index_template().render(overview=None, report=report)


@functools.cache
def _index_template() -> jinja2.Template:
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
