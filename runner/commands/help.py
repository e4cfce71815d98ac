# SPDX-License-Identifier: Apache-2.0
"""`runner help`: the help of any command, or of all of them on one page."""

from __future__ import annotations

import click

from runner.commands.mistakes import no_command


@click.command("help", context_settings={"ignore_unknown_options": True})
@click.argument("names", nargs=-1, metavar="[COMMAND]...")
@click.option("--all", "show_all", is_flag=True, help="Print the help of every command.")
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...], show_all: bool) -> int:
    """Show the help of COMMAND, such as `plan check`.

    \b
    Examples:
      runner help plan check
      runner help --all
    """
    root = ctx.find_root()
    if show_all:
        click.echo("\n\n".join(_pages(root)))
        return 0
    at = root
    for name in names:
        inner = at.command.get_command(at, name) if isinstance(at.command, click.Group) else None
        if inner is None:
            raise no_command(at, name)
        at = click.Context(inner, info_name=name, parent=at)
    click.echo(at.get_help())
    return 0


def _pages(ctx: click.Context) -> list[str]:
    pages = [ctx.get_help()]
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            inner = ctx.command.get_command(ctx, name)
            if inner is not None:
                pages += _pages(click.Context(inner, info_name=name, parent=ctx))
    return pages
