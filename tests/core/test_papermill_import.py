# SPDX-License-Identifier: Apache-2.0
"""papermill comes without the clients that it does not need here, and nothing starts a thread before a fork."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CLIENTS = ("boto3", "gcsfs", "pyarrow", "requests")


def run(folder: Path, script: str) -> str:
    """Run a script in which each client is a module that reports its import."""
    for name in CLIENTS:
        (folder / f"{name}.py").write_text(f"print('imported', {name!r})")
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{script}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_clients_of_stores_are_not_imported_and_can_be_later(tmp_path: Path) -> None:
    """They are not imported, but available on request."""
    script = (
        "from runner.core.papermill_import import import_papermill\nimport_papermill()\nprint('then')\nimport boto3"
    )
    assert run(tmp_path, script).splitlines() == ["then", "imported boto3"]


def test_papermill_finds_requests_when_it_wants_it(tmp_path: Path) -> None:
    """It always imports this one, although only notebooks from a URL need it."""
    script = (
        "from runner.core.papermill_import import import_papermill\nimport_papermill()\nprint('then')\n"
        "from papermill import iorw\niorw.requests.get = len\nprint(iorw.requests.__doc__)\nimport requests"
    )
    assert run(tmp_path, script).splitlines()[0] == "then"
    script = (
        "from runner.core.papermill_import import import_papermill\nimport_papermill()\n"
        "from papermill import iorw\nassert iorw.requests.adapters\nimport requests\n"
        "assert iorw.requests.Session is requests.Session"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_client_that_is_there_already_stays(tmp_path: Path) -> None:
    """It was imported for something else."""
    script = (
        "import boto3 as before\nfrom runner.core.papermill_import import import_papermill\nimport_papermill()\n"
        "import boto3\nassert boto3 is before\nfrom runner.core.papermill_import import import_papermill\n"
        "import_papermill()\nimport papermill.engines as e\nassert 'runner' in e.papermill_engines._engines"
    )
    assert run(tmp_path, script).splitlines() == ["imported boto3"]


def test_what_forks_the_notebooks_has_one_thread(tmp_path: Path) -> None:
    """A lock that another thread holds at the fork is held forever in the process."""
    script = (
        "import os\nfrom runner import fork_server\nfork_server.preload()\nprint(len(os.listdir('/proc/self/task')))"
    )
    assert run(tmp_path, script).splitlines() == ["1"]
