# SPDX-License-Identifier: Apache-2.0
"""Runs all checks concurrently, each group with a time limit.

GPUs are checked first, because other checks are stricter if there are any.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path

from runner import __version__
from runner.core import log
from runner.core.records import Check
from runner.validate import (
    check_cuda,
    check_doctors,
    check_gpus,
    check_host,
    check_kernels,
    check_network,
    check_packages,
    check_storage,
    notebook_imports,
)
from runner.validate.result import Section, Validation, ValidationRequest, counts, worst

Group = Callable[[], Sequence[Check]]


def validate(request: ValidationRequest, environ: Mapping[str, str] | None = None) -> Validation:
    """Check this system against the request."""
    environ = os.environ if environ is None else environ
    started_at, started = log.utc_now(), time.monotonic()
    gpus, section = _gpus(request, environ)
    gpu = bool(gpus.seen) or check_gpus.most_gpus(request) > 0
    wants = notebook_imports.of_plan(request.plan, request.checkout, request.kernel)
    groups: dict[str, Group] = {
        "python": lambda: _python(request, wants, gpus, environ),
        "kernels": lambda: [check_kernels.check(name, request.checkout) for name in wants.kernels],
        "storage": lambda: _storage(request),
        "host": lambda: check_host.checks(
            request.plan, request.requirements, request.folders["outputs"], environ, gpu=gpu
        ),
    }
    if request.network:
        groups["network"] = lambda: check_network.checks(request.plan)
    sections = (section, *_run_concurrently(groups, request.limit_seconds))
    return Validation(
        verdict=worst(sections),
        hostname=platform.node(),
        runner_version=__version__,
        image=environ.get("RUNNER_IMAGE") or None,
        plan=str(request.plan_path) if request.plan_path else None,
        started_at=started_at,
        wall_seconds=round(time.monotonic() - started, 3),
        counts=counts(sections),
        sections=sections,
    )


def _gpus(request: ValidationRequest, environ: Mapping[str, str]) -> tuple[check_gpus.Gpus, Section]:
    """Check the GPUs, with a time limit: the driver may hang."""
    found: list[check_gpus.Gpus] = []

    def check() -> Sequence[Check]:
        found.append(check_gpus.look(environ))
        return check_gpus.checks(found[0], request)

    section = _run_concurrently({"gpus": check}, request.limit_seconds)[0]
    return (found[0] if found else check_gpus.Gpus(health={})), section


def _python(
    request: ValidationRequest, wants: notebook_imports.Needs, gpus: check_gpus.Gpus, environ: Mapping[str, str]
) -> list[Check]:
    found = list(wants.checks)
    seen_pythons: set[str] = set()
    for kernel, notebooks in wants.kernels.items():
        python = check_kernels.python_of(kernel)
        if python is None or python in seen_pythons:
            continue  # a missing kernel is reported by its own check
        seen_pythons.add(python)
        users = {
            module: [name for name in names if name in notebooks]
            for module, names in wants.modules.items()
            if set(names) & set(notebooks)
        }
        env = check_packages.read(python, sorted(users), gpu=bool(gpus.seen))
        found += check_packages.checks(env, users, gpu=bool(gpus.seen))
        found += check_packages.fits(env.versions, request.plan.fits if request.plan else {})
        found += check_cuda.checks(gpus, python, env.versions, environ)
        if gpus.seen and request.doctors:
            found += check_doctors.checks(python)
    return found


def _storage(request: ValidationRequest) -> list[Check]:
    found: list[Check] = []
    tried: set[Path] = set()
    for label, folder in request.folders.items():
        if folder.resolve() not in tried:
            tried.add(folder.resolve())
            found += check_storage.checks(label, folder, must_write=label == "outputs")
    return found


def _run_concurrently(groups: Mapping[str, Group], limit_seconds: float) -> tuple[Section, ...]:
    """Run each group in its own thread; a group that exceeds the time limit fails.

    The threads are daemons: one that hangs in a system call does not keep the process from exiting.
    """
    futures = {name: _start(name, group) for name, group in groups.items()}
    deadline = time.monotonic() + limit_seconds
    return tuple(_collect(name, future, deadline, limit_seconds) for name, future in futures.items())


def _start(name: str, group: Group) -> Future[Section]:
    future: Future[Section] = Future()

    def work() -> None:
        started = time.monotonic()
        try:
            checks = tuple(group())
            future.set_result(Section(name=name, checks=checks, wall_seconds=round(time.monotonic() - started, 3)))
        except BaseException as error:  # noqa: BLE001  (raised again in `_collect`)
            future.set_exception(error)

    threading.Thread(target=work, name=f"validate-{name}", daemon=True).start()
    return future


def _collect(name: str, future: Future[Section], deadline: float, limit_seconds: float) -> Section:
    try:
        return future.result(timeout=max(0.0, deadline - time.monotonic()))
    except FutureTimeoutError:
        seen = f"no answer within {limit_seconds:g} s"
        hint = "a network file system or the driver may hang; check the host's kernel log"
        return Section(name=name, checks=(Check(name=name, status="fail", seen=seen, hint=hint),))
    except Exception as error:  # noqa: BLE001  (an error in one group must not hide the others)
        seen = f"{type(error).__name__}: {error}"[:300]
        hint = "internal error in this check; please report it"
        return Section(name=name, checks=(Check(name=name, status="fail", seen=seen, hint=hint),))
