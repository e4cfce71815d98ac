# SPDX-License-Identifier: Apache-2.0
"""`runner kernels`: list the kernels of this machine."""

from __future__ import annotations

import json

import click

from runner.commands import options
from runner.commands.answer import answer


@click.command("kernels")
@options.as_json
def command(as_json: bool) -> int:
    """List the kernels for `--kernel`, including those of other conda environments and venvs.

    `--kernel` also accepts the path of an environment or of its Python.

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
        except Exception as error:  # noqa: BLE001  (a file written by others: invalid JSON, wrong types, unreadable)
            found.append({"name": name, "folder": folder, "problem": f"cannot be read: {error}"})
    if as_json:
        answer(json.dumps({"kernels": found}, indent=1, ensure_ascii=False))
        return 0
    width = max((len(each["name"] or "") for each in found), default=0)
    for each in found:
        text = each["problem"] or f"{each['language'] or '?'}: {each['display_name']}, {each['program']}"
        answer(f"{each['name']:{width}}  {' '.join(text.split())}")
    if not found:
        answer("no kernel is installed; install one with `python -m pip install ipykernel`")
    return 0
