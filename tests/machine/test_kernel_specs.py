# SPDX-License-Identifier: Apache-2.0
"""Kernels of other environments: found, named, and run with their own programs."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from support import cli, notebooks

from runner.core.errors import BrokenInputError
from runner.machine.kernel_specs import Kernels, environments
from runner.stages.execute.kernel import check_kernel


def environment(folder: Path, kernel: str = "python3", *, argv: list[str] | None = None) -> Path:
    """Make what counts of an environment: a Python and a kernel spec."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    spec = folder / "share" / "jupyter" / "kernels" / kernel
    spec.mkdir(parents=True)
    argv = argv or ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Other", "language": "python"}))
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Give an empty home without environments of ours."""
    for name in ("CONDA_PREFIX", "CONDA_EXE", "VIRTUAL_ENV", "WORKON_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".conda").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_environments_are_found_where_tools_list_them(home, tmp_path, monkeypatch):
    """Conda's list, the folder of its installation, virtualenvs, the active one, and the project's; each once."""
    listed, base = environment(tmp_path / "Rapids 26"), environment(tmp_path / "forge" / "envs" / "cpu", "ir")
    (home / ".conda" / "environments.txt").write_bytes(f"{listed}\n{tmp_path}/gone\n\xff\n{listed}\n".encode("latin-1"))
    monkeypatch.setenv("CONDA_EXE", str(tmp_path / "forge" / "bin" / "conda"))
    work = environment(home / ".virtualenvs" / "work")
    project = environment(tmp_path / "study" / ".venv")
    monkeypatch.chdir(tmp_path / "study")
    monkeypatch.setenv("VIRTUAL_ENV", str(project))

    assert list(environments()) == [listed, base, project, work]
    assert {"rapids-26-python3", "cpu-ir", "work-python3", "study-python3"} <= set(Kernels().find_kernel_specs())


@pytest.mark.parametrize("conda", [False, True])
def test_a_kernel_of_an_environment_runs_with_its_programs(home, tmp_path, monkeypatch, conda):
    """By name, by folder and by Python; absolute paths from a relative one."""
    folder = environment(home / ".virtualenvs" / "other")
    if conda:
        (folder / "conda-meta").mkdir()
    monkeypatch.chdir(home)

    for name in (
        "other-python3",
        str(folder),
        ".virtualenvs/other",
        str(folder / "bin" / "python"),
        "~/.virtualenvs/other",
    ):
        spec = Kernels().get_kernel_spec(name)
        assert spec.argv[0] == str(folder / "bin" / "python")
        assert spec.env["CONDA_PREFIX" if conda else "VIRTUAL_ENV"] == str(folder)
        assert spec.env["PATH"].startswith(f"{folder}/bin:")


def test_what_is_no_environment_has_no_kernel(home, tmp_path):
    """A folder without one, and a name that nothing has."""
    (tmp_path / "empty").mkdir()
    for name in (str(tmp_path / "empty"), "./none", "nobody"):
        with pytest.raises(NoSuchKernel):
            Kernels().get_kernel_spec(name)


@pytest.mark.parametrize(("there", "said"), [(True, "has no Jupyter kernel"), (False, "does not exist")])
def test_a_path_without_a_kernel_is_refused_as_a_path(home, tmp_path, there, said):
    """The message is about the environment and not about a kernel's name."""
    environment = tmp_path / "env"
    if there:
        environment.mkdir()
    with pytest.raises(BrokenInputError, match=f"the environment '{environment}' {said}"):
        check_kernel(str(environment))


def test_a_notebook_runs_in_another_environment(tmp_path, monkeypatch):
    """A venv of its own, with our startup code in its kernel: the commands that failed are told."""
    venv.create(tmp_path / "other" / ".venv", system_site_packages=False, with_pip=False)
    site = subprocess.run(
        [tmp_path / "other" / ".venv" / "bin" / "python", "-c", "import site; print(site.getsitepackages()[0])"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    Path(site, "borrowed.pth").write_text(ours)
    spec = tmp_path / "other" / ".venv" / "share" / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    argv = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Other", "language": "python"}))
    notebooks.write(tmp_path / "n.ipynb", "import sys", "print('in', sys.prefix)", "!exit 3")

    listed = cli.runner("kernels", "--json", cwd=tmp_path / "other")
    ended = cli.runner("run", "../n.ipynb", "--kernel", "other-python3", "--no-html", cwd=tmp_path / "other")

    assert "other-python3" in [each["name"] for each in json.loads(listed.out)["kernels"]]
    assert ended.code == 0, ended.err
    folder = tmp_path / "other" / "outputs"
    assert f"in {tmp_path}/other/.venv" in cli.text_of(cli.executed(folder, "n"))
    assert "exit status 3" in json.dumps(cli.metrics(folder, "n")["warnings"])


@pytest.mark.parametrize("given", [None, "~/mine"])
def test_kernels_are_looked_for_where_jupyter_does_without_its_import_of_ipython(home, monkeypatch, given):
    """The same folders in the same order; IPython takes longer to import than all of `runner --help`."""
    if given:
        monkeypatch.setenv("IPYTHONDIR", given)
    else:
        monkeypatch.delenv("IPYTHONDIR", raising=False)
    assert Kernels().kernel_dirs == KernelSpecManager().kernel_dirs
    asked = (
        "import sys\nfrom runner.machine.kernel_specs import Kernels\n"
        "Kernels().find_kernel_specs()\nassert 'IPython' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", asked], check=True)
