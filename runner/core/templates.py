# SPDX-License-Identifier: Apache-2.0
"""Location and loading of the page templates and stylesheets.

They are in `report_templates/` of a checkout, where people look for them; a wheel ships the folder inside the package.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.core.errors import RunnerError

if TYPE_CHECKING:
    from jinja2 import Environment

_PACKAGE = Path(__file__).resolve().parent.parent
_PLACES = (_PACKAGE / "report" / "templates", _PACKAGE.parent / "report_templates")


def templates_folder() -> Path:
    """Return the folder of the page templates, in an installed wheel or in a checkout.

    Raises
    ------
    RunnerError
        It is in neither place: the installation is incomplete.
    """
    for place in _PLACES:
        if place.is_dir():
            return place
    raise RunnerError(
        f"the page templates are missing: neither {_PLACES[0]} nor {_PLACES[1]} is a folder",
        hint="install the package again, or run it from a complete checkout",
    )


def templates(folder: Path, **options: Any) -> Environment:
    """Return a Jinja environment for a folder, with autoescaping and strict undefined names.

    Parameters
    ----------
    options
        Additional arguments of `jinja2.Environment`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )


def policy_hash(content: str) -> str:
    """Return the hash source of a style or a script for a Content-Security-Policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
