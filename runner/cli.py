# SPDX-License-Identifier: Apache-2.0
"""The command line: finds the command, runs it, and turns errors into messages and exit codes.

stdout is the answer, stderr the log. Each option can also be given as ``RUNNER_<COMMAND>_<OPTION>``;
an empty variable means not given.
"""

from __future__ import annotations

import importlib
import sys

import click

from runner import __version__
from runner.errors import RunnerError

# Name, what it does in one line. The module runner.commands.<name> holds it and is imported when used.
COMMANDS = {
    "run": "Run one notebook and leave its record.",
    "run-all": "Run the notebooks of a plan in order, then write the report.",
    "gate": "Check whether this machine has the GPUs and the memory that are asked for.",
    "convert": "Convert executed notebooks to offline, safe HTML.",
    "report": "Write the report over all notebooks of an output folder.",
    "validate": "Check GPUs, CUDA, Python, storage and limits, and say what to do.",
    "fetch": "Fetch the datasets of a plan, verified, into a cache.",
    "clone": "Clone or update a repository at a revision.",
    "plan": "Check, show, describe or render a plan.",
    "cluster": "Install, run and watch plans on a Kubernetes cluster with Tekton.",
    "demo": "Run three small single-cell notebooks that need no download and no GPU.",
}


class _Commands(click.Group):
    """Loads a command when it is used, so that ``runner --help`` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of a user's way."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return the command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"runner.commands.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Commands,
    context_settings={"auto_envvar_prefix": "RUNNER", "help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="runner")
def cli() -> None:
    """Run GPU notebooks unattended and prove what happened.

    Each option can also be given as a variable RUNNER_<COMMAND>_<OPTION>, as in
    RUNNER_RUN_TIMEOUT=2h; an empty one means not given.

    \b
    Examples:
      runner demo
      runner run notebook.ipynb --min-gpu-memory-gb 24
      runner run-all plan.yaml --output-dir outputs
    """


def main() -> None:
    """Run the command line and exit with its documented code."""
    sys.exit(_exit_code())


def _exit_code() -> int:
    try:
        return int(cli.main(prog_name="runner", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except RunnerError as error:
        click.echo(f"runner: {error.message}", err=True)
        if error.hint:
            click.echo(f"  what to do: {error.hint}", err=True)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception:  # noqa: BLE001  (the last line of defence: our own fault, told as such)
        import traceback

        traceback.print_exc()
        click.echo("runner: this is a fault of runner itself; please report it with the lines above", err=True)
        return 70


if __name__ == "__main__":
    main()
