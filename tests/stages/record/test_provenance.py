# SPDX-License-Identifier: Apache-2.0
"""A record names a commit only if that commit holds the notebook exactly as it was run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support import cli, notebooks

from runner.report.assemble import assemble
from runner.report.exports.ro_crate import crate_json
from runner.report.facts import gather
from runner.report.folder import read_folder
from runner.report.summary import summarize
from runner.stages.record.provenance import command_line, commit_of, repository_of

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false"]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    done = subprocess.run(
        [*command, "-C", str(folder), *arguments], capture_output=True, text=True, check=True, env=environ
    )
    return done.stdout.strip()


def repository(folder: Path, *options: str) -> tuple[Path, str]:
    """Return a notebook that is committed, and the commit."""
    folder.mkdir()
    git(folder, "init", "--quiet", *options)
    notebook = notebooks.write(folder / "sub dir" / "n.ipynb", "print(1)")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return notebook, git(folder, "rev-parse", "HEAD")


def asked(notebook: Path) -> tuple[str | None, str | None]:
    return commit_of(notebook, notebook.read_bytes())


@pytest.mark.parametrize("options", [(), ("--object-format=sha256",)])
def test_a_committed_notebook_has_its_commit(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Also when other files of the checkout were edited, and through a link."""
    notebook, commit = repository(tmp_path / "repo", *options)
    (tmp_path / "repo" / "other.txt").write_text("edited")
    assert asked(notebook) == (commit, None)
    (tmp_path / "link.ipynb").symlink_to(notebook)
    assert asked(tmp_path / "link.ipynb") == (commit, None)


@pytest.mark.parametrize(
    ("url", "recorded"),
    [
        ("https://me:token@git.example/lab/nb.git", "https://git.example/lab/nb.git"),
        ("git@git.example:lab/nb.git", "git@git.example:lab/nb.git"),
        (None, None),
    ],
)
def test_a_record_names_the_repository_without_credentials(
    tmp_path: Path, url: str | None, recorded: str | None
) -> None:
    """Whoever reads the record finds the commit, and no token."""
    notebook, _ = repository(tmp_path / "repo")
    if url:
        git(tmp_path / "repo", "remote", "add", "origin", url)
    assert repository_of(notebook) == recorded


@pytest.mark.parametrize("name", ["-n.ipynb", "a b.ipynb", "*.ipynb", "n\u00e4.ipynb", ":x.ipynb"])
def test_names_mean_themselves(tmp_path: Path, name: str) -> None:
    """Git takes none of them for an option, a pattern or a revision."""
    first, _ = repository(tmp_path / "repo")
    notebook = first.with_name(name)
    notebook.write_text("{}")
    assert "not tracked" in asked(notebook)[1]
    git(tmp_path / "repo", "add", "-A")
    git(tmp_path / "repo", "commit", "--quiet", "-m", "second")
    assert asked(notebook) == (git(tmp_path / "repo", "rev-parse", "HEAD"), None)


def test_an_edited_notebook_has_none(tmp_path: Path) -> None:
    """Neither in the folder nor staged: only the commit counts."""
    notebook, commit = repository(tmp_path / "repo")
    notebook.write_text(notebook.read_text().replace("print(1)", "print(2)"))
    assert asked(notebook) == (None, f"edited since commit {commit}")
    git(tmp_path / "repo", "add", ".")
    assert asked(notebook) == (None, f"edited since commit {commit}")


def test_what_was_run_counts_and_not_what_lies_there_later(tmp_path: Path) -> None:
    """A file that was put back while the notebook ran is not what ran."""
    notebook, commit = repository(tmp_path / "repo")
    assert commit_of(notebook, b"what ran") == (None, f"edited since commit {commit}")


def test_an_untracked_and_a_copied_notebook_have_none(tmp_path: Path) -> None:
    """A copy has the content of a commit, and is not the file that the commit holds."""
    notebook, commit = repository(tmp_path / "repo")
    for target in (notebook.with_name("copy.ipynb"), tmp_path / "repo" / "n.ipynb"):
        shutil.copy(notebook, target)
        assert asked(target) == (None, f"not tracked: commit {commit} does not contain this file")
    shutil.copy(notebook, tmp_path / "outside.ipynb")
    assert asked(tmp_path / "outside.ipynb") == (None, "not in a git repository with a commit")


def test_line_ends_and_filters_of_git_are_no_edits(tmp_path: Path) -> None:
    """Git stores LF for CRLF; where a filter changes the content it is said that nothing can be compared."""
    notebook, _ = repository(tmp_path / "repo")
    (tmp_path / "repo" / ".gitattributes").write_text("*.ipynb text eol=crlf\n")
    notebook.write_bytes(json.dumps(notebooks.document("1"), indent=1).replace("\n", "\r\n").encode())
    git(tmp_path / "repo", "add", ".")
    git(tmp_path / "repo", "commit", "--quiet", "-m", "second")
    assert b"\r\n" in notebook.read_bytes()
    assert asked(notebook) == (git(tmp_path / "repo", "rev-parse", "HEAD"), None)
    (tmp_path / "repo" / ".gitattributes").write_text("*.ipynb filter=nbstripout\n")
    notebook.write_text("{}")
    assert "filter 'nbstripout'" in asked(notebook)[1]


def test_without_git_the_reason_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image without git is no repository without commits."""
    notebook, _ = repository(tmp_path / "repo")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert asked(notebook) == (None, "git is not installed")


def test_the_surroundings_do_not_lead_to_another_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIT_DIR is for the commands of who set it."""
    notebook, commit = repository(tmp_path / "repo")
    repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert asked(notebook) == (commit, None)


def test_report_and_crate_repeat_what_the_record_says(tmp_path: Path) -> None:
    """The commit where there is one, else why there is none and the content; never a commit that did not run."""
    notebook, commit = repository(tmp_path / "repo")
    shutil.copy(notebook, notebook.with_name("copy.ipynb"))
    out = tmp_path / "out"
    for name in ("n", "copy"):
        assert cli.runner("run", notebook.with_name(f"{name}.ipynb"), "--output-dir", out, "--no-html").code == 0
    reason = f"not tracked: commit {commit} does not contain this file"
    assert cli.metrics(out, "n")["source"]["commit"] == commit
    source = cli.metrics(out, "copy")["source"]
    assert (source["commit"], source["unavailable"]) == (None, {"commit": reason})

    report = assemble(read_folder(out, watch=lambda paths, _seconds: dict.fromkeys(paths, False)))
    assert gather(report, summarize(report)).commits == (commit, f"none for copy: {reason}")
    graph = json.loads(crate_json(report, out, [], None))["@graph"]
    sources = {item["name"]: item for item in graph if "sha256" in item and "SoftwareSourceCode" in item["@type"]}
    assert {Path(name).name: item.get("version") for name, item in sources.items()} == {
        "n.ipynb": commit,
        "copy.ipynb": f"sha256:{source['sha256']}",
    }
    assert [item["description"] for item in sources.values() if "description" in item] == [f"No commit: {reason}"]


def test_command_line_without_secrets():
    """The command stays exact but for users and queries of addresses, and for values that are named like secrets."""
    given = [
        "/usr/bin/runner",
        "run",
        "a b.ipynb",
        "-p",
        "n",
        "5",
        "--env",
        "HF_TOKEN=hf_abc",
        "x=https://u:p@h/y?sig=1",
    ]
    kept = ("runner", "run", "a b.ipynb", "-p", "n", "5", "--env", "HF_TOKEN=[secret]", "x=https://h/y?…")
    assert command_line(given) == kept
    assert command_line(["/x/runner/__main__.py", "x" * 5_000]) == ("runner", "…")
