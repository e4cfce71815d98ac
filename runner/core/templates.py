# SPDX-License-Identifier: Apache-2.0
"""Where the templates and stylesheets of the pages are.

They stand in `report_templates/` of a checkout, where people look for them, and a wheel ships
the same folder inside the package. One function knows both places.
"""

from __future__ import annotations

from pathlib import Path

from runner.core.errors import RunnerError

_PACKAGE = Path(__file__).resolve().parent.parent
_PLACES = (_PACKAGE / "report" / "templates", _PACKAGE.parent / "report_templates")


def templates_folder() -> Path:
    """Return the folder of the page templates, in an installed wheel or in a checkout.

    Raises
    ------
    RunnerError
        Neither place has it: the installation is incomplete.
    """
    for place in _PLACES:
        if place.is_dir():
            return place
    raise RunnerError(
        f"the page templates are missing: neither {_PLACES[0]} nor {_PLACES[1]} is a folder",
        hint="install the package again, or run it from a complete checkout",
    )
