# SPDX-License-Identifier: Apache-2.0
"""Renders the page: templates, the one stylesheet and the one script, in one file.

The policy of the page allows just these two, by their hashes, figures that it holds itself, and nothing from anywhere
else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.core.templates import policy_hash, templates, templates_folder
from runner.core.units import format_count
from runner.report.html import formatting


def render(view: Mapping[str, Any], folder: Path | None = None) -> str:
    """Return the HTML of a report.

    Parameters
    ----------
    view
        The names that the templates use; see `report_templates/report.html`.
    folder
        Where the templates are, if not where they are shipped.
    """
    from markupsafe import Markup

    folder = folder or templates_folder()
    style = (folder / "report.css").read_text(encoding="utf-8")
    script = (folder / "report.js").read_text(encoding="utf-8")
    environment = templates(folder, finalize=formatting.plain)
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
        "command",
    ):
        environment.filters[name] = getattr(formatting, name)
    environment.filters["count"] = format_count
    images = "img-src data:; " if view["gallery"].figures or view["outcomes"] else ""
    policy = (
        f"default-src 'none'; {images}style-src '{policy_hash(style)}'; script-src '{policy_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    # All three are ours, and must reach the page byte for byte, as the hashes demand.
    ours = {"policy": Markup(policy), "style": Markup(style), "script": Markup(script)}  # noqa: S704
    return environment.get_template("report.html").render(**view, **ours)
