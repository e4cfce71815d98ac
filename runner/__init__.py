# SPDX-License-Identifier: Apache-2.0
"""Runs GPU notebooks unattended and reports truthfully what happened."""

from __future__ import annotations

__all__ = ["record"]
__version__ = "0.1.0"


def record(name: str, value: object) -> None:
    """Record a result of a notebook, such as a score: the run's record and the report's tables show it.

    It is shown as an output whose metadata holds the value, so the executed notebook keeps it as well. A later
    value of the same name replaces the earlier one.

    Parameters
    ----------
    name
        What the value is called, at most 80 characters.
    value
        A number, a text of at most 200 characters, or True or False; NumPy scalars count as what they hold.

    Raises
    ------
    TypeError
        The value is none of these.
    ValueError
        The name or the text is empty or too long.
    """
    from runner.core import recorded

    recorded.show(name, value)
