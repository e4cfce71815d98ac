# SPDX-License-Identifier: Apache-2.0
"""`runner kernels`: what notebooks can run with on this machine."""

from __future__ import annotations

import json

import click

from runner.commands import options
from runner.commands.answer import answer


@click.command("kernels")
@options.as_json
def command(as_json: bool) -> int:
    """List the kernels that `--kernel` can name, those of other conda environments and venvs included.

    The path of an environment, or of its Python, can be given as well.

    \b
    Examples:
      runner kernels
      runner run notebook.ipynb --kernel ~/miniforge3/envs/rapids
    """
    from runner.machine.kernel_specs import Kernels

    kernels = Kernels()
    found = []
    for name, folder in sorted(kernels.find_kernel_specs().items()):
        try:
            spec = kernels.get_kernel_spec(name)
            entry = {"language": spec.language, "display_name": spec.display_name, "program": "".join(spec.argv[:1])}
            found.append({"name": name, **entry, "folder": folder, "problem": None})
        except Exception as error:  # noqa: BLE001  (a file that others wrote: no JSON, wrong types, not to be read)
            found.append({"name": name, "folder": folder, "problem": f"cannot be read: {error}"})
    if as_json:
        answer(json.dumps({"kernels": found}, indent=1, ensure_ascii=False))
        return 0
    width = max((len(each["name"] or "") for each in found), default=0)
    for each in found:
        reported = each["problem"] or f"{each['language'] or '?'}: {each['display_name']}, {each['program']}"
        answer(f"{each['name']:{width}}  {' '.join(reported.split())}")
    if not found:
        answer("no kernel is installed; install one with `python -m pip install ipykernel`")
    return 0
