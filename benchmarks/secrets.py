# SPDX-License-Identifier: Apache-2.0
"""What keeping secrets out of files costs: the same notebook with ten secrets of 2 kB and without any."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Sequence
from pathlib import Path

from benchmarks.core import PNG_CELLS, notebook
from benchmarks.harness import BIN, Benchmark, run

LINES = 400_000
_LETTERS = string.ascii_letters + string.digits + "+/"
_LINE = "f'epoch {i}/50 loss={source.random():.5f} time: {source.random()} s'"
BIG_PRINT = [f"import random; source = random.Random(0)\nprint('\\n'.join({_LINE} for i in range({LINES})))"]
SMALL_PRINTS = [
    f"import random; source = random.Random(0)\nfor i in range({LINES // 10}):\n    print({_LINE}, flush=i % 10 == 0)"
]


def secrets() -> dict[str, str]:
    """Return ten secrets of 2 kB: tokens of one line, keys of many lines, and keys within JSON."""
    source = random.Random(0)

    def token() -> str:
        return "".join(source.choices(_LETTERS, k=2000))

    def key() -> str:
        lines = "\n".join("".join(source.choices(_LETTERS, k=64)) for _ in range(30))
        return f"-----BEGIN PRIVATE KEY-----\n{lines}\n-----END PRIVATE KEY-----\n"

    def account() -> str:
        return json.dumps({"type": "service_account", "private_key": key(), "client_id": token()[:20]}, indent=2)

    kinds = (token, key, account)
    return {f"SECRET_{number}": kinds[number % 3]() for number in range(10)}


class Printing:
    """A notebook that shows much, with secrets and without.

    Parameters
    ----------
    sources
        Its code cells.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        self.sources = sources

    def _run(self, folder: Path, values: dict[str, str]) -> float:
        source = folder / "work.ipynb"
        source.write_text(notebook(self.sources), encoding="utf-8")
        options = [part for name in values for part in ("--secret-env", name)]
        command = [BIN / "runner", "run", source, "--output-dir", folder / "outputs", "--no-html", *options]
        return run(command, folder, values).wall_seconds

    def with_secrets(self, folder: Path) -> float:
        """Return the wall time with ten secrets."""
        return self._run(folder, secrets())

    def without(self, folder: Path) -> float:
        """Return the wall time without any."""
        return self._run(folder, {})


def _against_none(name: str, work: str, sources: Sequence[str]) -> Benchmark:
    printing = Printing(sources)
    return Benchmark(
        name=name,
        work=f"{work}, ten secrets of 2 kB",
        against="the same without secrets",
        unit="s",
        at_most=2.0,
        ours=printing.with_secrets,
        theirs=printing.without,
    )


BENCHMARKS = [
    _against_none("secrets-text", f"{LINES:,} lines printed at once", BIG_PRINT),
    _against_none("secrets-lines", f"{LINES // 10:,} lines printed ten by ten", SMALL_PRINTS),
    _against_none("secrets-figures", "100 cells with a 200 kB PNG each", PNG_CELLS),
]
