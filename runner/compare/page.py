# SPDX-License-Identifier: Apache-2.0
"""HTML page of a comparison, without external resources."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from runner.compare.verdict import FileComparison, Outcome
from runner.core.templates import policy_hash, templates, templates_folder
from runner.core.units import format_count

if TYPE_CHECKING:
    from runner.compare.folders import Comparison

MOST_FIGURE_BYTES = 1_500_000
"""Limit for all figures on a page."""
MOST_VERDICTS = 2_000


def page(found: Comparison) -> str:
    """Return the page: differences first, with contingency tables and figures side by side."""
    folder = templates_folder()
    style = (folder / "compare.css").read_text(encoding="utf-8")
    environment = templates(folder)
    environment.filters["count"] = format_count
    policy = f"default-src 'none'; img-src data:; style-src '{policy_hash(style)}'; base-uri 'none'; form-action 'none'"
    return environment.get_template("compare.html").render(
        found=found,
        view=view(found.files),
        # Trusted, and must not be escaped, or the hash would not match.
        policy=Markup(policy),  # noqa: S704
        style=Markup(style),  # noqa: S704
    )


def view(files: tuple[FileComparison, ...]) -> dict[str, Any]:
    """Return the values for `partials/verdicts.html`: worst files first, within the limits of a page."""
    order = sorted(files, key=lambda file: -list(Outcome).index(file.outcome))
    room, left = MOST_FIGURE_BYTES, MOST_VERDICTS
    shown = []
    for file in order:
        unequal = [one for one in file.verdicts if one.outcome is not Outcome.EQUAL][:left]
        left -= len(unequal)
        rows = []
        for one in unequal:
            uris = tuple(map(_data_uri, one.figures)) if one.figures and room > 0 else ()
            if sum(map(len, uris)) > room:
                uris = ()
            room -= sum(map(len, uris))
            rows.append({"verdict": one, "figures": uris, "figures_left_out": bool(one.figures and not uris)})
        equal = sum(one.outcome is Outcome.EQUAL for one in file.verdicts)
        shown.append({"file": file, "rows": rows, "equal": equal})
    counts = {outcome: sum(file.outcome is outcome for file in files) for outcome in reversed(Outcome)}
    return {"files": shown, "counts": {outcome: count for outcome, count in counts.items() if count}}


def _data_uri(png: bytes) -> Markup:
    return Markup(f"data:image/png;base64,{base64.b64encode(png).decode()}")  # noqa: S704  (base64 has no markup)
