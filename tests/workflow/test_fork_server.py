# SPDX-License-Identifier: Apache-2.0
"""The fork server may die; nothing waits forever for its processes."""

from __future__ import annotations

import os
from pathlib import Path

from support import cli, notebooks

from runner.workflow.children import ForkServer


def test_a_server_that_died_has_a_successor_and_what_it_started_has_an_end(tmp_path: Path) -> None:
    """Its processes get SIGTERM and are lost; the next one is started by a new server."""
    source = notebooks.write(tmp_path / "n.ipynb", "print('begun')\nimport time; time.sleep(600)")
    log = tmp_path / "out" / "n.log"
    server = ForkServer(os.environ)
    with Path(os.devnull).open("wb") as nowhere:
        outputs = nowhere.fileno(), nowhere.fileno()
        first = server.start(["run", str(source), "--output-dir", str(tmp_path / "out"), "--no-html"], *outputs)
        cli.until(lambda: log.exists() and "\nbegun" in log.read_text(), "the notebook's print")
        server._server.kill()
        server._server.wait()
        second = server.start(["--version"], *outputs)

    codes: dict[int, int] = {}
    while server.running:
        codes |= server.ended(1.0)
    server.close()
    assert codes == {first: -9, second: 0}
    assert cli.metrics(tmp_path / "out", "n")["status"] == "terminated"
