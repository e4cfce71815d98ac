# SPDX-License-Identifier: Apache-2.0
"""Notebooks that are no files here: by http, from stdin, and as text through jupytext."""

from __future__ import annotations

import json
import subprocess

import pytest
from support import cli, notebooks
from support.server import Reply, serving

TEXT = """\
# ---
# jupyter:
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---
# %% tags=["parameters"]
n: int = 5  # cells to keep
label = "x"
# %%
rows = [label] * n
print(len(rows), "rows")
"""


def test_a_notebook_behind_a_url_runs_in_the_current_folder(tmp_path):
    """Its name is the file's; a query, which may be a secret, stands in no record."""
    content = json.dumps(notebooks.document("import os", "print('in', os.getcwd())")).encode()
    with serving() as server:
        server.replies["/a/note%20book.ipynb"] = Reply(content)
        server.replies["/a/note%20book.ipynb?token=s3cr3t"] = Reply(content)
        url = f"{server.url}/a/note%20book.ipynb?token=s3cr3t"
        ended = cli.runner("run", url, "--no-html", cwd=tmp_path)

    assert ended.code == 0, ended.err
    assert f"in {tmp_path}" in cli.text_of(cli.executed(tmp_path / "outputs", "note-book"))
    record = (tmp_path / "outputs" / "note-book.metrics.json").read_text()
    assert server.url in record
    assert "s3cr3t" not in record


def test_a_url_without_a_notebook_is_a_usage_error_that_writes_nothing(tmp_path):
    """404 and what is not a notebook end with 2 and a hint; so does nothing on stdin."""
    with serving() as server:
        server.replies["/page"] = Reply(b"<html>sign in</html>")
        for url in (f"{server.url}/none.ipynb", f"{server.url}/page"):
            ended = cli.runner("run", url, cwd=tmp_path)
            assert ended.code == 2, ended.err
            assert "hint: " in ended.err
    empty = subprocess.run(
        [*cli.RUNNER, "run", "-"], check=False, stdin=subprocess.DEVNULL, capture_output=True, cwd=tmp_path
    )

    assert empty.returncode == 2
    assert b"stdin holds nothing" in empty.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_notebook_from_stdin_runs(tmp_path):
    """`-` reads it, and --name gives it a name."""
    content = json.dumps(notebooks.document("print('from stdin')")).encode()

    ended = subprocess.run(
        [*cli.RUNNER, "run", "-", "--name", "piped", "--no-html"],
        input=content, capture_output=True, cwd=tmp_path, env=cli.environment(), timeout=cli.PATIENCE, check=False,
    )  # fmt: skip

    assert ended.returncode == 0, ended.stderr
    assert "from stdin" in cli.text_of(cli.executed(tmp_path / "outputs", "piped"))


def test_a_script_in_percent_format_is_a_notebook(tmp_path):
    """Jupytext reads it; parameters are listed, set and injected as in any notebook."""
    (tmp_path / "script.py").write_text(TEXT)

    listed = cli.runner("parameters", "script.py", "--json", cwd=tmp_path)
    ended = cli.runner("run", "script.py", "-p", "n", "3", "--no-html", cwd=tmp_path)

    found = {each["name"]: each for each in json.loads(listed.out)["parameters"]}
    assert found["n"] == {
        "name": "n", "type": "int", "default": "5", "comment": "cells to keep", "cells": [1], "tagged": True
    }  # fmt: skip
    assert (found["label"]["type"], found["rows"]["type"], found["rows"]["tagged"]) == ("str", None, False)
    assert ended.code == 0, ended.err
    assert "3 rows" in cli.text_of(cli.executed(tmp_path / "outputs", "script"))


@pytest.mark.parametrize("name", ["script.py", "page.md", "chapter.qmd"])
def test_without_jupytext_the_hint_says_how_to_convert(tmp_path, name):
    """A text is answered with the command that makes a notebook of it."""
    (tmp_path / name).write_text(TEXT)
    script = "import sys; sys.modules['jupytext'] = None; from runner.cli import main; main()"

    ended = cli.python(script, "run", name, cwd=tmp_path)

    assert ended.code == 2
    assert f"jupytext --to ipynb {name}" in ended.err
