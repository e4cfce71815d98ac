# SPDX-License-Identifier: Apache-2.0
"""A client of the Kubernetes API for use inside a Pod, with its ServiceAccount: the image has no kubectl.

Used by the capacity check and the CronJobs. Outside a cluster, `runner.cluster.kubectl` uses the user's
contexts and credentials instead.
"""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

from runner.core.errors import NetworkError, RunnerError

if TYPE_CHECKING:
    from collections.abc import Mapping

ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_SECONDS = 20.0


class NotInClusterError(RunnerError):
    """Not running in a Pod, or without a ServiceAccount token."""

    exit_code = 2


class ForbiddenError(RunnerError):
    """The API server denied the request."""

    exit_code = 3


class ApiError(RunnerError):
    """The API server answered with an error."""

    exit_code = 1

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """An API server with its credentials."""

    url: str
    token: str
    certificate: Path
    namespace: str

    @classmethod
    def from_pod(cls, environ: Mapping[str, str] | None = None, folder: Path = ACCOUNT_FOLDER) -> Self:
        """Return the API of the cluster this Pod runs in.

        Raises
        ------
        NotInClusterError
            This is not a Pod, or it has no ServiceAccount token.
        """
        environ = os.environ if environ is None else environ
        host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
        try:
            token = (folder / "token").read_text().strip()
            namespace = (folder / "namespace").read_text().strip()
        except OSError as error:
            raise NotInClusterError(
                f"no ServiceAccount token in {folder}: {error.strerror}",
                hint="set automountServiceAccountToken, or run this in a Pod",
            ) from error
        if not host:
            raise NotInClusterError("KUBERNETES_SERVICE_HOST is not set", hint="run this in a Pod")
        authority = f"[{host}]" if ":" in host else host
        return cls(url=f"https://{authority}:{port}", token=token, certificate=folder / "ca.crt", namespace=namespace)

    def list(self, path: str, **query: str) -> list[dict[str, Any]]:
        """Return the items of all pages of a list.

        Raises
        ------
        ForbiddenError, ApiError, NetworkError
            See `request`.
        """
        items: list[dict[str, Any]] = []
        token = ""
        while True:
            more = {"continue": token} if token else {}
            page = self.request("GET", f"{path}?{urlencode({'limit': '500', **query, **more})}")
            items += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return items

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a request and return the JSON of the response.

        Raises
        ------
        ForbiddenError, ApiError, NetworkError
            The request was denied, failed, or got no response.
        """
        request = urllib.request.Request(  # noqa: S310  (https, and the host is the cluster's)
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.token}",
                "Accept": "application/json",
                "Content-Type": "application/strategic-merge-patch+json" if method == "PATCH" else "application/json",
            },
        )
        context = ssl.create_default_context(cafile=str(self.certificate))
        # Python 3.13 and newer reject a CA without keyUsage, which clusters have. Chain and host are still checked.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        # The API server is inside the cluster, out of reach of a proxy for external traffic.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        try:
            with opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
                answer: dict[str, Any] = json.loads(response.read())
                return answer
        except urllib.error.HTTPError as error:
            raise _refusal(method, path, error) from error
        except (OSError, ValueError) as error:
            untrusted = isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError)
            hint = (
                f"the certificate is checked against {self.certificate}"
                if untrusted
                else ("check NetworkPolicies: the Pod must reach the API server")
            )
            raise NetworkError(f"no answer from the API server {self.url}: {error}", hint=hint) from error


def _refusal(method: str, path: str, error: urllib.error.HTTPError) -> RunnerError:
    try:
        message = str(json.loads(error.read())["message"])
    except (OSError, ValueError, KeyError, TypeError):
        message = str(error.reason)
    bare = path.partition("?")[0]
    if error.code in {401, 403}:
        return ForbiddenError(f"{method} {bare} is not allowed: {message}", hint="give the ServiceAccount that right")
    return ApiError(f"{method} {bare} failed with {error.code}: {message}", error.code)
