# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: INP001 (scripts, no package)
"""Runs inside the build: adds our packages to a base without replacing any of its own.

    python layer.py g2       the packages of requirements-g2.lock: large, rarely changed
    python layer.py wheel    the runner itself: small, so that a new version is pulled quickly

RAPIDS is compiled against the numpy, numba, cupy and CUDA of its image; a `pip install` that
"upgrades" one of them breaks it, often hours into a run. So only packages of the lock that the base
lacks are installed, by hash and without pip's resolver, and afterwards two things are checked: every
package of the base is unchanged, and all requirements of added packages are satisfied. An incompatible
base fails the build with the reasons. `layer.json` lists the added packages with their sizes. Lock and
wheel are beside this file.
"""

from __future__ import annotations

import compileall
import importlib
import json
import os
import py_compile
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

try:
    from pip._vendor.packaging.requirements import Requirement
except ImportError:  # a base with an unbundled pip, as in distributions
    from packaging.requirements import Requirement


def canonical(name: str) -> str:
    """Return a distribution's normalized name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, metadata.Distribution]:
    """Return all distributions by normalized name."""
    importlib.invalidate_caches()
    return {canonical(one.metadata["Name"]): one for one in metadata.distributions() if one.metadata["Name"]}


def locked(text: str) -> dict[str, str]:
    """Return the entries of a lock that apply to this Python, with their hashes, by name."""
    entries = {}
    for entry in re.split(r"\n(?=\S)", text):
        line = entry.split(" \\\n")[0].strip()
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            entries[canonical(requirement.name)] = entry
    return entries


def pip(*arguments: str) -> None:
    """Install without a resolver; nothing is compiled here, see `compile_all`."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-compile",
        "--root-user-action=ignore",
    ]
    subprocess.run([*command, "--disable-pip-version-check", *arguments], check=True)


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return the packages of the base that have changed."""
    return [
        f"{name} was {version}, is {after.get(name)}" for name, version in before.items() if after.get(name) != version
    ]


def unmet(added: dict[str, metadata.Distribution], versions: dict[str, str]) -> list[str]:
    """Return unsatisfied requirements of the added packages."""
    problems = []
    for name, distribution in sorted(added.items()):
        for text in distribution.requires or ():
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            have = versions.get(canonical(requirement.name))
            if have is None or not requirement.specifier.contains(have, prereleases=True):
                problems.append(f"{name} {distribution.version} needs {requirement}, the base has {have or 'none'}")
    return problems


def files_of(distribution: metadata.Distribution) -> list[Path]:
    """Return the existing files of a distribution."""
    paths = [Path(str(distribution.locate_file(file))) for file in distribution.files or ()]
    return [path for path in paths if path.is_file()]


def leave_out_tests(distributions: list[metadata.Distribution]) -> None:
    """Remove the tests shipped in packages; helpers beside them are kept, because numpy imports one."""
    for distribution in distributions:
        for path in files_of(distribution):
            if path.parent.name == "tests" and path.name.startswith("test_"):
                path.unlink()


def compile_all(paths: list[Path]) -> None:
    """Compile in a fixed order and by content instead of time, so that builds are reproducible.

    Without bytecode each container would compile again at startup, since its user cannot write here.
    """
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    for path in sorted(paths):
        if path.suffix == ".py":
            compileall.compile_file(path, quiet=2, invalidation_mode=mode)  # skips templates that are not Python


def install_packages(folder: Path, generation: str) -> None:
    """Install the packages of the lock that the base lacks, and record the base's packages."""
    base = {name: one.version for name, one in installed().items()}
    (folder / "base.json").write_text(json.dumps(base, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    entries = locked((folder / f"requirements-{generation}.lock").read_text(encoding="utf-8"))
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write("\n".join(entry for name, entry in entries.items() if name not in base) + "\n")
        requirements.flush()
        pip("--require-hashes", "--requirement", requirements.name)
    added = [one for name, one in installed().items() if name not in base]
    leave_out_tests(added)
    compile_all([path for one in added for path in files_of(one)])


def install_wheel(folder: Path) -> None:
    """Install the runner, check the environment, and list the added packages."""
    base: dict[str, str] = json.loads((folder / "base.json").read_text(encoding="utf-8"))
    before = installed()
    pip(str(next(folder.glob("*.whl"))))
    now = installed()
    versions = {name: one.version for name, one in now.items()}
    added = {name: one for name, one in now.items() if name not in base}
    problems = changed(base, versions) + unmet(added, versions)
    if problems:
        sys.exit("this base does not fit:\n  " + "\n  ".join(problems))
    compile_all([path for name, one in now.items() if name not in before for path in files_of(one)])
    sizes = {name: sum(path.stat().st_size for path in files_of(one)) for name, one in added.items()}
    listed = [
        {"name": name, "version": versions[name], "bytes": size}
        for name, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    ]
    manifest = {"base_packages": len(base), "added": listed}
    (folder / "layer.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    print(f"added {len(listed)} packages, {sum(sizes.values()) / 1e6:.0f} MB; kept {len(base)} of the base")


if __name__ == "__main__":
    os.umask(0o022)
    here = Path(__file__).resolve().parent
    if sys.argv[1:2] == ["wheel"]:
        install_wheel(here)
    else:
        install_packages(here, generation=sys.argv[1])
