# SPDX-License-Identifier: Apache-2.0
"""Checks of the Python environment: the notebooks' imports, versions, and known incompatibilities."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion

from runner.core.records import Check
from runner.validate import probes

if TYPE_CHECKING:
    from runner.validate.probes import Findings

_SECONDS_WITHOUT_GPU = 5.0
_SECONDS_WITH_GPU = 45.0
_GRACE_SECONDS = 3.0
_SHOWN = 6
_CUDA_WHEEL = re.compile(r"-cu(?:da)?\d{2}x?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Packages of a kernel's Python: versions and requirements by canonical name, and results of imports."""

    python: str
    versions: Mapping[str, str]
    requires: Mapping[str, Sequence[str]]
    present: Mapping[str, bool]
    imported: frozenset[str]
    broken: Mapping[str, str]
    problem: str = ""


def read(python: str, modules: Sequence[str], *, gpu: bool) -> Environment:
    """List a Python's distributions and let it import the modules, within a time limit."""
    seconds = _SECONDS_WITH_GPU if gpu else _SECONDS_WITHOUT_GPU
    findings = probes.run(python, "probe_imports.py", [str(seconds), *modules], seconds=seconds + _GRACE_SECONDS)
    return environment(findings)


def environment(findings: Findings) -> Environment:
    """Return the probe's findings; a module whose import killed it is broken."""
    merged = findings.merged
    listed: list[Any] = merged.get("distributions", [])
    broken = {one["broken"]: one["reason"] for one in findings.found if "broken" in one}
    imported = frozenset(one["imported"] for one in findings.found if "imported" in one)
    started = [one["importing"] for one in findings.found if "importing" in one]
    if findings.ended.startswith("killed") and started and started[-1] not in imported | broken.keys():
        broken[started[-1]] = f"the import killed Python: {findings.ended}"
    return Environment(
        python=str(merged.get("python", "")),
        versions={canonical(name): version for name, version, _ in listed},
        requires={canonical(name): requires for name, _, requires in listed},
        present=merged.get("present", {}),
        imported=imported,
        broken=broken,
        problem="" if listed else "; ".join(filter(None, [findings.ended, findings.last_words])) or "no answer",
    )


def canonical(name: str) -> str:
    """Return a distribution's normalized name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def checks(env: Environment, users: Mapping[str, Sequence[str]], *, gpu: bool) -> tuple[Check, ...]:
    """Return the checks.

    Parameters
    ----------
    env
        The kernel's packages.
    users
        Names of notebooks by imported module.
    gpu
        Whether a GPU is visible; without one, CUDA libraries may fail to import.
    """
    if env.problem:
        hint = "repair the kernel's Python, or choose another kernel"
        return (Check(name="python", status="fail", seen=env.problem, hint=hint),)
    return (
        Check(name="python", status="pass", seen=f"{env.python}, {len(env.versions)} distributions"),
        *(_import(env, module, names, gpu=gpu) for module, names in sorted(users.items())),
        conflicts(env),
        deprecated_pynvml(env.versions),
    )


def fits(versions: Mapping[str, str], wanted: Mapping[str, str]) -> Iterator[Check]:
    """Compare the installed versions with those that a plan was written for.

    Wheels for a CUDA version count as their package: `rapids-singlecell-cu13` is rapids-singlecell.
    """
    from packaging.specifiers import SpecifierSet

    for name, text in wanted.items():
        plain = canonical(name)
        found = next(
            ((one, version) for one, version in versions.items() if one == plain or _CUDA_WHEEL.sub("", one) == plain),
            None,
        )
        check = Check(name=f"plan fits {name}", status="pass", seen="not installed", needed=f"{name}{text}")
        if found is None:
            hint = "install it, or use an image for this plan's generation of notebooks"
            yield replace(check, status="warn", hint=hint)
        elif SpecifierSet(text).contains(found[1], prereleases=True):
            yield replace(check, seen=" ".join(found))
        else:
            hint = (
                "notebooks may fail after hours: use the plan or the image of the other generation, or correct `fits`"
            )
            yield replace(check, status="warn", seen=" ".join(found), hint=hint)


def _import(env: Environment, module: str, names: Sequence[str], *, gpu: bool) -> Check:
    by = f"by {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    version = env.versions.get(canonical(module))
    label = f"import {module}"
    if not env.present.get(module):
        hint = "install it into the image; nothing is installed at run time"
        return Check(name=label, status="fail", seen="not installed", needed=by, hint=hint)
    if module in env.broken:
        hint = "may be due to the missing GPU; otherwise this notebook fails" if not gpu else "see the reason"
        return Check(name=label, status="fail" if gpu else "warn", seen=env.broken[module], needed=by, hint=hint)
    how = "" if module in env.imported else "found, not imported within the time limit"
    return Check(name=label, status="pass", seen=", ".join(filter(None, [version, how])) or "imported", needed=by)


def conflicts(env: Environment) -> Check:
    """Check for unsatisfied requirements of installed distributions."""
    found = [
        f"{name} {env.versions[name]} {problem}"
        for name, lines in sorted(env.requires.items())
        for line in lines
        if (problem := _unmet(line, env.versions))
    ]
    if not found:
        return Check(name="conflicts", status="pass", seen="none")
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    hint = "install compatible versions; `pip check` lists all conflicts"
    return Check(name="conflicts", status="warn", seen="; ".join(found[:_SHOWN]) + more, needed="none", hint=hint)


def _unmet(line: str, versions: Mapping[str, str]) -> str | None:
    try:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            return None
        have = versions.get(canonical(requirement.name))
        if have is None:
            return f"needs {requirement.name}, which is missing"
        if not requirement.specifier.contains(have, prereleases=True):
            return f"needs {requirement.name}{requirement.specifier}, found {have}"
    except (InvalidRequirement, InvalidVersion):
        return None  # invalid metadata of a package does not concern this system
    return None


def deprecated_pynvml(versions: Mapping[str, str]) -> Check:
    """Check for the distribution `pynvml`, which shadows the module of nvidia-ml-py or warns on import."""
    name = "pynvml distribution"
    if "pynvml" not in versions:
        return Check(name=name, status="pass", seen="absent")
    hint = "uninstall `pynvml`; `nvidia-ml-py` provides the module of that name"
    return Check(name=name, status="warn", seen=f"pynvml {versions['pynvml']}, deprecated", needed="absent", hint=hint)
