# SPDX-License-Identifier: Apache-2.0
"""Calls kubectl as the user has it configured: contexts, credentials, login plugins.

The launcher itself holds no credentials; every call is a list of arguments.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from runner.core.errors import NetworkError, RunnerError

if TYPE_CHECKING:
    from collections.abc import Sequence

_NO_CONNECTION = (
    "unable to connect to the server",
    "connection refused",
    "connection reset",
    "i/o timeout",
    "tls handshake timeout",
    "no route to host",
    "no such host",
    "unexpected eof",
    "http2: client connection lost",
    "was refused - did you specify the right host",
    "etcdserver: request timed out",
    "service unavailable",
    "net/http: request canceled",
)


_KLOG = re.compile(r"[EWI]\d{4} [\d:.]+ +\d+ [\w.-]+:\d+\] ")


class ClusterError(RunnerError):
    """The cluster refused the request."""

    exit_code = 1


class NotFoundError(ClusterError):
    """The requested object is not on the cluster."""

    exit_code = 1


class MissingError(RunnerError):
    """A prerequisite is not installed or set up."""

    exit_code = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubectl:
    """kubectl for one context and namespace; None means the current one."""

    context: str | None = None
    namespace: str | None = None

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return the whole command line."""
        found = ["kubectl"]
        if self.context:
            found += ["--context", self.context]
        if self.namespace:
            found += ["--namespace", self.namespace]
        return [*found, *arguments]

    def run(self, *arguments: str, stdin: str | None = None, timeout_seconds: float = 120.0) -> str:
        """Run kubectl and return its output.

        Raises
        ------
        MissingError
            kubectl is not installed.
        NetworkError
            The cluster cannot be reached.
        NotFoundError, ClusterError
            The cluster refused.
        """
        self._check_installed()
        try:
            done = subprocess.run(
                self.command(arguments),
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise NetworkError(
                f"kubectl {arguments[0]} did not answer within {timeout_seconds:.0f} s", hint="try again"
            ) from error
        if done.returncode != 0:
            raise failure(arguments, done.stderr)
        return done.stdout

    def json(self, *arguments: str, stdin: str | None = None) -> dict[str, Any]:
        """Run kubectl with ``-o json`` and return the object.

        Raises
        ------
        ClusterError
            As for `run`, and if the output is not valid JSON.
        """
        text = self.run(*arguments, "-o", "json", stdin=stdin)
        try:
            document: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise ClusterError(f"kubectl {arguments[0]} printed invalid JSON: {text[:200]!r}") from error
        return document

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        """Return the items of a list."""
        return list(self.json(*arguments).get("items") or [])

    def find(self, *arguments: str) -> dict[str, Any] | None:
        """Return an object, or None if it or its kind does not exist."""
        try:
            return self.json(*arguments)
        except NotFoundError:
            return None

    def pass_on(self, *arguments: str) -> int:
        """Run kubectl on the user's terminal and return its exit code."""
        self._check_installed()
        return subprocess.run(self.command(arguments), stdin=subprocess.DEVNULL, check=False).returncode

    def stream(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start kubectl with piped output; the caller reads the pipes and waits."""
        self._check_installed()
        return subprocess.Popen(
            self.command(arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def _check_installed(self) -> None:
        if shutil.which("kubectl") is None:
            raise MissingError(
                "kubectl is not on the PATH", hint="install it, and give it a kubeconfig for your cluster"
            )


def failure(arguments: Sequence[str], stderr: str) -> RunnerError:
    """Return the error for kubectl's stderr."""
    # klog lines (E1128 10:15:02.104 4711 memcache.go:265] ...) repeat the final message.
    lines = [line for line in stderr.splitlines() if not _KLOG.match(line)] or stderr.splitlines()[-1:]
    message = " ".join(" ".join(lines).split()) or "no message"
    low = message.lower()
    what = f"kubectl {arguments[0]}: {message[:600]}"
    if any(sign in low for sign in _NO_CONNECTION):
        return NetworkError(what, hint="check `kubectl config current-context` and that the cluster is reachable")
    if "error in configuration" in low:  # such as a context that does not exist
        return MissingError(what, hint="check --context; `kubectl config get-contexts` lists the contexts")
    if "(notfound)" in low or "the server doesn't have a resource type" in low or "not found" in low:
        return NotFoundError(what, hint="check --namespace; our objects are created by `install`")
    if "(forbidden)" in low or "unauthorized" in low or "must be logged in" in low:
        return ClusterError(what, hint="your user lacks this permission; see `kubectl auth can-i --list`")
    if "no matches for kind" in low:
        return MissingError(what, hint="Tekton Pipelines is not installed on this cluster")
    return ClusterError(what)


def drained(stream: IO[bytes] | None) -> str:
    """Return the rest of a pipe as text."""
    return stream.read().decode(errors="replace") if stream else ""
