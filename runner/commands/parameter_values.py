# SPDX-License-Identifier: Apache-2.0
"""Parameters on the command line, in the forms papermill accepts."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from runner.commands import help_sections
from runner.core.errors import UsageError, did_you_mean_path

_FILE_BYTES = 4_000_000


class _Document(click.types.StringParamType):
    """A text that click does not split into words in an environment variable."""

    def split_envvar_value(self, rv: str) -> list[str]:
        """Return the text unsplit."""
        return [rv]


parameter_options = (
    help_sections.parameters(
        "-p", "--parameters", nargs=2, multiple=True, metavar="NAME VALUE", help="Set a parameter. Repeatable."
    ),
    help_sections.parameters(
        "-r",
        "--parameters-raw",
        nargs=2,
        multiple=True,
        metavar="NAME TEXT",
        help="Set a parameter to a string, even if it looks like a number. Repeatable.",
    ),
    help_sections.parameters(
        "-f",
        "--parameters-file",
        multiple=True,
        type=click.Path(path_type=Path, allow_dash=True),
        metavar="FILE",
        help="Read parameters from a YAML or JSON file, or from stdin with `-`. Repeatable.",
    ),
    help_sections.parameters(
        "-y",
        "--parameters-yaml",
        type=_Document(),
        multiple=True,
        metavar="TEXT",
        help="Parameters as YAML. Repeatable.",
    ),
    help_sections.parameters(
        "-b", "--parameters-base64", multiple=True, metavar="TEXT", help="Parameters as YAML in base64. Repeatable."
    ),
)
"""Precedence as in papermill, the last wins: base64, file, YAML, NAME VALUE, NAME TEXT."""


def take(given: dict[str, Any]) -> dict[str, Any]:
    """Remove the parameter options from the parsed options and return the parameters.

    Raises
    ------
    UsageError
        One cannot be read, or is not a mapping of names to values.
    """
    values: dict[str, Any] = {}
    sources: tuple[tuple[str, Callable[[Any], str]], ...] = (("base64", _decoded), ("file", _content), ("yaml", str))
    for form, read in sources:
        for item in given.pop(f"parameters_{form}", ()):
            values |= _mapping(read(item), f"--parameters-{form}" + (f" {item}" if form == "file" else ""))
    values |= {name: typed(text) for name, text in given.pop("parameters", ())}
    return values | dict(given.pop("parameters_raw", ()))


def typed(text: str) -> Any:
    """Return a parameter's value as papermill types it: True, False, None, int, float, else text."""
    words = {"True": True, "False": False, "None": None}
    if text in words:
        return words[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _mapping(text: str, option: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    import yaml

    from runner.core import safe_yaml

    try:
        values = safe_yaml.load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{option} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UsageError(f"{option} is not a mapping of names to values", hint="write it like 'n_cells: 500'")
    return values


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise UsageError(
            f"--parameters-base64 is not valid base64 of UTF-8 text: {error}",
            hint="create it with `base64 -w0 parameters.yaml`",
        ) from error


def _content(path: Path) -> str:
    try:
        with click.open_file(str(path), "rb") as stream:
            data: bytes = stream.read(_FILE_BYTES + 1)
        if len(data) > _FILE_BYTES:
            raise UsageError(f"--parameters-file {path} is longer than {_FILE_BYTES} bytes", hint="give a smaller file")
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--parameters-file {path} cannot be read: {getattr(error, 'strerror', None) or error}",
            hint=f"{did_you_mean_path(path)}give a YAML or JSON file of names and values",
        ) from error
