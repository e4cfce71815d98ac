# SPDX-License-Identifier: Apache-2.0
"""`runner help`, and usage errors in the format of our own errors, with the nearest name as the hint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from runner.core.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from runner.core.errors import RunnerError


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


class Commands(click.Group):
    """A group that suggests the nearest name for an unknown command; older versions of click suggest none."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Show the help if no command is given."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command named by the first argument."""
        if not args[0].startswith("-") and not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            raise no_command(ctx, args[0])
        return super().resolve_command(ctx, args)


def no_command(ctx: click.Context, name: str) -> UsageError:
    """Return the error for an unknown command of a group."""
    assert isinstance(ctx.command, click.Group)
    near = did_you_mean(name, ctx.command.list_commands(ctx))
    words = " ".join([*ctx.command_path.split()[1:], name])
    return UsageError(f"no command {words!r}", hint=f"{near}{_help(ctx)}")


def explained(error: click.UsageError) -> RunnerError:
    """Return click's error as one of ours, with a hint."""
    ctx = error.ctx
    if ctx is None:
        return UsageError(error.format_message())
    message, hint = error.format_message().removesuffix("."), getattr(error, "hint", "")
    if isinstance(error, click.NoSuchOption):
        known = [name for param in ctx.command.params for name in param.opts + param.secondary_opts]
        message = f"no option {error.option_name!r}"
        hint = did_you_mean(error.option_name, [name for name in known if name.startswith("--")])
    elif isinstance(error, click.BadParameter) and error.param and error.message:
        message = f"{_source(error.param, ctx)}: {error.message.removesuffix('.')}"
        hint = f"{hint}; " if hint else ""
    return UsageError(
        message[0].lower() + message[1:] if message[1:2].islower() else message, hint=f"{hint}{_help(ctx)}"
    )


def _source(param: click.Parameter, ctx: click.Context) -> str:
    """Return the source of a parameter's value: its option, environment variable or argument."""
    variable = f"{ctx.auto_envvar_prefix}_{param.name}".upper()
    if param.name and ctx.get_parameter_source(param.name) is ParameterSource.ENVIRONMENT:
        return variable
    return max(param.opts, key=len) if isinstance(param, click.Option) else param.human_readable_name


def _help(ctx: click.Context) -> str:
    return f"see `{ctx.command_path} --help`"
