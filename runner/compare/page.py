# SPDX-License-Identifier: Apache-2.0
"""A comparison as one page that needs no network."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from runner.compare.verdict import FileComparison, Outcome, Verdict
from runner.core.templates import policy_hash, templates, templates_folder
from runner.core.units import format_count

if TYPE_CHECKING:
    from runner.compare.folders import Comparison

MOST_FIGURE_BYTES = 1_500_000
"""Of all figures that a page shows side by side."""
MOST_VERDICTS = 2_000


def page(found: Comparison) -> str:
    """Return the page: what differs first, with crossing tables, and figures side by side."""
    folder = templates_folder()
    style = (folder / "compare.css").read_text(encoding="utf-8")
    environment = templates(folder)
    environment.filters["count"] = format_count
    policy = f"default-src 'none'; img-src data:; style-src '{policy_hash(style)}'; base-uri 'none'; form-action 'none'"
    return environment.get_template("compare.html").render(
        found=found,
        view=view(found.files),
        # Ours, and must reach the page byte for byte, as the hash demands.
        policy=Markup(policy),  # noqa: S704
        style=Markup(style),  # noqa: S704
    )


def view(files: tuple[FileComparison, ...]) -> dict[str, Any]:
    """Return what the template `partials/verdicts.html` shows: what differs most first, as far as it has room."""
    order = sorted(files, key=lambda file: -list(Outcome).index(file.outcome))
    room, left = MOST_FIGURE_BYTES, MOST_VERDICTS
    shown = []
    for file in order:
        told = [one for one in file.verdicts if one.outcome is not Outcome.EQUAL][:left]
        left -= len(told)
        rows = []
        for one in told:
            uris = _uris(one) if one.figures and room > 0 else ()
            if sum(map(len, uris)) <= room:
                room -= sum(map(len, uris))
            else:
                uris = ()
            rows.append({"verdict": one, "figures": uris, "figures_left_out": bool(one.figures and not uris)})
        equal = sum(one.outcome is Outcome.EQUAL for one in file.verdicts)
        shown.append({"file": file, "rows": rows, "equal": equal})
    counts = {outcome: sum(file.outcome is outcome for file in files) for outcome in reversed(Outcome)}
    return {"files": shown, "counts": {outcome: count for outcome, count in counts.items() if count}}


def _uris(one: Verdict) -> tuple[Markup, ...]:
    """Return both figures as addresses that hold them; they are PNGs that we made."""
    return tuple(
        Markup(f"data:image/png;base64,{base64.b64encode(content).decode()}")  # noqa: S704
        for content in one.figures or ()
    )
