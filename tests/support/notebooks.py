# SPDX-License-Identifier: Apache-2.0
"""Builders of notebooks with the traits of the RAPIDS ones: no tags, a shutdown cell, an empty last cell."""

from __future__ import annotations

import json
from pathlib import Path

SHUTDOWN = "import IPython\n\nIPython.Application.instance().kernel.do_shutdown(True)"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""One pixel."""


def code(
    source: str, *, cell_id: str | None = None, tags: list[str] | None = None, outputs: list | None = None
) -> dict:
    """Return a code cell; without an id one is made by `document`."""
    cell = {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {"tags": tags} if tags is not None else {},
        "outputs": outputs or [],
        "source": source,
    }
    return {**cell, "id": cell_id} if cell_id else cell


def markdown(source: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def image() -> dict:
    """Return a saved figure."""
    return {"output_type": "display_data", "metadata": {}, "data": {"image/png": PNG, "text/plain": ["<Figure>"]}}


def result(text: str) -> dict:
    """Return the saved value of a cell's last expression."""
    return {"output_type": "execute_result", "execution_count": 1, "metadata": {}, "data": {"text/plain": [text]}}


def document(*cells: str | dict, language: str = "python", kernel: str = "python3") -> dict:
    """Return a notebook; plain texts become code cells with ids that say their place."""
    made = []
    for position, cell in enumerate(cells):
        made.append(code(cell) if isinstance(cell, str) else dict(cell))
        made[-1].setdefault("id", f"c{position}")
    spec = {"display_name": kernel, "language": language, "name": kernel}
    return {"cells": made, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}


def write(path: Path, *cells: str | dict, language: str = "python", kernel: str = "python3") -> Path:
    """Write a notebook and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document(*cells, language=language, kernel=kernel)), encoding="utf-8")
    return path


def census_cells(url: str, *, by: str = "wget.download") -> list[str]:
    """Return cells that download a file once and filter it in place, as the notebooks 01 and 03 do.

    ``by`` is ``wget.download``, ``urllib``, ``requests`` or ``wget`` (the binary, through os.system).
    """
    download = {
        "wget.download": "import wget\n        wget.download(url, output)",
        "urllib": "import urllib.request\n        urllib.request.urlretrieve(url, output)",
        "requests": "import requests\n        open(output, 'wb').write(requests.get(url).content)",
        "wget": 'os.system(f"wget -q {url} -O {output}")',
    }[by]
    fetch_and_filter = f"""\
url = "{url}"
data_dir = "./h5"
output = data_dir + "/census.txt"
if not os.path.exists(data_dir):
    os.system("mkdir ./h5")
if not os.path.isfile(output):
    if not os.path.isfile(output):
        {download}
    kept = [line for line in open(output) if "keep" in line]
    open(output, "w").writelines(kept)
else:
    print(f"{{output}} dataset found")"""
    count = "%%time\nrows = len(open(output).readlines())\nprint('rows', rows)"
    return ["import os", fetch_and_filter, count, SHUTDOWN, ""]
