# SPDX-License-Identifier: Apache-2.0
"""`runner status --watch` on a terminal: one screen that is drawn over, and at the end the states that stay."""

from __future__ import annotations

from pathlib import Path

from support import cli, notebooks
from support.terminal import on_terminal


def test_on_a_terminal_the_states_are_drawn_over_and_the_last_ones_stay(tmp_path: Path) -> None:
    """While the notebook runs its row says so; when it has ended the answer is printed once, and the cursor is left."""
    source = notebooks.write(tmp_path / "n.ipynb", "import os, time\nwhile not os.path.exists('go'): time.sleep(0.05)")
    out = tmp_path / "out"
    with cli.start("run", source, "--output-dir", out, "--no-html", cwd=tmp_path) as process:
        cli.until(lambda: cli.runner("status", out).out.count("cell 1 of 1"), "the cell")

        seen = on_terminal("status", out, "--watch", when="cell 1 of 1", do=lambda *_: (tmp_path / "go").touch())

        process.communicate(timeout=cli.PATIENCE)
    assert seen.code == 0, seen.text
    assert any("running" in line for screen in seen.screens for line in screen)
    rows = [line.split()[:2] for line in seen.screen if line.startswith("n ")]
    assert rows == [["n", "succeeded"]]
    assert any(line.startswith("host memory: ") for line in seen.screen)
    assert seen.escapes <= {"A", "J", "m"}
