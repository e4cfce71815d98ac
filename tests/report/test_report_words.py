# SPDX-License-Identifier: Apache-2.0
"""How figures are written: the unit is right for the figure that is shown."""

from __future__ import annotations

import pytest

from runner.core.units import format_bytes, format_count, format_seconds
from runner.report.html import formatting


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (60, "1m00s"),
        (119.7, "2m00s"),
        (3599.4, "59m59s"),
        (3599.6, "1h00m"),
        (7800, "2h10m"),
        (72 * 3600, "72h00m"),
    ],
)
def test_duration_is_rounded_before_its_unit_is_chosen(seconds, said):
    """No duration has 60 of a unit; hours are unlimited, as in plans and GPU hours."""
    assert format_seconds(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (None, "unknown"),
        (0, "0 B"),
        (999.4, "999 B"),
        (999.6, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (999_999_999, "1.0 GB"),
        (24_152_899_584, "24.2 GB"),
        (999_999_999_999, "1.0 TB"),
        (5e15, "5000.0 TB"),
        (-3e9, "-3.0 GB"),
    ],
)
def test_size_is_rounded_before_its_unit_is_chosen(count, said):
    """No size has 1000 of a unit if there is a larger one."""
    assert format_bytes(count) == said


@pytest.mark.parametrize(("number", "said"), [(0, "0 cells"), (1, "1 cell"), (2, "2 cells")])
def test_noun_agrees_with_its_number(number, said):
    """One is singular."""
    assert format_count(number, "cell") == said


@pytest.mark.parametrize(
    ("value", "said"), [(0, "0 %"), (9.94, "9.9 %"), (9.96, "10 %"), (42.4, "42 %"), (100, "100 %")]
)
def test_percentage_is_rounded_before_its_form_is_chosen(value, said):
    """Ten per cent is written one way."""
    assert formatting.percent(value) == said


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ([812.0, None, 999.4], ["812 J", "999 J"]),
        ([812.0, 999.6], ["0.8 kJ", "1.0 kJ"]),
        ([812.0, 33_600.0, 90_000.0], ["0.8 kJ", "33.6 kJ", "90.0 kJ"]),
        ([1_000.0, 1_512_000.0, 210_000.0], ["<0.001 kWh", "0.420 kWh", "0.058 kWh"]),
        ([None], []),
    ],
)
def test_column_of_energies_has_one_unit(column, said):
    """The largest value of a column chooses the unit of all: they can be compared down the page."""
    unit = formatting.energy_unit(column)
    assert [formatting.energy(value, unit) for value in column if value is not None] == said


@pytest.mark.parametrize(("joules", "said"), [(0, "0 J"), (999.4, "999 J"), (999.6, "1.0 kJ"), (999_960, "0.278 kWh")])
def test_energy_alone_chooses_its_own_unit(joules, said):
    """No energy has 1000 of a unit if there is a larger one."""
    assert formatting.energy(joules) == said


def test_names_may_break_between_their_words():
    """A long name gets places to break behind its separators, and stays text."""
    assert formatting.breakable("08_un-expected/r") == "08_<wbr>un-<wbr>expected/<wbr>r"
    assert formatting.breakable("<b>_\x1b[31m") == "&lt;b&gt;_"
