# SPDX-License-Identifier: Apache-2.0
"""Renders the page: templates, the one stylesheet and the one script, in one file.

The policy of the page allows just these two, by their hashes, figures that it holds itself, and nothing from anywhere
else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.core.templates import templates_folder
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
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = folder or templates_folder()
    style = (folder / "report.css").read_text(encoding="utf-8")
    script = (folder / "report.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=formatting.plain,
        trim_blocks=True,
        lstrip_blocks=True,
    )
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
        environment.filters[name] = getattr(formatting, name)
    environment.filters["count"] = format_count
    images = "img-src data:; " if view["gallery"].figures else ""
    policy = (
        f"default-src 'none'; {images}style-src '{style_hash(style)}'; script-src '{style_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    # All three are ours, and must reach the page byte for byte, as the hashes demand.
    ours = {"policy": Markup(policy), "style": Markup(style), "script": Markup(script)}  # noqa: S704
    return environment.get_template("report.html").render(**view, **ours)


def style_hash(content: str) -> str:
    """Return how a Content-Security-Policy names a style or a script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
