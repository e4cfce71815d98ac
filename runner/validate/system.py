# SPDX-License-Identifier: Apache-2.0
"""Runs all checks side by side, each group within its time, and gives one record.

The GPUs are looked at first, because other checks are stricter where there are some.
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
from runner.validate import check_gpus, check_kernels, check_packages, notebook_imports
from runner.validate.result import Asked, Section, Validation, counts, worst

Group = Callable[[], Sequence[Check]]


def validate(asked: Asked, environ: Mapping[str, str] | None = None) -> Validation:
    """Check this system against what is asked and return what was found."""
    environ = os.environ if environ is None else environ
    started_at, started = log.utc_now(), time.monotonic()
    gpus, section = _gpus(asked, environ)
    gpu = bool(gpus.seen) or check_gpus.most_gpus(asked) > 0
    wants = notebook_imports.of_plan(asked.plan, asked.checkout, asked.kernel)
    groups: dict[str, Group] = {
        "python": lambda: _python(asked, wants, gpus, environ),
        "kernels": lambda: [check_kernels.check(name, asked.checkout) for name in wants.kernels],
        "storage": lambda: _storage(asked),
        "host": lambda: _host(asked, environ, gpu=gpu),
    }
    if asked.network:
        groups["network"] = lambda: _network(asked)
    sections = (section, *_side_by_side(groups, asked.limit_seconds))
    return Validation(
        verdict=worst(sections),
        hostname=platform.node(),
        runner_version=__version__,
        image=environ.get("RUNNER_IMAGE") or None,
        plan=str(asked.plan_path) if asked.plan_path else None,
        started_at=started_at,
        wall_seconds=round(time.monotonic() - started, 3),
        counts=counts(sections),
        sections=sections,
    )


def _gpus(asked: Asked, environ: Mapping[str, str]) -> tuple[check_gpus.Gpus, Section]:
    """Look at the GPUs; a driver that hangs is a finding like any other."""
    looks: list[check_gpus.Gpus] = []

    def look() -> Sequence[Check]:
        looks.append(check_gpus.look(environ))
        return check_gpus.checks(looks[0], asked)

    section = _side_by_side({"gpus": look}, asked.limit_seconds)[0]
    return (looks[0] if looks else check_gpus.Gpus(health={})), section


def _python(
    asked: Asked, wants: notebook_imports.Needs, gpus: check_gpus.Gpus, environ: Mapping[str, str]
) -> list[Check]:
    from runner.validate import check_cuda, check_doctors

    found = list(wants.checks)
    seen_pythons: set[str] = set()
    for kernel, notebooks in wants.kernels.items():
        python = check_kernels.python_of(kernel)
        if python is None or python in seen_pythons:
            continue  # of a kernel that is missing the kernels' own check tells
        seen_pythons.add(python)
        users = {
            module: [name for name in names if name in notebooks]
            for module, names in wants.modules.items()
            if set(names) & set(notebooks)
        }
        env = check_packages.read(python, sorted(users), gpu=bool(gpus.seen))
        found += check_packages.checks(env, users, gpu=bool(gpus.seen))
        found += check_packages.fits(env.versions, asked.plan.fits if asked.plan else {})
        found += check_cuda.checks(gpus, python, env.versions, environ)
        if gpus.seen and asked.doctors:
            found += check_doctors.checks(python)
    return found


def _storage(asked: Asked) -> list[Check]:
    from runner.validate import check_storage

    found: list[Check] = []
    tried: set[Path] = set()
    for label, folder in asked.folders.items():
        if folder.resolve() not in tried:
            tried.add(folder.resolve())
            found += check_storage.checks(label, folder, must_write=label == "outputs")
    return found


def _host(asked: Asked, environ: Mapping[str, str], *, gpu: bool) -> list[Check]:
    from runner.validate import check_host

    return check_host.checks(asked.plan, asked.requirements, asked.folders["outputs"], environ, gpu=gpu)


def _network(asked: Asked) -> Sequence[Check]:
    from runner.validate import check_network

    return check_network.checks(asked.plan)


def _side_by_side(groups: Mapping[str, Group], limit_seconds: float) -> tuple[Section, ...]:
    """Run each group in a thread of its own; what has not answered in time failed.

    The threads are daemons: one that hangs in the kernel does not keep us from ending.
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
        except BaseException as error:  # noqa: BLE001  (handed over to the one who waits)
            future.set_exception(error)

    threading.Thread(target=work, name=f"validate-{name}", daemon=True).start()
    return future


def _collect(name: str, future: Future[Section], deadline: float, limit_seconds: float) -> Section:
    try:
        return future.result(timeout=max(0.0, deadline - time.monotonic()))
    except FutureTimeoutError:
        seen = f"no answer within {limit_seconds:g} s"
        hint = "something hangs: a network file system or the driver; look at the host's kernel log"
        return Section(name=name, checks=(Check(name=name, status="fail", seen=seen, hint=hint),))
    except Exception as error:  # noqa: BLE001  (one group's fault hides no other group)
        seen = f"{type(error).__name__}: {error}"[:300]
        hint = "this check itself went wrong; please report it"
        return Section(name=name, checks=(Check(name=name, status="fail", seen=seen, hint=hint),))
