# SPDX-License-Identifier: Apache-2.0
"""Option types: parsing, limits and error messages."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from runner.core.errors import UsageError
from runner.core.units import duration_seconds, gigabytes, hold_seconds

if TYPE_CHECKING:
    _Number = click.ParamType[float]
    _Pair = click.ParamType[tuple[str, str]]
    _Text = click.ParamType[str]
    _Named = click.ParamType[tuple[str, float]]
else:  # generic since click 8.5, and RAPIDS images bring an older one, which our layer must not replace
    _Number = _Pair = _Text = _Named = click.ParamType


class WrongValue(click.BadParameter):
    """An invalid value of an option, with an example of a valid one."""

    def __init__(
        self, message: str, hint: str | None, param: click.Parameter | None, ctx: click.Context | None
    ) -> None:
        super().__init__(message, ctx, param)
        self.hint = hint


class Number(_Number):
    """A number within limits, such as ``0.97`` or ``97%``.

    Parameters
    ----------
    above
        Exclude the lower limit itself.
    whole
        Accept only whole numbers.
    """

    def __init__(self, least: float = 0, most: float = math.inf, *, above: bool = False, whole: bool = False) -> None:
        self.least, self.most, self.above, self.whole = least, most, above, whole
        self.name = "N" if whole else "NUMBER"
        self._what, self._example = ("a whole number", "2") if whole else ("a number", "0.5 or 50%")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return a finite number within the limits; ``nan`` and ``inf`` are refused."""
        try:
            number = self._read(str(value))
        except ValueError:
            number = math.nan
        low = number > self.least if self.above else number >= self.least
        if not low or number > self.most or math.isinf(number) or (self.whole and number != int(number)):
            limits = f"above {self.least:g}" if self.above else f"of at least {self.least:g}"
            limits += "" if math.isinf(self.most) else f" and at most {self.most:g}"
            raise WrongValue(
                f"{value!r:.80} is not {self._what} {limits}", f"write it like {self._example}", param, ctx
            )
        return int(number) if self.whole else number

    def _read(self, text: str) -> float:
        return float(text) if self.whole else float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)


class Gigabytes(Number):
    """``24`` or ``24GB``, ``0.5TB``, ``24GiB``; the value is in decimal GB."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "GB"
        self._what, self._example = "a size in GB", "24, 24GB or 22.5GiB"

    def _read(self, text: str) -> float:
        return gigabytes(text)


class Duration(_Number):
    """``90s``, ``15m``, ``2h``; the value is in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, int | float):
            return float(value)
        try:
            seconds = duration_seconds(value)
        except UsageError as error:
            raise WrongValue(error.message, error.hint, param, ctx) from error
        if not math.isfinite(seconds):
            raise WrongValue(f"{value!r:.80} is too long", "write it like 90s, 15m, 2h or 1h30m", param, ctx)
        return seconds


class OnFailure(_Text):
    """``end``, ``hold`` or ``hold=2h``; the value is the text."""

    name = "end|hold[=1h]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, checked."""
        try:
            hold_seconds(str(value))
        except UsageError as error:
            raise WrongValue(error.message, error.hint, param, ctx) from error
        return str(value)


class Variable(_Pair):
    """``NAME=VALUE``."""

    name, _example = "NAME=VALUE", "THREADS=8"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return name and value."""
        if isinstance(value, tuple):
            return value
        name, separator, text = value.partition("=")
        if not separator or not self._is_name(name):
            raise WrongValue(f"{value!r:.80} is not {self.name}", f"write it like {self._example}", param, ctx)
        return name, text

    def _is_name(self, name: str) -> bool:
        return name.isidentifier() and name.isascii()


class Setting(Variable):
    """``KEY=VALUE``; the key may contain dashes, as Tekton parameters do."""

    name, _example = "KEY=VALUE", "run-id=nightly"

    def _is_name(self, name: str) -> bool:
        return bool(name)


class ToleratedDifference(_Named):
    """``1e-3``, short for ``relative=1e-3``, or ``NAME=NUMBER``."""

    name = "[NAME=]NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """Return name and number."""
        if isinstance(value, tuple):
            return value
        name, _, text = str(value).rpartition("=")
        return name or "relative", Number().convert(text, param, ctx)


class Jobs(Number):
    """A number of notebooks at once, or ``auto``."""

    def __init__(self) -> None:
        super().__init__(1, 1000, whole=True)
        self.name = "N|auto"
        self._what, self._example = "`auto` or a whole number", "2 or auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or ``auto``."""
        return "auto" if value == "auto" else int(super().convert(value, param, ctx))
