# SPDX-License-Identifier: Apache-2.0
"""The single checks of `runner validate`, on readings that this machine does not give."""

from __future__ import annotations

import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.cli import PATIENCE

from runner.core.errors import PlanError
from runner.core.records import Check
from runner.plan.model import Dataset, parse
from runner.validate import (
    check_cuda,
    check_doctors,
    check_gpus,
    check_host,
    check_network,
    check_packages,
    check_storage,
    probes,
    system,
)
from runner.validate.check_gpus import Gpus
from runner.validate.probes import Findings
from runner.validate.result import Section

TRAP = {"numba": "0.61.2"}


def gpus(driver: str | None, supported: str | None = None) -> Gpus:
    return Gpus(health={}, driver_version=driver, cuda_version=supported)


@pytest.mark.parametrize(
    ("versions", "driver", "supported", "status"),
    [
        ({"nvidia-cuda-runtime-cu12": "12.8.90"}, "570.1", "12.8", "pass"),
        ({"nvidia-cuda-runtime-cu12": "12.8.90"}, "580.1", "13.0", "pass"),
        ({"nvidia-cuda-runtime-cu12": "12.9.79"}, "550.1", "12.4", "warn"),
        ({"nvidia-cuda-runtime": "13.0.1"}, "570.1", "12.8", "fail"),
        ({"cupy-cuda13x": "13.6"}, "570.1", "12.8", "fail"),
        ({"cupy-cuda12x": "13.6"}, "535.1", "12.2", "pass"),
        ({}, "570.1", "12.8", "pass"),
        ({"cupy-cuda12x": "13.6"}, None, None, "pass"),
    ],
)
def test_a_driver_that_is_too_old_for_the_runtime_is_found(monkeypatch, tmp_path, versions, driver, supported, status):
    """Of another major version: fail. Of an older minor one: warn. Else it fits, as far as anybody can tell."""
    monkeypatch.setattr(check_cuda, "COMPAT", tmp_path / "none")
    found = check_cuda.checks(gpus(driver, supported), sys.executable, versions, {})[0]
    assert (found.name, found.status) == ("driver", status)
    assert bool(found.hint) == (status != "pass")


def test_compat_libraries_soften_an_old_driver(monkeypatch, tmp_path):
    """With them a data-center GPU may run a newer major version: a warning that says where they are."""
    monkeypatch.setattr(check_cuda, "COMPAT", tmp_path)
    found = check_cuda.checks(gpus("570.1", "12.8"), sys.executable, {"cupy-cuda13x": "13.6"}, {})[0]
    assert found.status == "warn"
    assert str(tmp_path) in found.hint


@pytest.mark.parametrize(
    ("driver", "versions", "environ", "status"),
    [
        (580, TRAP, {}, "warn"),
        (595, TRAP, {"NUMBA_CUDA_USE_NVIDIA_BINDING": "0"}, "warn"),
        (580, TRAP, {"NUMBA_CUDA_USE_NVIDIA_BINDING": "1"}, "pass"),
        (580, {"numba": "0.63.1"}, {}, "pass"),
        (570, TRAP, {}, "pass"),
        (None, TRAP, {}, "pass"),
    ],
)
def test_the_trap_of_numba_and_driver_580_is_named(driver, versions, environ, status):
    """Old numba on a new driver crashes kernels, unless the variable is set before they start."""
    found = check_cuda.numba_trap(driver, versions, environ)
    assert (found.name, found.status) == ("numba and driver 580", status)
    if status == "warn":
        assert "NUMBA_CUDA_USE_NVIDIA_BINDING=1" in found.hint


@pytest.mark.parametrize(
    ("finding", "status", "seen"),
    [
        ({"cupy": "13.6", "right": True, "runtime": 12080}, "pass", "correct"),
        ({"cupy": "13.6", "right": False, "runtime": 12080}, "fail", "wrong sum"),
        ({"cupy": "13.6", "right": None, "reason": "CUDARuntimeError: no kernel image"}, "fail", "no kernel image"),
        ({"cupy": None, "missing": True, "reason": "ModuleNotFoundError"}, "pass", "not installed"),
        ({"cupy": None, "missing": False, "reason": "ImportError: libnvrtc"}, "fail", "libnvrtc"),
    ],
)
def test_the_number_that_cupy_computes_is_judged(finding, status, seen):
    """Right, wrong, raised, absent and broken are five different things."""
    check = check_cuda.computation(Findings(found=(finding,)), {})
    assert check.status == status
    assert seen in check.seen


def test_a_computation_that_crashes_is_a_failure():
    """A signal instead of an answer is told as such."""
    check = check_cuda.computation(Findings(found=(), ended="killed by SIGSEGV"), {})
    assert (check.status, check.seen) == ("fail", "killed by SIGSEGV")


def test_a_machine_without_libcuda_is_told_by_the_probe():
    """The probe really runs here; where there is no driver it says so, and cupy is not started."""
    findings = probes.run(sys.executable, "probe_cuda.py", seconds=PATIENCE)
    assert "libcuda" in findings.merged
    assert not findings.ended


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), 11)", "raise SystemExit(3)", "raise ValueError('odd')"])
def test_a_module_that_breaks_on_import_is_named(monkeypatch, tmp_path, how):
    """A crash, an exit and an exception each name the module; others are still judged."""
    (tmp_path / "bad_module.py").write_text(f"import os\n{how}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    env = check_packages.read(sys.executable, ["bad_module", "yaml"], gpu=True)
    checks = {
        check.name: check for check in check_packages.checks(env, {"bad_module": ["nb"], "yaml": ["nb"]}, gpu=True)
    }
    assert checks["import bad_module"].status == "fail"
    assert checks["import yaml"].status == "pass"
    without = {check.name: check for check in check_packages.checks(env, {"bad_module": ["nb"]}, gpu=False)}
    assert without["import bad_module"].status == "warn"


@pytest.mark.parametrize("name", [path.stem for path in Path(check_cuda.__file__).parent.glob("[a-z]*.py")])
def test_no_module_of_ours_hides_a_library_from_the_probes(monkeypatch, tmp_path, name):
    """A library called `cuda` is imported, and not our module of that name."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("import os\nos.write(2, b'the library')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    findings = probes.run(sys.executable, "probe_imports.py", ["60", name], seconds=PATIENCE)
    assert name in check_packages.environment(findings).imported
    assert findings.last_words.endswith("the library")


def test_an_import_without_end_does_not_hold_us(monkeypatch, tmp_path):
    """What was not imported within the time limit is judged by its presence."""
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(check_packages, "_SECONDS_WITHOUT_GPU", 0.5)
    monkeypatch.setattr(check_packages, "_GRACE_SECONDS", 5.0)
    env = check_packages.read(sys.executable, ["slow_module"], gpu=False)
    (check,) = (
        one for one in check_packages.checks(env, {"slow_module": ["nb"]}, gpu=False) if one.name.startswith("import")
    )
    assert check.status == "pass"
    assert "not imported within the time limit" in check.seen


def test_requirements_that_are_not_met_are_conflicts():
    """Missing and too old are told with who asks; markers and extras that do not hold are left out."""
    env = check_packages.Environment(
        python="3.12.1",
        versions={"a": "1.0", "b": "1.0"},
        requires={
            "a": ["b>=2", "c", "d; extra == 'x'", "e; python_version < '3'", "b<5"],
            "b": ["not a requirement !"],
        },
        present={},
        imported=frozenset(),
        broken={},
    )
    check = check_packages.conflicts(env)
    assert check.status == "warn"
    assert check.seen == "a 1.0 needs b>=2, found 1.0; a 1.0 needs c, which is missing"


def test_the_deprecated_distribution_is_named():
    """`pynvml` hides the module of nvidia-ml-py."""
    assert check_packages.deprecated_pynvml({"nvidia-ml-py": "13"}).status == "pass"
    assert check_packages.deprecated_pynvml({"pynvml": "11.5.3"}).status == "warn"


def test_a_python_that_does_not_start_is_a_failure():
    """The reason is what is seen."""
    env = check_packages.read("/no/such/python", [], gpu=False)
    (check,) = check_packages.checks(env, {}, gpu=False)
    assert (check.status, check.name) == ("fail", "python")
    assert "/no/such/python" in check.seen


def test_a_folder_is_left_as_it_was(tmp_path):
    """Nothing of ours stays, neither in a folder that was there nor of one that was not."""
    (tmp_path / "there").mkdir()
    statuses = [check.status for check in check_storage.checks("outputs", tmp_path / "there", must_write=True)]
    assert "fail" not in statuses
    assert list((tmp_path / "there").iterdir()) == []
    check_storage.checks("outputs", tmp_path / "new" / "deep", must_write=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere; the image tests check it as another uid")
def test_a_folder_of_others_is_told_with_the_fs_group(tmp_path):
    """Uid, owner and mode stand in the message."""
    tmp_path.chmod(0o555)
    (check,) = check_storage.checks("outputs", tmp_path, must_write=True)
    assert check.status == "fail"
    assert "fsGroup" in check.hint


def test_a_file_where_the_folder_should_be_is_a_failure(tmp_path):
    """Not a traceback."""
    (tmp_path / "file").write_text("")
    (check,) = check_storage.checks("outputs", tmp_path / "file", must_write=True)
    assert (check.status, check.name) == ("fail", "outputs writable")
    (check,) = check_storage.checks("cache", tmp_path / "file", must_write=False)
    assert check.status == "warn"


@pytest.mark.parametrize(
    ("free", "inodes", "status"),
    [(10**12, 10**6, "pass"), (10**6, 10**6, "warn"), (10**12, 50, "warn"), (10**12, None, "pass")],
)
def test_space_and_inodes_are_judged(monkeypatch, tmp_path, free, inodes, status):
    """Few inodes end a zarr store as surely as few bytes; some file systems count none."""
    figures = SimpleNamespace(
        f_bavail=free // 4096, f_frsize=4096, f_files=0 if inodes is None else 10**7, f_favail=inodes
    )
    monkeypatch.setattr(check_storage.os, "statvfs", lambda path: figures)
    assert check_storage._space("outputs", tmp_path).status == status


def test_limits_matter_where_there_are_gpus(monkeypatch):
    """The usual 8 MB of locked memory and stack pass on a laptop and warn beside a GPU, with docker's option."""
    monkeypatch.setattr(check_host.resource, "getrlimit", lambda which: (8 << 20, 8 << 20))
    assert {check.status for check in check_host.limits(gpu=False)} == {"pass"}
    found = check_host.limits(gpu=True)
    assert {check.status for check in found} == {"warn"}
    assert "--ulimit memlock=-1" in found[0].hint
    assert "--ulimit stack=67108864" in found[1].hint


def test_a_small_shm_warns_where_there_are_gpus(monkeypatch):
    """Docker's 64 MB are too little for UCX, NCCL and Dask."""
    monkeypatch.setattr(check_host, "shm_free_bytes", lambda: 64 << 20)
    assert check_host.shared_memory(gpu=True).status == "warn"
    assert "--shm-size=1g" in check_host.shared_memory(gpu=True).hint
    assert check_host.shared_memory(gpu=False).status == "pass"


def test_caches_that_cannot_be_written_are_named(tmp_path):
    """A read-only root without a writable /tmp is found before matplotlib and numba warn."""
    (tmp_path / "file").write_text("")
    (check,) = check_host.caches({"HOME": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "file" / "numba")})
    assert check.status == "warn"
    assert "NUMBA_CACHE_DIR" in check.seen
    assert "HOME" not in check.seen


def test_a_clock_before_our_own_files_fails(monkeypatch):
    """A machine that woke up in 1970 cannot check a certificate."""
    monkeypatch.setattr(check_host.time, "time", lambda: 0.0)
    assert check_host.clock().status == "fail"


@pytest.fixture
def server():
    """Give the address of a server that answers HEAD by its path."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            code = int(self.path.strip("/").split("/")[0])
            self.send_response(code)
            self.send_header("Content-Length", "123")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [("200", 123, "pass"), ("200", None, "pass"), ("200", 5, "warn"), ("404", 123, "fail"), ("403", 123, "warn")],
)
def test_each_dataset_is_asked_for(monkeypatch, server, path, size, status):
    """Reachable and of the right size; moved upstream; gone; refused to strangers."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    check = check_network._reach("d", Dataset(url=f"{server}/{path}", path="d.h5ad", bytes=size))
    assert check.status == status


def test_a_host_that_is_not_there_is_told_by_reason(monkeypatch):
    """A name that does not resolve is no firewall; neither shows the address with its secrets."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    check = check_network._reach("d", Dataset(url="https://no-such-host.invalid/f?token=hush", path="d"))
    assert check.status == "fail"
    assert "hush" not in check.seen + check.hint
    assert "resolve" in check.seen


def test_a_check_that_hangs_is_a_failure_and_not_a_hang():
    """After the limit the group is told as failed and the others stand."""
    release = threading.Event()
    groups = {
        "hangs": lambda: [release.wait(600)][:0],
        "fine": lambda: [Check(name="x", status="pass", seen="y")],
    }
    hangs, fine = system._run_concurrently(groups, 0.3)
    release.set()
    assert hangs.checks[0].status == "fail"
    assert "no answer within" in hangs.checks[0].seen
    assert fine.checks[0].status == "pass"


def test_a_fault_of_one_group_hides_no_other():
    """An exception becomes a failed check of its group."""
    groups = {"broken": lambda: 1 / 0, "fine": lambda: [Check(name="x", status="pass", seen="y")]}
    broken, fine = system._run_concurrently(groups, 30)
    assert "ZeroDivisionError" in broken.checks[0].seen
    assert fine.checks[0].status == "pass"


def test_the_probe_of_a_process_that_does_not_end_is_killed(monkeypatch, tmp_path):
    """What it said until then is kept."""
    (tmp_path / "probe.py").write_text("import time\nprint('{\"a\": 1}', flush=True)\ntime.sleep(600)\n")
    monkeypatch.setattr(probes, "HERE", tmp_path)
    findings = probes.run(sys.executable, "probe.py", seconds=2)
    assert findings.merged == {"a": 1}
    assert "still running after 2 s" in findings.ended


def test_most_gpus_counts_what_must_run():
    """Optional notebooks make no GPU necessary."""
    from runner.plan.model import parse

    text = "version: 1\nname: p\nnotebooks:\n- {name: a, path: a.ipynb, requires: {gpus: 2}}\n"
    text += "- {name: b, path: b.ipynb, optional: true, requires: {gpus: 8}}\n"
    asked = SimpleNamespace(plan=parse(text, "p"), requirements=SimpleNamespace(gpus=1, gpu_memory_gb=None))
    assert check_gpus.most_gpus(asked) == 2


@pytest.mark.parametrize(
    ("installed", "status"),
    [
        ({"rapids-singlecell": "0.18.1"}, "pass"),
        ({"rapids-singlecell-cu13": "0.18.1"}, "pass"),
        ({"rapids-singlecell-cu12": "0.14.1"}, "warn"),
        ({"rapids-singlecell-extras": "0.18.1"}, "warn"),
        ({}, "warn"),
    ],
)
def test_what_a_plan_was_written_for_is_compared_with_what_is_installed(installed, status):
    """Before hours are spent: also a wheel for one CUDA, whose name says so; a warning names both versions."""
    (check,) = check_packages.fits(installed, {"rapids_singlecell": ">=0.18,<0.19"})
    assert check.status == status
    assert ">=0.18,<0.19" in check.needed
    assert bool(check.hint) == (status == "warn")
    assert check.seen == (
        " ".join(next(iter(installed.items()))) if "extras" not in str(installed) and installed else "not installed"
    )


def test_a_range_of_versions_that_is_none_is_a_plan_error():
    """With what one looks like."""
    text = '{"version": 1, "name": "p", "notebooks": [{"name": "n", "path": "n.ipynb"}], "fits": {"x": "0.18"}}'
    with pytest.raises(PlanError, match=r"fits\.x: '0\.18' is not a valid version range"):
        parse(text, "plan.yaml")


@pytest.mark.parametrize(("code", "status"), [(0, "pass"), (3, "fail")])
def test_the_checks_of_the_libraries_are_called_where_they_are_installed(tmp_path, code, status):
    """Those that stand beside the kernel's Python, with the end of what they say."""
    assert list(check_doctors.checks(str(tmp_path / "python"))) == []
    doctor = tmp_path / "rapids"
    doctor.write_text(f"#!/bin/sh\nprintf 'long\\n\\033[31mGPU %s\\n' $1\nexit {code}\n")
    doctor.chmod(0o755)
    (tmp_path / "rapids-singlecell-check-kernel").write_text("not executable")
    first, second = check_doctors.checks(str(tmp_path / "python"))
    assert (first.name, first.status) == ("rapids doctor", status)
    assert first.seen.endswith("GPU doctor")
    assert "\x1b" not in first.seen
    assert second.status == "warn"


def test_ours_is_found_by_the_doctor_of_rapids(monkeypatch):
    """By its entry point; a failed check is an exception with its hint, and no doctor calls the other for ever."""
    (entry,) = metadata.entry_points(group="rapids_doctor_check", name="runner")
    asked = []
    bad = Check(name="disk", status="fail", seen="full", hint="free some")

    def validate(given):
        asked.append(given)
        return SimpleNamespace(sections=(Section(name="storage", checks=(bad,)),))

    monkeypatch.setattr(system, "validate", validate)
    with pytest.raises(RuntimeError, match=r"disk: full \(free some\)"):
        entry.load()(verbose=True)
    assert [one.doctors for one in asked] == [False]
