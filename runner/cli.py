# SPDX-License-Identifier: Apache-2.0
"""The command line: dispatches to a command and turns errors into messages and exit codes.

stdout is the answer, stderr the log. Each option can also be set as ``RUNNER_<COMMAND>_<OPTION>``;
an empty variable counts as unset.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from pathlib import Path

import click

from runner import __version__
from runner.commands.answer import settle_streams
from runner.commands.help import Commands, explained
from runner.core.errors import RecordError, RunnerError

# Names and one-line descriptions. The module runner.commands.<name> is imported on first use.
COMMANDS = {
    "run": "Run a notebook and write its results.",
    "run-all": "Run the notebooks of a plan in order, then write the report.",
    "repair": "Continue a held failed notebook in the same kernel.",
    "parameters": "List the variables of a notebook that can be set.",
    "fit": "Find the smallest GPU memory that is enough for a notebook, by running it with less.",
    "forecast": "Predict a notebook's time and memory at full size from runs at fractions of it.",
    "kernels": "List the kernels of this machine, other environments included.",
    "gate": "Check whether this machine has the requested GPUs and memory.",
    "convert": "Convert executed notebooks to offline, safe HTML.",
    "report": "Write the report on an output folder.",
    "status": "Show the progress of a run.",
    "compare": "Compare two results, files or folders, by meaning.",
    "verify": "Check an output folder against its checksums and records.",
    "clean": "Remove old attempts and report pages of an output folder.",
    "validate": "Check GPUs, CUDA, Python, storage and limits, with a hint for each problem.",
    "fetch": "Fetch the datasets of a plan, verified, into a cache.",
    "clone": "Clone or update a repository at a revision.",
    "plan": "Create, check, show, render or tune a plan.",
    "cluster": "Install, run and watch plans on a Kubernetes cluster with Tekton.",
    "demo": "Run three small single-cell notebooks that need no download and no GPU.",
    "help": "Show the help of a command.",
}


class _AllCommands(Commands):
    """Imports a command on first use: ``runner --help`` imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in order of use."""
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
    cls=_AllCommands,
    invoke_without_command=True,
    context_settings={"auto_envvar_prefix": "RUNNER", "help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--version", is_flag=True, help="Show the version and exit; with --json those of all dependencies.")
@click.option("--json", "as_json", is_flag=True, hidden=True)
@click.pass_context
def cli(ctx: click.Context, /, version: bool, as_json: bool) -> None:
    """Run GPU notebooks unattended and report truthfully what happened.

    Each option can also be set as an environment variable RUNNER_<COMMAND>_<OPTION>, such as
    RUNNER_RUN_TIMEOUT=2h; an empty one counts as unset.

    \b
    Examples:
      runner demo
      runner run notebook.ipynb --min-gpu-memory-gb 24
      runner run-all plan.yaml --output-dir outputs
      runner --version --json
    """
    if version:
        click.echo(_versions() if as_json else f"runner, version {__version__}")
        ctx.exit()
    if as_json:
        raise click.UsageError("--json needs a command before it, or --version", ctx)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit()


def _versions() -> str:
    """Return the versions of Python, the platform and all required distributions, as JSON."""
    import json
    import platform
    from importlib.metadata import PackageNotFoundError, requires
    from importlib.metadata import version as installed

    from packaging.requirements import Requirement

    packages: dict[str, str | None] = {}
    for line in requires("rapids-notebook-runner") or ():
        name = Requirement(line).name
        try:
            packages[name] = installed(name)
        except PackageNotFoundError:
            packages[name] = None  # from an extra that is not installed
    found = {"runner": __version__, "python": platform.python_version(), "platform": platform.platform()}
    return json.dumps({**found, "executable": sys.executable, "packages": packages}, indent=1)


def main() -> None:
    """Run the command line and exit with its documented code."""
    _open_standard_streams()
    code = _exit_code()
    settle_streams()
    sys.exit(code)


def _exit_code() -> int:
    try:
        return int(cli.main(prog_name="runner", standalone_mode=False) or 0)
    except click.UsageError as error:
        return _report(explained(error))
    except click.Abort:
        return 130
    except SystemExit as error:  # after a signal, see `runner.core.stop.ending_on_signals`
        return error.code if isinstance(error.code, int) else RunnerError.exit_code
    except RunnerError as error:
        return _report(error)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001  (the last line of defence: an internal error, reported as such)
        if isinstance(error, OSError) and _while_printing(error):
            _print_error(f"runner: cannot write to stdout: {error.strerror or error}")
            return RecordError.exit_code
        _print_error(traceback.format_exc(), "runner: internal error in runner; please report it with the lines above")
        return 70


def _report(error: RunnerError) -> int:
    _print_error(f"runner: {error.message}", f"  hint: {error.hint}" if error.hint else "")
    _write_results(str(error))
    return error.exit_code


def _write_results(message: str) -> None:
    """Write Tekton's results for a command that failed before writing any: nobody opens the log of every task."""
    words = [word for word in sys.argv[1:3] if not word.startswith("-")]
    names = ("_".join(words[:count]).upper().replace("-", "_") for count in (1, 2))
    folder = next((found for name in names if (found := os.environ.get(f"RUNNER_{name}_RESULTS_DIR"))), None)
    if folder is None or (Path(folder) / "status").exists():
        return
    from runner.outputs.tekton_results import write_values

    with contextlib.suppress(RecordError):
        write_values(Path(folder), {"status": "error", "reason": message})


def _while_printing(error: BaseException) -> bool:
    """Return True if an error came from printing with click."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_globals.get("__name__") == "click.utils"


def _print_error(*lines: str) -> None:
    """Print lines to stderr; ignore a failure, since the exit code reports the error too."""
    with contextlib.suppress(OSError):
        click.echo("\n".join(line.rstrip("\n") for line in lines if line), err=True)


def _open_standard_streams() -> None:
    """Open the null device in place of a stdin, stdout or stderr that was closed at startup.

    Python sets such a stream to None, and the next opened file takes its descriptor: a library's
    messages on stderr would end up in that file.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123  (open until exit)


if __name__ == "__main__":
    main()
