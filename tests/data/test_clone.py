# SPDX-License-Identifier: Apache-2.0
"""A clone fetches what was asked for and nothing else happens, whatever URL or repository say."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runner.core import log
from runner.core.errors import BrokenInputError, NetworkError, UsageError
from runner.data import git
from runner.data.clone import clone

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="no git on PATH")


@pytest.fixture(autouse=True)
def _plain_git(monkeypatch, tmp_path):
    """Let no configuration of this machine play a part."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


class Upstream:
    """A repository to clone from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "-q", "-b", "main")
        self.first = self.commit("first", **{"nb.ipynb": "1", "dir/data.txt": "a"})

    @property
    def url(self) -> str:
        return f"file://{self.folder}"

    def git(self, *arguments: str) -> str:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always"]
        done = subprocess.run([*command, *arguments], cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, message: str, **contents: str) -> str:
        for name, content in contents.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def upstream(tmp_path):
    return Upstream(tmp_path / "upstream")


def head(folder: Path) -> str:
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.parametrize("depth", [None, 1])
@pytest.mark.parametrize("kind", ["HEAD", "branch", "tag", "annotated", "commit", "short"])
def test_every_kind_of_revision_becomes_a_commit(tmp_path, upstream, depth, kind):
    """Branch, tag, commit and short commit; the commit is returned and recorded."""
    upstream.git("branch", "topic/one")
    upstream.git("tag", "v1")
    upstream.git("tag", "-a", "-m", "x", "v1a")
    second = upstream.commit("second", **{"nb.ipynb": "2"})
    names = {
        "HEAD": ("HEAD", second),
        "branch": ("topic/one", upstream.first),
        "tag": ("v1", upstream.first),
        "annotated": ("v1a", upstream.first),
        "commit": (upstream.first, upstream.first),
        "short": (upstream.first[:8], upstream.first),
    }
    revision, commit = names[kind]
    folder = tmp_path / "clone"
    cloned = clone(upstream.url, folder, revision=revision, depth=depth)
    assert cloned.commit == commit == head(folder)
    assert not cloned.updated
    assert (folder / "nb.ipynb").read_text() == ("2" if commit == second else "1")
    recorded = json.loads((folder / ".git" / "runner-clone.json").read_text())
    assert (recorded["url"], recorded["revision"], recorded["commit"]) == (upstream.url, revision, commit)


def test_a_shallow_clone_has_no_history(tmp_path, upstream):
    """Depth 1 is one commit; asked for all of it later, the rest comes."""
    upstream.commit("second", **{"nb.ipynb": "2"})
    folder = tmp_path / "clone"
    clone(upstream.url, folder, depth=1)
    count = ["git", "rev-list", "--count", "HEAD"]
    assert subprocess.check_output(count, cwd=folder, text=True).strip() == "1"
    clone(upstream.url, folder)
    assert subprocess.check_output(count, cwd=folder, text=True).strip() == "2"


def test_a_second_clone_updates_the_first(tmp_path, upstream):
    """To the new revision, and back; products stay."""
    folder = tmp_path / "clone"
    clone(upstream.url, folder, revision="main")
    (folder / "h5").mkdir()
    (folder / "h5" / "product.h5ad").write_text("mine")
    second = upstream.commit("second", **{"nb.ipynb": "2"})
    assert clone(upstream.url, folder, revision="main").updated
    assert (head(folder), (folder / "nb.ipynb").read_text()) == (second, "2")
    clone(upstream.url, folder, revision=upstream.first)
    assert head(folder) == upstream.first
    assert (folder / "h5" / "product.h5ad").read_text() == "mine"


def test_a_moved_branch_and_a_moved_tag_are_followed(tmp_path, upstream):
    """History that was rewritten upstream is no obstacle."""
    upstream.git("tag", "v1")
    folder = tmp_path / "clone"
    clone(upstream.url, folder, revision="v1")
    upstream.git("commit", "-q", "--amend", "-m", "rewritten")
    upstream.git("tag", "-f", "v1")
    rewritten = upstream.git("rev-parse", "HEAD")
    assert clone(upstream.url, folder, revision="v1").commit == rewritten
    assert clone(upstream.url, folder, revision="main").commit == rewritten


def test_local_changes_are_never_overwritten(tmp_path, upstream):
    """The refusal names the files; nothing was touched."""
    folder = tmp_path / "clone"
    clone(upstream.url, folder)
    (folder / "nb.ipynb").write_text("my work")
    upstream.commit("second", **{"nb.ipynb": "2"})
    with pytest.raises(BrokenInputError, match=r"has local changes in 1 tracked files: nb\.ipynb"):
        clone(upstream.url, folder)
    assert (folder / "nb.ipynb").read_text() == "my work"


def test_an_untracked_file_in_the_way_is_not_overwritten(tmp_path, upstream):
    """Upstream began to track what is a product here."""
    folder = tmp_path / "clone"
    clone(upstream.url, folder)
    (folder / "new.txt").write_text("mine")
    upstream.commit("second", **{"new.txt": "theirs"})
    with pytest.raises(BrokenInputError, match=r"(?s)would be overwritten by checkout.*new\.txt.*move these files"):
        clone(upstream.url, folder)
    assert (folder / "new.txt").read_text() == "mine"
    with pytest.raises(BrokenInputError, match="would be overwritten"):
        clone(upstream.url, folder)


def test_a_folder_that_is_something_else_is_left_alone(tmp_path, upstream):
    """Files without a repository, and a clone of another one."""
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "file").write_text("x")
    with pytest.raises(BrokenInputError, match="is not empty and not a clone"):
        clone(upstream.url, folder)
    assert [path.name for path in folder.iterdir()] == ["file"]
    other = Upstream(tmp_path / "other")
    clone(upstream.url, tmp_path / "clone")
    with pytest.raises(BrokenInputError, match=r"is a clone of .*upstream, not of .*other"):
        clone(other.url, tmp_path / "clone")


@pytest.mark.parametrize("revision", ["nope", "0" * 40, "deadbeef"])
@pytest.mark.parametrize("depth", [None, 1])
def test_an_unknown_revision_says_so(tmp_path, upstream, revision, depth):
    """Broken input, with what git said; a later try with the right one works."""
    with pytest.raises(BrokenInputError, match=f"(?s)git fetch for {upstream.url}.*{revision}"):
        clone(upstream.url, tmp_path / "clone", revision=revision, depth=depth)
    assert clone(upstream.url, tmp_path / "clone").commit == upstream.first


def test_an_unknown_repository_says_so(tmp_path):
    """Nothing there."""
    with pytest.raises(BrokenInputError, match="git fetch for file:///nowhere/at/all"):
        clone("file:///nowhere/at/all", tmp_path / "clone")


@pytest.mark.parametrize("depth", [None, 1])
def test_a_wrong_url_does_not_claim_the_folder(tmp_path, upstream, depth):
    """A typo is corrected by the right URL, and nothing of another repository is left then."""
    folder = tmp_path / "clone"
    with pytest.raises(BrokenInputError, match="git fetch for"):
        clone(upstream.url + "o", folder, depth=depth)
    assert clone(upstream.url, folder, depth=depth).commit == upstream.first
    other = Upstream(tmp_path / "other")
    other.git("tag", "v1")
    with pytest.raises(BrokenInputError, match="git fetch for"):
        clone(other.url, tmp_path / "second", revision="nope")
    assert clone(upstream.url, tmp_path / "second").commit == upstream.first
    with pytest.raises(BrokenInputError, match="git fetch for"):
        clone(upstream.url, tmp_path / "second", revision="v1")


def test_what_somebody_has_in_the_folder_is_not_claimed(tmp_path, upstream):
    """A repository that is not ours, or has files already, keeps its URL."""
    folder = tmp_path / "mine"
    subprocess.run(["git", "init", "-q", folder], check=True)
    subprocess.run(["git", "remote", "add", "origin", "https://ada:s3cret@example.org/o/r"], cwd=folder, check=True)
    with pytest.raises(BrokenInputError, match=r"is a clone of https://example\.org/o/r, not of"):
        clone(upstream.url, folder)
    with pytest.raises(BrokenInputError, match="git fetch for"):
        clone(upstream.url + "o", tmp_path / "clone")
    (tmp_path / "clone" / "file").write_text("mine")
    with pytest.raises(BrokenInputError, match="is a clone of"):
        clone(upstream.url, tmp_path / "clone")
    assert (tmp_path / "clone" / "file").read_text() == "mine"


# Hostile values


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c touch% /tmp/x",
        "-uhttps://example.org/a",
        "--upload-pack=touch",
        "ssh://-oProxyCommand=touch/x",
        "ssh://-oProxyCommand=touch@example.org/x",
        "-oProxyCommand=touch:x",
        "http://example.org/a",
        "git://example.org/a",
        "ftp://example.org/a",
        "file://host/a",
        "https:///a",
        "https://example.org",
        "/absolute/path",
        "relative/path",
        "",
        " https://example.org/a",
        "https://example.org/a\n--upload-pack=x",
        "fd::17",
        "C:\\repo",
        "ssh://user:password@example.org/a",
    ],
)
def test_urls_that_could_do_more_are_refused(tmp_path, url):
    """Before git is called."""
    with pytest.raises(UsageError):
        clone(url, tmp_path / "clone")
    assert not (tmp_path / "clone").exists()


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://github.com/o/r.git", "github.com"),
        ("ssh://git@github.com:22/o/r.git", "github.com"),
        ("git@github.com:o/r.git", "github.com"),
        ("github.com:o/r", "github.com"),
        ("file:///srv/r.git", ""),
    ],
)
def test_usual_urls_are_taken(url, host):
    """https, ssh in both forms, and file."""
    assert git.remote(url).host == host


@pytest.mark.parametrize(
    "revision",
    [
        "",
        "-x",
        "--upload-pack=touch",
        "a b",
        "a:b",
        "+main",
        "a..b",
        "HEAD^",
        "HEAD~1",
        "a@{1}",
        "a\nb",
        "x.lock",
        "a?",
    ],
)
def test_revisions_that_are_more_than_one_are_refused(tmp_path, upstream, revision):
    """Options, refspecs and expressions."""
    with pytest.raises(UsageError, match="is not a valid revision"):
        clone(upstream.url, tmp_path / "clone", revision=revision)


def test_only_allowed_hosts_are_asked():
    """By name, or all below a domain; this machine is no host of the list."""
    allowed = ["github.com", ".example.org"]
    assert git.remote("https://GitHub.com/o/r", allowed)
    assert git.remote("git@a.b.example.org:o/r", allowed)
    for url in ("https://evil.com/o/r", "https://example.org/o/r", "https://notgithub.com/o/r", "file:///srv/r"):
        with pytest.raises(UsageError, match=r"is not allowed \(allowed: github.com, .example.org\)"):
            git.remote(url, allowed)


def test_hooks_and_templates_do_not_run(tmp_path, upstream, monkeypatch):
    """Neither the user's nor those that somebody left in the clone."""
    trace = tmp_path / "ran"
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for folder in (hooks, tmp_path / "template" / "hooks"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("post-checkout", "post-merge", "reference-transaction", "fsmonitor"):
            (folder / name).write_text(f"#!/bin/sh\ntouch {trace}\n")
            (folder / name).chmod(0o755)
    (tmp_path / ".gitconfig").write_text(
        f"[core]\n hooksPath = {hooks}\n fsmonitor = {hooks}/fsmonitor\n[init]\n templateDir = {tmp_path}/template\n"
    )
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(tmp_path / "template"))
    folder = tmp_path / "clone"
    clone(upstream.url, folder)
    shutil.copytree(hooks, folder / ".git" / "hooks", dirs_exist_ok=True)
    clone(upstream.url, folder, revision=upstream.first)
    assert not trace.exists()


def planted(folder: Path, trace: Path) -> str:
    """Put programs and other addresses into the configuration that a git may use; return the former one."""
    path = folder / "config"
    program = f'"touch {trace}; false"'
    before = path.read_text()
    included = folder / "included"
    included.write_text(f"[core]\n sshCommand = {program}\n")
    path.write_text(
        before
        + f"""
[core]
    fsmonitor = {program}
    hooksPath = {folder}
    sshCommand = {program}
    gitProxy = {program}
    alternateRefsCommand = {program}
    worktree = {trace.parent}
[filter "x"]
    clean = {program}
    smudge = {program}
    process = {program}
    required
[credential]
    helper = !{program}
[url "{trace.parent}/nowhere"]
    insteadOf = file://
[include]
    path = {included}
[remote "origin"]
    uploadpack = {program}
    fetch = +refs/heads/*:refs/heads/*
    vcs = x
[http "https://ada:s3cret@example.org"]
    proxy = http://127.0.0.1:9
[extensions]
    worktreeConfig = true
"""
    )
    (folder / "config.worktree").write_text(f"[core]\n worktree = {trace.parent}\n")
    return before


def test_a_clone_does_not_do_what_somebody_wrote_into_its_configuration(tmp_path, upstream):
    """Programs and addresses in it go; what was there is kept beside it and told without secrets."""
    upstream.commit("attributes", **{".gitattributes": "* filter=x\n"})
    folder, trace = tmp_path / "clone", tmp_path / "ran"
    clone(upstream.url, folder)
    before = planted(folder / ".git", trace)
    second = upstream.commit("second", **{"nb.ipynb": "2"})
    lines = []
    stop = log.add_sink(lines.append)
    assert clone(upstream.url, folder).commit == second == head(folder)
    stop()
    assert not trace.exists()
    assert (folder / ".git" / "config").read_text().split() == before.split()
    assert "insteadOf" in (folder / ".git" / "config.before").read_text()
    (told,) = [line for line in lines if "clone-config" in line]
    assert "filter.\\u2026.smudge" in told
    assert "s3cret" not in told


def test_what_is_harmless_in_a_configuration_stays(tmp_path, upstream):
    """Name, address and branches of whoever works there; a clone by hand is as good as one of ours."""
    folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", upstream.url, folder], check=True)
    for entry in (("user.name", 'Ada "L" #1'), ("user.email", "ada@example.org")):
        subprocess.run(["git", "config", *entry], cwd=folder, check=True)
    before = (folder / ".git" / "config").read_bytes()
    assert clone(upstream.url, folder).updated
    assert (folder / ".git" / "config").read_bytes() == before
    subprocess.run(["git", "config", "alias.x", "!sh"], cwd=folder, check=True)
    clone(upstream.url, folder)
    for entry in ("user.name", 'Ada "L" #1'), ("branch.main.merge", "refs/heads/main"), ("alias.x", ""):
        done = subprocess.run(["git", "config", entry[0]], cwd=folder, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == entry[1]


def test_a_second_url_cannot_hide_behind_the_first(tmp_path, upstream):
    """Git fetches from the first of several, and shows the last."""
    folder = tmp_path / "clone"
    clone(upstream.url, folder)
    path = folder / ".git" / "config"
    path.write_text(f'[remote "origin"]\n url = file:///elsewhere\n{path.read_text()}')
    with pytest.raises(BrokenInputError, match="is a clone of file:///elsewhere, not of"):
        clone(upstream.url, folder)


def test_a_repository_that_lies_elsewhere_is_refused(tmp_path, upstream):
    """Through a link, or by the file that leads a worktree to its repository."""
    folder, other = tmp_path / "clone", tmp_path / "other"
    clone(upstream.url, folder)
    clone(upstream.url, other)
    (folder / ".git" / "commondir").write_text(str(other / ".git"))
    with pytest.raises(BrokenInputError, match="is a worktree or submodule"):
        clone(upstream.url, folder)
    shutil.rmtree(folder / ".git")
    (folder / ".git").symlink_to(other / ".git")
    with pytest.raises(BrokenInputError, match="is a worktree or submodule"):
        clone(upstream.url, folder)


def test_a_submodule_does_not_do_what_somebody_wrote_into_its_configuration(tmp_path, upstream, monkeypatch):
    """Nor is another repository taken for it."""
    monkeypatch.setattr("runner.data.clone._PROTOCOLS", "file")
    inner = Upstream(tmp_path / "inner")
    inner.commit("attributes", **{".gitattributes": "* filter=x\n"})
    upstream.git("submodule", "add", "-q", inner.url, "inner")
    upstream.commit("with submodule")
    folder, trace = tmp_path / "clone", tmp_path / "ran"
    for _ in range(2):
        clone(upstream.url, folder, submodules=True)
        assert not list(folder.rglob("config.before"))
    planted(folder / ".git" / "modules" / "inner", trace)
    second = inner.commit("second", **{"nb.ipynb": "2"})
    subprocess.run(["git", "pull", "-q"], cwd=upstream.folder / "inner", check=True)
    upstream.commit("newer submodule")
    clone(upstream.url, folder, submodules=True)
    assert (head(folder / "inner"), (folder / "inner" / "nb.ipynb").read_text()) == (second, "2")
    assert not trace.exists()
    (folder / "inner" / ".git").unlink()
    shutil.copytree(folder / ".git" / "modules" / "inner", folder / "inner" / ".git")
    with pytest.raises(BrokenInputError, match="inner is not a submodule of this clone"):
        clone(upstream.url, folder, submodules=True)


def test_submodules_come_only_when_asked_and_not_from_this_machine(tmp_path, upstream):
    """A repository cannot make the clone read local repositories."""
    Upstream(tmp_path / "inner")
    upstream.git("submodule", "add", "-q", f"file://{tmp_path}/inner", "inner")
    upstream.commit("with submodule")
    folder = tmp_path / "clone"
    clone(upstream.url, folder)
    assert list((folder / "inner").iterdir()) == []
    with pytest.raises(BrokenInputError, match="transport 'file' not allowed"):
        clone(upstream.url, folder, submodules=True)
    upstream.git("config", "-f", ".gitmodules", "submodule.inner.url", "ext::sh -c x")
    upstream.commit("hostile")
    with pytest.raises(UsageError, match="ext::sh"):
        clone(upstream.url, folder, submodules=True)


def test_credentials_of_a_url_stay_out_of_everything(tmp_path, monkeypatch):
    """Not in arguments, configuration, log or message; git gets them through its environment."""
    seen = tmp_path / "seen"
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    real = shutil.which("git")
    said = "fatal: Authentication failed for https://ada:s3cret@example.org/o/r"
    fake.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >> {seen}\ncase "$*" in *fetch*) env | grep GIT_CONFIG_ >> {seen}.env;'
        f' echo "{said}" >&2; exit 128;; esac\nexec {real} "$@"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    lines = []
    stop = log.add_sink(lines.append)
    with pytest.raises(BrokenInputError, match="Authentication failed") as caught:
        clone("https://ada:s3cret@example.org/o/r", tmp_path / "clone")
    stop()
    token = base64.b64encode(b"ada:s3cret").decode()
    assert f"Authorization: Basic {token}" in Path(f"{seen}.env").read_text()
    config = (tmp_path / "clone" / ".git" / "config").read_text()
    assert "https://example.org/o/r" in config
    for text in (
        seen.read_text(),
        config,
        *lines,
        str(caught.value),
        repr(git.remote("https://ada:s3cret@example.org/o/r")),
    ):
        assert "s3cret" not in text
        assert token not in text


def test_what_can_pass_is_tried_again_and_then_a_network_error(tmp_path, monkeypatch):
    """A server that does not answer is no broken input."""
    with pytest.raises(NetworkError):
        clone("https://127.0.0.1:9/o/r", tmp_path / "clone", backoff_seconds=0.01)


# Interrupted


def test_a_killed_clone_is_finished_by_the_next(tmp_path, upstream):
    """Half of the files written, the lock left behind."""
    upstream.commit("many", **{f"d/{number}.txt": str(number) * 1000 for number in range(300)})
    folder = tmp_path / "clone"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for delay in (0.05, 0.2, 0.35):
        imports = "import sys; from pathlib import Path; from runner.data.clone import clone"
        code = f"{imports}; clone(sys.argv[1], Path(sys.argv[2]))"
        child = subprocess.Popen(
            [sys.executable, "-c", code, upstream.url, str(folder)],
            env=environment,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(delay)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    cloned = clone(upstream.url, folder)
    assert head(folder) == cloned.commit
    assert len(list((folder / "d").iterdir())) == 300
    status = subprocess.check_output(["git", "status", "--porcelain"], cwd=folder, text=True)
    assert status == ""


def test_an_interrupted_checkout_is_finished_by_the_next(tmp_path, upstream):
    """What a killed checkout left half written is nobody's work, the lock nobody's lock."""
    folder = tmp_path / "clone"
    clone(upstream.url, folder)
    second = upstream.commit("second", **{"nb.ipynb": "2", "new.txt": "n"})
    (folder / ".git" / "runner-checkout").touch()
    (folder / ".git" / "index.lock").touch()
    (folder / "nb.ipynb").write_text("ha")
    (folder / "new.txt").write_text("")
    assert clone(upstream.url, folder).commit == second
    assert (folder / "nb.ipynb").read_text() == "2"
    assert (folder / "new.txt").read_text() == "n"


# Git LFS


@pytest.mark.skipif(not shutil.which("git-lfs"), reason="no git-lfs on PATH")
def test_files_of_lfs_are_fetched(tmp_path, upstream):
    """Also when a second clone updates; the folder has no local changes then."""
    upstream.git("lfs", "install", "--local")
    upstream.git("lfs", "track", "*.parquet")
    upstream.commit("large", **{"nets/net.parquet": "one"})
    folder = tmp_path / "clone"
    cloned = clone(upstream.url, folder, depth=1)
    assert cloned.lfs
    assert (folder / "nets" / "net.parquet").read_text() == "one"
    assert not [hook for hook in (folder / ".git").glob("hooks/*") if not hook.name.endswith(".sample")]
    upstream.commit("larger", **{"nets/net.parquet": "two"})
    clone(upstream.url, folder, depth=1)
    assert (folder / "nets" / "net.parquet").read_text() == "two"


def test_without_lfs_its_pointers_are_told(tmp_path, upstream, monkeypatch):
    """The clone works; the log says what the files are."""
    upstream.commit("attributes", **{".gitattributes": "*.parquet filter=lfs diff=lfs merge=lfs -text\n"})
    real = shutil.which
    monkeypatch.setattr("shutil.which", lambda name, **options: None if name == "git-lfs" else real(name, **options))
    lines = []
    stop = log.add_sink(lines.append)
    assert not clone(upstream.url, tmp_path / "clone").lfs
    stop()
    assert any("clone-without-lfs" in line for line in lines)
