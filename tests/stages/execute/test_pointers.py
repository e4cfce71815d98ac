# SPDX-License-Identifier: Apache-2.0
"""Files that git-lfs left as pointers are found, and nothing else is taken for one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from support import cli, notebooks

from runner.stages.execute.cell_records import is_pointer, named_pointers, pointers_below

if TYPE_CHECKING:
    from pathlib import Path

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a1' * 32}\nsize 330454481\n"


def test_only_a_small_regular_file_with_the_first_line_is_a_pointer(tmp_path: Path) -> None:
    """Data, folders, pipes, long files and names that lead nowhere are not."""
    (tmp_path / "pbmc.h5ad").write_text(POINTER)
    (tmp_path / "data.csv").write_text("gene,count\n")
    (tmp_path / "long.txt").write_text(POINTER + "x" * 2000)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")

    found = [
        name
        for name in ("pbmc.h5ad", "data.csv", "long.txt", "folder", "pipe", "none", "a\0b")
        if is_pointer(tmp_path / name)
    ]

    assert found == ["pbmc.h5ad"]


def test_names_between_quotes_are_followed_from_the_folder(tmp_path: Path) -> None:
    """Each pointer is listed once, in the order of the text."""
    (tmp_path / "h5").mkdir()
    (tmp_path / "h5" / "a.h5ad").write_text(POINTER)
    (tmp_path / "b.csv").write_text(POINTER)

    texts = ("a = read('b.csv'); b = read(\"h5/a.h5ad\"); c = read('b.csv'); 'it''s'", "cannot read 'none.csv'")

    assert named_pointers(texts, tmp_path) == ("b.csv", "h5/a.h5ad")
    assert pointers_below(tmp_path) == ("b.csv", "h5/a.h5ad")


@pytest.mark.parametrize("source", ["read('pbmc.h5ad')", "import pathlib\nread(next(pathlib.Path().glob('*.h5ad')))"])
def test_a_failure_on_a_pointer_names_it(tmp_path: Path, source: str) -> None:
    """The reader complains about the file's format; the hint says what the file is and what to do."""
    (tmp_path / "pbmc.h5ad").write_text(POINTER)
    reader = "def read(path):\n    raise OSError('Unable to synchronously open file (file signature not found)')"
    notebook = notebooks.write(tmp_path / "n.ipynb", reader, source)

    ended = cli.runner("run", notebook, "--output-dir", tmp_path / "out", "--no-html")

    assert ended.code == 1, ended.err
    failure = cli.metrics(tmp_path / "out", "n")["failure"]
    assert failure["cause"] == "lfs-pointer"
    assert "pbmc.h5ad is a git-lfs pointer" in failure["hint"]
