# SPDX-License-Identifier: Apache-2.0
"""`runner validate`: check whether this system is ready for the notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from runner.commands import option_types, options


@click.command("validate")
@click.option("--plan", type=options.FILE, help="Also check the requirements of this plan.")
@options.checkout
@click.option(
    "--output-dir",
    type=options.FOLDER,
    help="Output folder of the runs; reports/system_validation.* is written there. [default: the current one, no "
    "files written]",
)
@click.option("--cache", type=options.FOLDER, help="Folder of the staged datasets.")
@click.option("--kernel", help="Kernel to check instead of the plan's.")
@options.add(options.gate_options[:3])
@click.option("--network", is_flag=True, help="Also contact the hosts of the plan's datasets.")
@click.option(
    "--limit",
    type=option_types.Duration(),
    default="60s",
    show_default=True,
    help="Time limit for each group of checks; a group that exceeds it fails.",
)
@options.as_json
def command(as_json: bool, **given: Any) -> int:
    """Check GPUs, driver, CUDA, Python, kernels, storage, limits and clock, with a hint for each problem.

    Exit code: 0 ready (possibly with warnings), 3 a check failed. A missing GPU fails only checks that need one.

    \b
    Examples:
      runner validate
      runner validate --plan plan.yaml --network --json
      runner validate --min-gpus 2 --min-gpu-memory-gb 48
    """
    from runner.core.records import to_json
    from runner.validate.show import print_to_terminal
    from runner.validate.system import validate

    validation = validate(_request(given))
    text = to_json(validation)
    if given["output_dir"]:
        _write(given["output_dir"] / "reports", text, validation)
    if as_json:
        click.echo(text, nl=False)
    else:
        print_to_terminal(validation)
    return validation.exit_code


def _request(given: dict[str, Any]) -> Any:
    """Return the validation request for these options."""
    from runner.core.requirements import requirements_of
    from runner.plan.job import checkout_of
    from runner.plan.model import load
    from runner.validate.result import ValidationRequest

    plan = load(given["plan"]) if given["plan"] else None
    checkout = checkout_of(given["plan"], given["checkout"])
    folders = {
        "outputs": given["output_dir"] or Path.cwd(),
        "checkout": checkout if plan else None,
        "cache": given["cache"],
    }
    return ValidationRequest(
        plan=plan,
        plan_path=given["plan"],
        checkout=checkout,
        folders={label: path.absolute() for label, path in folders.items() if path},
        requirements=requirements_of(given["min_gpus"], given["min_gpu_memory_gb"], given["gpu_free_fraction"]),
        kernel=given["kernel"],
        network=given["network"],
        limit_seconds=given["limit"],
    )


def _write(folder: Path, text: str, validation: Any) -> None:
    """Write both files; an unwritable folder is already among the findings."""
    from runner.core import log
    from runner.core.errors import RecordError
    from runner.core.files import write
    from runner.validate.show import page

    try:
        write(folder / "system_validation.json", text)
        write(folder / "system_validation.html", page(validation))
    except RecordError as error:
        log.warning("validation-not-written", reason=str(error))
