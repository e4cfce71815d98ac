# SPDX-License-Identifier: Apache-2.0
"""Parameters in papermill's forms: text, raw text, file, YAML and base64."""

from __future__ import annotations

import base64
import json

import pytest
from support import cli, notebooks

from runner.commands.parameter_values import take
from runner.core.errors import UsageError


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_each_form_gives_its_values_and_papermills_order_decides(tmp_path):
    """Base64, file, YAML, NAME VALUE, NAME TEXT: the later wins, within a form too; other options stay."""
    (tmp_path / "p.yaml").write_text("a: file\nb: file\nc: [1, {x: null}]\n")
    (tmp_path / "p.json").write_text(json.dumps({"b": "json", "e": 1.5}))
    given = {
        "parameters_base64": (b64("a: base64\nz: true"),),
        "parameters_file": (tmp_path / "p.yaml", tmp_path / "p.json"),
        "parameters_yaml": ("d: yaml\nf: yaml", "d: again"),
        "parameters": (("f", "7"), ("g", "1e3"), ("h", "None")),
        "parameters_raw": (("g", "007"),),
        "name": "kept",
    }

    values = take(given)

    assert values == {
        "a": "file", "z": True, "b": "json", "c": [1, {"x": None}], "e": 1.5,
        "d": "again", "f": 7, "g": "007", "h": None,
    }  # fmt: skip
    assert given == {"name": "kept"}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("parameters_base64", "%%%", "not valid base64"),
        ("parameters_base64", base64.b64encode(b"\xff\xfe\xfa").decode(), "not valid base64 of UTF-8 text"),
        ("parameters_base64", b64("[1]"), "--parameters-base64 is not a mapping"),
        ("parameters_yaml", "a: [", "--parameters-yaml is not valid YAML"),
        ("parameters_yaml", "1: x", "not a mapping of names"),
        ("parameters_yaml", "a: &a [*a, *a]\nb: " + "9" * 5000, "not valid YAML"),
    ],
)
def test_what_is_no_mapping_of_names_is_refused_with_the_option(option, value, message):
    """Hostile or mistyped texts end in a usage error, not in a traceback."""
    with pytest.raises(UsageError, match=message):
        take({option: (value,)})


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"- 1\n", b"x" * 4_000_001])
def test_a_file_that_cannot_be_parameters_is_named(tmp_path, content):
    """Missing, not text, not a mapping, too long: the message has its path."""
    path = tmp_path / "p.yaml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(UsageError, match=r"--parameters-file .*p\.yaml"):
        take({"parameters_file": (path,)})


def test_the_cells_see_what_was_given_in_each_form(tmp_path):
    """All forms at once, one file from stdin, and the value in the name of the files."""
    notebooks.write(tmp_path / "n.ipynb", "a = 0; b = 0; c = 0; d = 0; e = 0", "print('seen', a, b, c, repr(d), e)")
    (tmp_path / "p.json").write_text('{"a": 1}')

    ended = cli.runner(
        "run", tmp_path / "n.ipynb", "-f", "p.json", "-b", b64("b: 2"), "-y", "c: 3", "-r", "d", "4", "-p", "e", "5",
        "--name", "n-{a}-{d}", "--output-dir", "out-{e}", "--no-html", cwd=tmp_path,
    )  # fmt: skip

    assert ended.code == 0, ended.err
    assert "seen 1 2 3 '4' 5" in cli.text_of(cli.executed(tmp_path / "out-5", "n-1-4"))


@pytest.mark.parametrize("value", ["../x", "a/b", "", "..", "x" * 101])
def test_a_value_that_would_leave_the_folder_is_no_part_of_a_name(tmp_path, value):
    """Parameters may be somebody else's: a path in one must not choose where files go."""
    notebooks.write(tmp_path / "n.ipynb", "a = 0")

    for option in ("--name", "--output-dir"):
        ended = cli.runner("run", tmp_path / "n.ipynb", "-r", "a", value, option, "n-{a}", cwd=tmp_path)
        assert ended.code == 2
        assert "cannot be part of a file name" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["n.ipynb"]


def test_an_unknown_placeholder_is_answered_with_the_nearest(tmp_path):
    """A typing error is found before anything runs."""
    notebooks.write(tmp_path / "n.ipynb", "n_top = 0")

    ended = cli.runner("run", tmp_path / "n.ipynb", "-p", "n_top", "1", "--name", "{n_tpo}", cwd=tmp_path)

    assert ended.code == 2
    assert "did you mean 'n_top'" in ended.err
