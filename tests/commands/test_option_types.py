# SPDX-License-Identifier: Apache-2.0
"""Values of options: as people write them, and what is said about one that cannot be."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.cli import cli
from runner.commands.option_types import Duration, Gigabytes, Jobs, Number, WrongValue


@pytest.mark.parametrize("kind", [Number(), Gigabytes(), Number(0, 64, whole=True), Jobs()])
@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "NaN", "", "-1", "two", "9" * 400, "0x10", "1..2"])
def test_a_number_is_a_finite_one(kind: Number, text: str) -> None:
    """`nan` is below no limit and above none, and would stop the run after its last cell."""
    with pytest.raises(WrongValue) as wrong:
        kind.convert(text, None, None)
    assert len(wrong.value.message) < 200
    assert wrong.value.hint.startswith("write it like ")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24", 24), ("24GB", 24), ("24 gb", 24), ("24G", 24), ("24Gi", 25.769803776), ("22.5GiB", 24.15919104),
        ("0.5TB", 500), ("24000MB", 24), ("24e9B", 24), ("1e2", 100), ("0", 0),
    ],
)  # fmt: skip
def test_a_size_may_name_its_unit(text: str, size: float) -> None:
    """GB are decimal, as GPUs are sold; what Kubernetes calls Gi is binary."""
    assert Gigabytes().convert(text, None, None) == pytest.approx(size, rel=1e-12)


@given(st.floats(0, 1e6))
def test_what_a_command_hands_on_to_another_is_what_it_was_given(size: float) -> None:
    """`run-all` writes the value anew for each `run`."""
    assert Gigabytes().convert(str(size), None, None) == pytest.approx(size)


@pytest.mark.parametrize(("text", "share"), [("0.97", 0.97), ("97%", 0.97), ("100%", 1), ("0", 0)])
def test_a_share_may_be_a_percentage(text: str, share: float) -> None:
    """Both are written."""
    assert Number(0, 1).convert(text, None, None) == pytest.approx(share)
    with pytest.raises(WrongValue, match="'197%' is not a number of at least 0 and at most 1"):
        Number(0, 1).convert("197%", None, None)
    with pytest.raises(WrongValue, match="'0' is not a number above 0 and at most 1"):
        Number(0, 1, above=True).convert("0", None, None)


def every_option() -> list[tuple[str, click.Option]]:
    def walk(ctx: click.Context) -> list[tuple[str, click.Option]]:
        found = [(ctx.command_path, one) for one in ctx.command.params if isinstance(one, click.Option)]
        if isinstance(ctx.command, click.Group):
            for name in ctx.command.list_commands(ctx):
                inner = ctx.command.get_command(ctx, name)
                assert inner is not None
                found += walk(click.Context(inner, info_name=name, parent=ctx))
        return found

    return walk(click.Context(cli, info_name="runner"))


def test_no_option_has_a_number_of_clicks() -> None:
    """Theirs says `is not a valid float range`; ours the value, the limits, and how to write it."""
    options = every_option()
    assert sum(isinstance(option.type, Number | Duration) for _, option in options) > 20
    theirs = (click.IntRange, click.FloatRange, type(click.INT), type(click.FLOAT))
    assert [(path, option.name) for path, option in options if isinstance(option.type, theirs)] == []
