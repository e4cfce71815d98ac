# SPDX-License-Identifier: Apache-2.0
"""The kernels of this machine: Jupyter's own, and those of other conda environments and venvs.

A tool installed in isolation (pipx, uv) does not see the user's kernels. They are found through lists of
environments, and named ENVIRONMENT-KERNEL; the path of an environment, or of its Python, also works as a name.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_core.paths import jupyter_path

_LONGEST_LIST = 1 << 20
_ODD = re.compile(r"[^a-z0-9._-]+")


class Kernels(KernelSpecManager):  # type: ignore[misc]
    """Finds kernels in all environments; Jupyter's own take precedence."""

    def _kernel_dirs_default(self) -> list[str]:
        """Return Jupyter's folders without importing IPython, which takes 0.2 s, for the last one."""
        ours = os.path.expanduser(os.environ.get("IPYTHONDIR") or "~/.ipython")  # noqa: PTH111  (the home may be missing)
        return [*jupyter_path("kernels"), str(Path(ours, "kernels"))]

    def find_kernel_specs(self) -> dict[str, str]:
        """Return the folders of kernels by name."""
        found: dict[str, str] = super().find_kernel_specs()
        for environment in environments():
            for folder in _specs(environment):
                found.setdefault(f"{_name(environment)}-{folder.name}".lower(), str(folder))
        return found

    def get_kernel_spec(self, kernel_name: str) -> Any:
        """Return the spec for a name or for the path of an environment.

        Raises
        ------
        NoSuchKernel
            There is no such kernel.
        """
        if os.sep in kernel_name:
            return self._at(Path(kernel_name).expanduser().absolute())
        try:
            return super().get_kernel_spec(kernel_name)
        except NoSuchKernel:
            folder = self.find_kernel_specs().get(kernel_name)
            if folder is None:
                raise
            return _of_environment(Path(folder))

    def _at(self, path: Path) -> Any:
        """Return the spec of an environment, given by its folder or its Python."""
        environment = path.parent.parent if path.is_file() else path
        specs = list(_specs(environment))
        if not specs:
            raise NoSuchKernel(str(path))
        return _of_environment(next((spec for spec in specs if spec.name == "python3"), specs[0]))


def environments() -> Iterator[Path]:
    """Yield conda environments and venvs that are listed, active, or in the current folder, except our own."""
    home = Path.home()
    conda = [os.environ.get("CONDA_PREFIX"), *_lines(home / ".conda" / "environments.txt")]
    if executable := os.environ.get("CONDA_EXE"):
        conda += [str(path) for path in sorted(Path(executable).parent.parent.glob("envs/*"))]
    virtual = [os.environ.get("VIRTUAL_ENV"), ".venv", "venv"]
    virtual += [str(path) for path in sorted(Path(os.environ.get("WORKON_HOME", home / ".virtualenvs")).glob("*"))]
    seen = {Path(sys.prefix).resolve()}
    for text in filter(None, (*conda, *virtual)):
        path = Path(text).absolute()
        if path.resolve() not in seen and (path / "bin" / "python").exists():
            seen.add(path.resolve())
            yield path


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as stream:
            return stream.read(_LONGEST_LIST).decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def _specs(environment: Path) -> Iterator[Path]:
    """Yield the folders of the kernels of an environment."""
    for file in sorted(environment.glob("share/jupyter/kernels/*/kernel.json")):
        yield file.parent


def _name(environment: Path) -> str:
    """Return an environment's name: its folder's, or for a `.venv` its project's."""
    name = environment.parent.name if environment.name in {".venv", "venv"} else environment.name
    return _ODD.sub("-", name.lower()).strip("-") or "environment"


def _of_environment(folder: Path) -> Any:
    """Return the spec in a folder, adapted to use the environment's own programs."""
    environment = folder.parents[3]
    spec = KernelSpec.from_resource_dir(str(folder))
    programs = environment / "bin"
    if spec.argv and not Path(spec.argv[0]).is_absolute() and (programs / spec.argv[0]).exists():
        spec.argv = [str(programs / spec.argv[0]), *spec.argv[1:]]
    variable = "CONDA_PREFIX" if (environment / "conda-meta").is_dir() else "VIRTUAL_ENV"
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    spec.env = {variable: str(environment), "PATH": path, **spec.env}
    return spec
