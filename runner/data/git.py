# SPDX-License-Identifier: Apache-2.0
"""Calls git such that neither a URL nor a repository can make it do anything but fetch.

No prompts, hooks, helper protocols, or options hidden in values. Credentials of a URL are passed to git
through its environment: neither in the arguments, which every process of the machine can read, nor in
`.git/config`.

A clone is in a folder that notebooks write to. Its `.git/config` can define programs (filters, credential
helpers, proxies, transfer agents) and other addresses (`insteadOf`, push and upload commands) that the next
git in that folder would use. Settings on git's command line override only known keys; so only harmless
entries are kept in the file, and all others are removed.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote, urlsplit, urlunsplit

from runner.core import log
from runner.core.errors import BrokenInputError, NetworkError, UsageError

_SCHEMES = ("https", "ssh", "file")
_SCP_LIKE = re.compile(r"(?:(?P<user>[\w.][\w.-]*)@)?(?P<host>[\w.][\w.-]*):(?P<path>[^:/\\][^:]*|/[^/].*)")
_REVISION = re.compile(r"(?![-+/.])[^\s:^~?*\[\\\x00-\x1f\x7f]{1,255}")
_TRANSIENT = re.compile(
    r"could not resolve|connection (?:timed out|refused|reset)|timed out|early eof|rpc failed|unexpected disconnect"
    r"|returned error: (?:429|5\d\d)|operation too slow|network is unreachable|gnutls|ssl_|failed to connect",
    re.IGNORECASE,
)
_DROPPED = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE", "GIT_CONFIG")
REFSPEC = "+refs/heads/*:refs/remotes/origin/*"
Entry = tuple[str, str]
"""A key in git's normalized form, and its value."""

_HARMLESS = re.compile(
    r"core\.(?:repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|symlinks|precomposeunicode)"
    r"|extensions\.(?:objectformat|refstorage|partialclone)"
    r"|remote\.origin\.(?:url|promisor|partialclonefilter)"
    r"|branch\..+\.(?:remote|merge|rebase)"
    r"|submodule\..+\.(?:active|url)"  # the URL is reset from `.gitmodules` before use
    r"|user\.(?:name|email)"
    r"|lfs\.repositoryformatversion|lfs\..+\.access",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A validated URL without its credentials, which are kept separately and never shown."""

    url: str
    scheme: str
    host: str
    secret: str | None = None
    """user:password of an https URL."""

    def __repr__(self) -> str:
        return f"Remote({self.url!r})"


def remote(url: str, allowed_hosts: Sequence[str] = ()) -> Remote:
    """Validate a URL and separate its credentials.

    Parameters
    ----------
    allowed_hosts
        The only hosts allowed; empty means any. A name with a leading dot matches all subdomains.

    Raises
    ------
    UsageError
        The URL is not https, ssh or file, hides an option, or its host is not allowed.
    """
    if url.startswith("-") or not url.isprintable() or url != url.strip():
        _refuse(url, "is not a valid URL")
    match = _SCP_LIKE.fullmatch(url) if "://" not in url else None
    if match:
        checked = Remote(url=url, scheme="ssh", host=match["host"])
    else:
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES or "://" not in url:
            _refuse(url, f"is not one of {', '.join(f'{scheme}://' for scheme in _SCHEMES)}")
        host = parts.hostname or ""
        if host.startswith("-") or (parts.username or "").startswith("-"):
            _refuse(url, "hides an option in its host")
        if (parts.scheme == "file") != (not host) or not parts.path.strip("/"):
            _refuse(url, "lacks a host or a path" if not host else "has a host; use file:///path")
        secret = None
        netloc = parts.netloc
        if parts.scheme == "https" and parts.username is not None:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            netloc = netloc.rpartition("@")[2]
        elif parts.password is not None:
            _refuse(url, "has a password that ssh cannot use")
        clean = urlunsplit((parts.scheme, netloc, parts.path, "", ""))
        checked = Remote(url=clean, scheme=parts.scheme, host=host, secret=secret)
    check_host(checked, allowed_hosts)
    return checked


def check_host(checked: Remote, allowed_hosts: Sequence[str]) -> None:
    """Raise an error if the host is not on the list."""
    host = checked.host.lower()
    if allowed_hosts and not any(
        host == allowed.lower() or (allowed.startswith(".") and host.endswith(allowed.lower()))
        for allowed in allowed_hosts
    ):
        raise UsageError(
            f"{checked.url}: the host {checked.host or '(this machine)'!r} is not allowed",
            hint=f"allowed: {', '.join(allowed_hosts)}",
        )


def check_revision(revision: str) -> str:
    """Return a branch, tag or commit after validation.

    Raises
    ------
    UsageError
        The text is an option, a range or another expression.
    """
    if not _REVISION.fullmatch(revision) or ".." in revision or "@{" in revision or revision.endswith((".lock", "/")):
        raise UsageError(f"{revision!r} is not a valid revision", hint="give a branch, a tag or a commit")
    return revision


class Git:
    """git in one folder, for one remote."""

    def __init__(self, folder: Path, source: Remote, *, lfs: bool) -> None:
        self._folder, self._source, self._lfs = folder, source, lfs

    def run(self, *arguments: str, protocols: str = "https:ssh:file") -> str:
        """Run a command and return its output.

        Raises
        ------
        NetworkError
            The failure is transient.
        BrokenInputError
            Any other failure, with git's message without credentials.
        """
        command = ["git", "-C", str(self._folder), *arguments]
        try:
            done = subprocess.run(
                command, env=self._environment(protocols), stdin=subprocess.DEVNULL, capture_output=True, check=False
            )
        except FileNotFoundError as error:
            raise UsageError("git is not installed", hint="install it, or mount the notebooks") from error
        if done.returncode == 0:
            return done.stdout.decode("utf-8", "replace")
        errors = self._redacted(done.stderr.decode("utf-8", "replace")).strip() or f"exit code {done.returncode}"
        message = f"git {arguments[0]} for {self._source.url}: {errors[-1000:]}"
        if _TRANSIENT.search(errors):
            raise NetworkError(message, hint="run the same command again later")
        raise BrokenInputError(message, hint=_hint(errors))

    def succeeds(self, *arguments: str) -> bool:
        """Return True if a command succeeds."""
        try:
            self.run(*arguments)
        except BrokenInputError:
            return False
        return True

    def _redacted(self, text: str) -> str:
        secret = self._source.secret
        for part in (secret, _basic(secret), secret.partition(":")[2]) if secret else ():
            text = text.replace(part, "[redacted]") if part else text
        return text

    def _environment(self, protocols: str) -> dict[str, str]:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GIT_CONFIG", "GIT_TRACE")) and name not in _DROPPED
        }
        environment |= {
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "true",
            "SSH_ASKPASS": "true",
            "GIT_ALLOW_PROTOCOL": protocols,
            "GIT_OPTIONAL_LOCKS": "0",
            "LC_ALL": "C",
        }
        environment.setdefault("GIT_SSH_COMMAND", "ssh -oBatchMode=yes -oConnectTimeout=30")
        settings = self._settings()
        environment["GIT_CONFIG_COUNT"] = str(len(settings))
        for number, (key, value) in enumerate(settings):
            environment[f"GIT_CONFIG_KEY_{number}"], environment[f"GIT_CONFIG_VALUE_{number}"] = key, value
        return environment

    def _settings(self) -> list[tuple[str, str]]:
        """Return the settings that override the user's and the repository's configuration."""
        settings = [
            ("core.hooksPath", os.devnull),
            ("core.fsmonitor", "false"),
            ("core.symlinks", "true"),
            ("core.protectHFS", "true"),
            ("core.protectNTFS", "true"),
            ("submodule.recurse", "false"),
            ("fetch.recurseSubmodules", "false"),
            ("fetch.fsckObjects", "true"),
            ("transfer.credentialsInUrl", "die"),
            ("http.lowSpeedLimit", "1000"),
            ("http.lowSpeedTime", "60"),
            ("gc.auto", "0"),
            ("advice.detachedHead", "false"),
            ("safe.directory", str(self._folder.resolve())),
        ]
        if self._lfs:
            settings += [
                ("filter.lfs.clean", "git-lfs clean -- %f"),
                ("filter.lfs.smudge", "git-lfs smudge -- %f"),
                ("filter.lfs.process", "git-lfs filter-process"),
                ("filter.lfs.required", "true"),
            ]
        if self._source.secret:
            origin = f"https://{urlsplit(self._source.url).netloc}/"
            settings.append((f"http.{origin}.extraHeader", f"Authorization: Basic {_basic(self._source.secret)}"))
        return settings


def _basic(secret: str | None) -> str:
    return base64.b64encode((secret or "").encode()).decode()


def _hint(errors: str) -> str:
    lower = errors.lower()
    if "could not read username" in lower or "authentication failed" in lower or "permission denied" in lower:
        return "the repository is private or does not exist: give credentials (a token, or a key for ssh)"
    if "would be overwritten" in lower:
        return "move these files away; the revision has files with these names"
    if "couldn't find remote ref" in lower or "unknown revision" in lower or "not our ref" in lower:
        return "give a branch, tag or commit of the repository"
    return "check URL and revision"


def shown(url: str) -> str:
    """Return a URL without user and password."""
    return re.sub(r"//[^/]*@", "//", url)


def _refuse(url: str, what: str) -> NoReturn:
    raise UsageError(f"{shown(url)!r} {what}", hint="give https://, ssh:// or file:///")


def is_harmless(key: str, value: str) -> bool:
    """Return True if an entry of the configuration can be kept.

    >>> is_harmless("core.bare", "false"), is_harmless("core.sshcommand", "sh")
    (True, False)
    """
    return bool(_HARMLESS.fullmatch(key)) or (key, value) == ("remote.origin.fetch", REFSPEC)


def sanitize(repository: Git, path: Path, *, worktrees: Collection[Path] = ()) -> list[Entry]:
    """Remove all but harmless entries from a configuration file, and return these.

    The original file is kept beside it, and removed keys are logged.

    Parameters
    ----------
    worktrees
        Allowed worktrees of submodules.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise BrokenInputError(f"{path} is not a file", hint="delete the folder and clone again")
    if not path.exists():
        return []
    listed = repository.run("config", "--file", str(path.absolute()), "--no-includes", "--null", "--list")
    entries = [_entry(text) for text in listed.split("\0") if text]
    kept = [
        (key, value)
        for key, value in entries
        if is_harmless(key, value) or (key == "core.worktree" and (path.parent / value).resolve() in worktrees)
    ]
    if kept == entries:
        return kept
    draft, before = path.with_name("runner-config"), path.with_name("config.before")
    draft.write_bytes(b"")
    for key, value in kept:
        repository.run("config", "--file", str(draft.absolute()), "--add", key, value)
    before.unlink(missing_ok=True)
    path.rename(before)
    draft.replace(path)
    dropped = sorted({_short(key) for key, value in entries if (key, value) not in kept})
    log.warning("clone-config", path=path, dropped=", ".join(dropped), kept_in=before)
    return kept


def _entry(text: str) -> Entry:
    key, newline, value = text.partition("\n")
    return key, value if newline else "true"  # a key without a value means true


def _short(key: str) -> str:
    """Return a key without its subsection, which may be a URL with a password."""
    section, _dot, rest = key.partition(".")
    return f"{section}.….{rest.rpartition('.')[2]}" if "." in rest else key
