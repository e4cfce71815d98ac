# SPDX-License-Identifier: Apache-2.0
"""A failed notebook that is held waits with its kernel for a repair, and ends as the failure it was without one."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from simdriver import Device, hold_source
from support import cli, notebooks

NEEDS_FILE = "import pathlib\nif not pathlib.Path('mended').exists():\n    raise ValueError('not mended')"


def begin(
    tmp_path: Path, *cells: str, hold: str = "hold=10m", options: tuple[object, ...] = (), env: Any = None
) -> subprocess.Popen[str]:
    """Start a run and return when it is held."""
    source = notebooks.write(tmp_path / "n.ipynb", *cells)
    process = cli.start("run", source, "--output-dir", tmp_path / "out", "--on-failure", hold, *options, env=env)
    wait_for_hold(tmp_path)
    return process


def wait_for_hold(tmp_path: Path, times: int = 1) -> None:
    log = tmp_path / "out" / "n.log"
    cli.until(lambda: log.exists() and log.read_text().count(" held level=warning") >= times, "the hold")
    cli.until(lambda: (claim := running(tmp_path)) and claim["held_until"], "the claim's word of it")


def running(tmp_path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        return json.loads((tmp_path / "out" / "n.running").read_text())
    return None


def repair(tmp_path: Path, *arguments: object) -> cli.Ended:
    return cli.runner("repair", "n", "--output-dir", tmp_path / "out", *arguments)


def end(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=cli.PATIENCE)
    return process.returncode


def test_of_forty_cells_failing_at_thirty_only_the_last_eleven_run_after_the_repair(tmp_path: Path) -> None:
    """The kernel is the same process, and what the earlier cells made is there; each cell's runs are recorded."""
    cells = ["import os; ran = []", *(f"ran.append({n}); pid = os.getpid()" for n in range(2, 41))]
    cells[29] = "raise ValueError('at thirty')"
    cells.append("print('pid', os.getpid() == pid, ran)")
    process = begin(tmp_path, *cells)
    early = cli.metrics(tmp_path / "out", "n")
    assert (early["status"], early["provisional"], early["stage"]) == ("failed", True, "held")
    assert early["failure"]["cell_index"] == 29
    assert "at thirty" in cli.text_of(cli.executed(tmp_path / "out", "n"))
    cli.until((tmp_path / "out" / "n.html").exists, "the page")
    assert "at thirty" in (tmp_path / "out" / "n.html").read_text()

    (tmp_path / "fixed.py").write_text("ran.append(30)\n")
    mended = repair(tmp_path, "--cell", 30, "--source", tmp_path / "fixed.py")
    assert mended.code == 0, mended.err
    assert "continuing from cell 30" in mended.out
    assert end(process) == 0

    record = cli.metrics(tmp_path / "out", "n")
    assert (record["status"], record["repaired"], record["provisional"]) == ("succeeded", True, False)
    assert record["held_seconds"] > 0
    assert record["failure"] is None
    assert [len(cell["runs"]) for cell in record["cells"]] == [1] * 29 + [2] + [1] * 11
    first, second = (run["source_sha256"] for run in record["cells"][29]["runs"])
    assert first != second
    executed = cli.executed(tmp_path / "out", "n")
    assert f"pid True {list(range(2, 41))}" in cli.text_of(executed)
    marked = [cell for cell in executed.cells if "repaired" in cell.metadata.get("runner", {})]
    assert [(cell.source, cell.metadata.runner.repaired.old_source) for cell in marked] == [
        ("ran.append(30)", "raise ValueError('at thirty')")
    ]
    assert any(
        "raise ValueError('at thirty')" in cell.source for cell in executed.cells if cell.cell_type == "markdown"
    )


def test_a_report_on_a_held_notebook_does_not_contradict_how_it_ends(tmp_path: Path) -> None:
    """What was said of it while it was held is not judged as if it had ended so."""
    process = begin(tmp_path, "raise ValueError")
    assert cli.runner("report", tmp_path / "out").code == 0
    assert cli.runner("verify", tmp_path / "out").code == 0
    (tmp_path / "fixed.py").write_text("print('mended')")
    assert repair(tmp_path, "--cell", 1, "--source", tmp_path / "fixed.py").code == 0
    assert end(process) == 0
    verified = cli.runner("verify", tmp_path / "out")
    assert verified.code == 0, verified.out


def test_a_retry_that_fails_is_held_again_and_the_next_one_succeeds(tmp_path: Path) -> None:
    """The cause may lie outside the notebook."""
    process = begin(tmp_path, "x = 1", NEEDS_FILE, "print('x is', x)")
    again = repair(tmp_path, "--retry")
    assert (again.code, "held again" in again.out) == (1, True)

    (tmp_path / "mended").touch()
    assert repair(tmp_path, "--retry").code == 0
    assert end(process) == 0
    assert [len(cell["runs"]) for cell in cli.metrics(tmp_path / "out", "n")["cells"]] == [1, 3, 1]
    assert "x is 1" in cli.text_of(cli.executed(tmp_path / "out", "n"))


def test_without_a_choice_the_traceback_is_shown_and_the_hold_goes_on(tmp_path: Path) -> None:
    """Looking changes nothing; giving up ends the notebook as the failure it is."""
    process = begin(tmp_path, "raise ValueError('look at me')")
    shown = repair(tmp_path)
    assert (shown.code, "ValueError: look at me" in shown.out) == (0, True)
    assert running(tmp_path)["held_until"]

    given_up = repair(tmp_path, "--give-up")
    assert (given_up.code, end(process)) == (1, 1)
    record = cli.metrics(tmp_path / "out", "n")
    assert (record["status"], record["provisional"], record["repaired"]) == ("failed", False, False)
    assert any("given up" in warning for warning in record["warnings"])
    assert repair(tmp_path, "--retry").code == 2  # nothing is held any more


@pytest.mark.parametrize("how", ["expiry", "SIGTERM"])
def test_a_hold_that_ends_frees_the_gpu_and_proves_it(tmp_path: Path, simulated_driver, how: str) -> None:
    """While it is held the GPU is in use; afterwards its memory is back at the baseline, and the lock is free."""
    gpu = Device()
    simulated_driver.write(gpu)
    hold = "hold=3s" if how == "expiry" else "hold=10m"
    source = hold_source(gpu.uuid, 5 * 10**9)
    options = ("--min-gpus", 1)
    process = begin(tmp_path, source, "raise ValueError", hold=hold, options=options, env=simulated_driver.env)
    other = notebooks.write(tmp_path / "other.ipynb", "1")
    refused = cli.runner(
        "run", other, "--output-dir", tmp_path / "out", "--run-id", "x", *options, env=simulated_driver.env
    )
    assert refused.code == 3 or how == "expiry"  # which may have come by now
    if how == "SIGTERM":
        process.terminate()
    assert end(process) == 1

    record = cli.metrics(tmp_path / "out", "n")
    assert (record["status"], record["exit_code"], record["release"]["released"]) == ("failed", 1, True)
    assert record["release"]["seconds"] < 5
    assert cli.runner("gate", "--min-gpus", 1, env=simulated_driver.env).code == 0


def test_a_held_notebook_counts_as_failed_until_its_repair_and_is_lost_to_nobody(tmp_path: Path) -> None:
    """The report says until when and how to go on; once the runner is gone the failure stands."""
    process = begin(tmp_path, "x = 1", "raise ValueError('no')")
    report = ("report", tmp_path / "out", "--fail-on-failure")
    assert cli.runner(*report).code == 1
    (nb,) = json.loads((tmp_path / "out" / "reports" / "summary.json").read_text())["notebooks"]
    assert (nb["status"], nb["ok"], nb["failed_cell"]) == ("held", False, 1)
    assert "held on" in nb["reason"]
    assert "runner repair n" in nb["reason"]

    process.kill()
    process.communicate(timeout=cli.PATIENCE)
    assert cli.runner(*report).code == 1
    (nb,) = json.loads((tmp_path / "out" / "reports" / "summary.json").read_text())["notebooks"]
    assert nb["status"] == "failed"


def test_a_run_that_is_killed_after_its_repair_was_accepted_is_lost(tmp_path: Path) -> None:
    """The failure is no longer what was going on; the report says so, and the next run is as any other."""
    waits = "import time\nprint('again', flush=True)\ntime.sleep(600)"
    process = begin(tmp_path, NEEDS_FILE, waits)
    (tmp_path / "mended").touch()
    with cli.start("repair", "n", "--output-dir", tmp_path / "out", "--retry") as client:
        log = tmp_path / "out" / "n.log"
        cli.until(lambda: "\nagain" in log.read_text(), "the cell after the mended one")
        process.kill()
        client.communicate(timeout=cli.PATIENCE)
    assert client.returncode != 0
    process.communicate(timeout=cli.PATIENCE)

    assert cli.runner("report", tmp_path / "out", "--fail-on-failure").code == 1
    (nb,) = json.loads((tmp_path / "out" / "reports" / "summary.json").read_text())["notebooks"]
    assert (nb["status"], nb["ok"]) == ("lost", False)
    notebooks.write(tmp_path / "n.ipynb", NEEDS_FILE)
    assert cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out").code == 0


def test_resume_takes_a_repaired_success_only_when_told_and_only_with_the_cells_that_ran(tmp_path: Path) -> None:
    """The source notebook alone never made it; once it says what the repair said, the user may vouch for it."""
    source = notebooks.write(tmp_path / "n.ipynb", "x = 1", "raise ValueError", "print(x)")
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "version: 1\nname: p\nnotebooks:\n- {name: n, path: n.ipynb, on_failure: hold=10m}\n- {name: m, path: m.ipynb, needs: [n]}"
    )
    notebooks.write(tmp_path / "m.ipynb", "print('after')")
    process = cli.start("run-all", plan, "--output-dir", tmp_path / "out")
    wait_for_hold(tmp_path)
    (tmp_path / "fixed.py").write_text("x = 2  # mended")
    assert repair(tmp_path, "--cell", 2, "--source", tmp_path / "fixed.py").code == 0
    assert end(process) == 0  # and what needs it has run
    assert cli.metrics(tmp_path / "out", "m")["status"] == "succeeded"

    def decision(*options: str) -> tuple[str, str]:
        shown = cli.runner(
            "run-all", plan, "--output-dir", tmp_path / "out", "--resume", "--dry-run", "--json", *options
        )
        first = json.loads(shown.out)["notebooks"][0]
        return first["decision"], " ".join(first["because"])

    ran, because = decision("--accept-repaired")
    assert "cell 2" in because
    notebooks.write(source, "x = 1", "x = 2  # another comment", "print(x)")
    assert decision() == (ran, "its run was repaired (--accept-repaired reuses it if its cells are unchanged)")
    reused, _ = decision("--accept-repaired")
    assert reused != ran
    assert cli.runner("run-all", plan, "--output-dir", tmp_path / "out", "--resume", "--accept-repaired").code == 0
    record = cli.metrics(tmp_path / "out", "n")
    assert (record["repaired"], record["reused_from"] is not None) == (True, True)
    assert any("--accept-repaired was given" in warning for warning in record["warnings"])


def test_only_a_cell_that_raised_is_held(tmp_path: Path) -> None:
    """A notebook that ends itself, or whose kernel dies, has nothing to go on with."""
    for source in ("raise SystemExit(3)", "import os; os._exit(3)"):
        notebook = notebooks.write(tmp_path / "n.ipynb", source)
        ended = cli.runner("run", notebook, "--output-dir", tmp_path / "out", "--on-failure", "hold")
        assert ended.code == 6
        assert cli.metrics(tmp_path / "out", "n")["held_seconds"] is None


def test_held_time_counts_for_no_deadline(tmp_path: Path) -> None:
    """A notebook that was held for longer than its deadline still has the time that it had left."""
    process = begin(tmp_path, "raise ValueError", "print('done')", options=("--timeout", "20s"))
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(22)
    assert process.returncode is None
    (tmp_path / "fixed.py").write_text("pass")
    assert repair(tmp_path, "--cell", 1, "--source", tmp_path / "fixed.py").code == 0
    assert end(process) == 0
    assert cli.metrics(tmp_path / "out", "n")["held_seconds"] > 20


def test_a_kernel_that_dies_while_it_is_held_ends_the_hold(tmp_path: Path) -> None:
    """There is nothing to go on with; the failure stays the first cause."""
    process = begin(tmp_path, "import os; print('pid', os.getpid())", "raise ValueError('first')")
    log = (tmp_path / "out" / "n.log").read_text()
    os.kill(int(log.split("\npid ")[1].split()[0]), signal.SIGKILL)
    assert end(process) == 1
    record = cli.metrics(tmp_path / "out", "n")
    assert (record["status"], record["failure"]["message"]) == ("failed", "first")
    assert any("its kernel ended" in warning for warning in record["warnings"])


def test_other_notebooks_of_a_plan_go_on_while_one_is_held(tmp_path: Path) -> None:
    """Only what needs it waits; a repair lets that run too."""
    for name, cell in {"n": NEEDS_FILE, "needs_n": "1", "free": "2"}.items():
        notebooks.write(tmp_path / f"{name}.ipynb", cell)
    listed = (
        "[{name: n, path: n.ipynb}, {name: needs_n, path: needs_n.ipynb, needs: [n]}, {name: free, path: free.ipynb}]"
    )
    (tmp_path / "plan.yaml").write_text(f"version: 1\nname: p\nnotebooks: {listed}")
    options = ("--output-dir", tmp_path / "out", "--jobs", 2, "--on-failure", "hold=10m")
    process = cli.start("run-all", tmp_path / "plan.yaml", *options)
    wait_for_hold(tmp_path)
    cli.until((tmp_path / "out" / "free.metrics.json").exists, "the free notebook's record")
    assert not (tmp_path / "out" / "needs_n.metrics.json").exists()
    (tmp_path / "mended").touch()
    assert repair(tmp_path, "--retry").code == 0
    assert end(process) == 0
    assert cli.metrics(tmp_path / "out", "needs_n")["status"] == "succeeded"


def test_what_threads_print_while_it_is_held_is_kept_and_does_not_count_for_the_cell_that_runs_again(
    tmp_path: Path,
) -> None:
    """Nobody else takes the kernel's messages while it is held; a kernel that cannot send would hang."""
    talk = "import threading, time, pathlib\ndef talk():\n    for n in range(400): print('talk', n, flush=True); time.sleep(0.005)\n"
    talk += "    pathlib.Path('talked').touch()\nthreading.Thread(target=talk).start()"
    process = begin(tmp_path, talk, "threading.Thread(target=talk).start(); raise ValueError", "print('done')")
    cli.until((tmp_path / "talked").exists, "the threads' end")
    (tmp_path / "fixed.py").write_text("print('mended')")
    assert repair(tmp_path, "--cell", 2, "--source", tmp_path / "fixed.py").code == 0
    assert end(process) == 0
    assert "talk 399" in (tmp_path / "out" / "n.log").read_text()
    _, second, third = cli.source_cells(cli.executed(tmp_path / "out", "n"))
    assert [output.text for output in second.outputs] == ["mended\n"]
    assert [output.text for output in third.outputs] == ["done\n"]


@pytest.mark.slow
def test_kills_while_held_lose_nothing(tmp_path: Path) -> None:
    """Whenever the runner is killed while it holds, record, notebook and page tell the failure."""
    for number in range(20):
        place = tmp_path / str(number)
        process = begin(place, "print('made')", "raise ValueError('for ever')")
        cli.until((place / "out" / "n.html").exists, "the page")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(random.random())
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=cli.PATIENCE)
        record = cli.metrics(place / "out", "n")
        assert (record["status"], record["stage"], record["failure"]["message"]) == ("failed", "held", "for ever")
        assert "made" in cli.text_of(cli.executed(place / "out", "n"))
        assert "for ever" in (place / "out" / "n.html").read_text()
        assert repair(place, "--retry").code == 2


@pytest.mark.parametrize(
    ("fixed", "says"),
    [
        (["a = 1", "b = 2", "raise ValueError", "c = 3", "d = 4"], "added"),
        (["a = 1", "b = 2", "raise ValueError"], "removed"),
        (["a = 1", "raise ValueError", "b = 2", "c = 3"], "moved"),
        (["a = 1", "b = 2", "b = (", "c = 3"], "cannot be compiled: SyntaxError"),
        (["a = 9", "b = 2", "b = 3", "c = 3"], "cell 1 was changed but is before the failed cell 3"),
        (["a = 1", "b = 2", "raise ValueError", "c = 3"], "no cell from the failed one on is changed"),
    ],
    ids=["added", "removed", "moved", "syntax", "earlier", "same"],
)
def test_a_repair_that_cannot_work_is_refused_and_the_hold_goes_on(tmp_path: Path, fixed: list[str], says: str) -> None:
    """Exit 2 says what is wrong; the next repair still finds the kernel waiting."""
    process = begin(tmp_path, "a = 1", "b = 2", "raise ValueError", "c = 3")
    ids = {"a = 1": "c0", "a = 9": "c0", "b = 2": "c1", "raise ValueError": "c2", "c = 3": "c3"}
    cells = [notebooks.code(source, cell_id=ids.get(source, f"c{at}")) for at, source in enumerate(fixed)]
    wrong = repair(tmp_path, "--notebook", notebooks.write(tmp_path / "fixed.ipynb", *cells))
    assert wrong.code == 2
    assert says in wrong.err
    assert running(tmp_path)["held_until"]
    assert repair(tmp_path, "--give-up").code == 1
    assert end(process) == 1


def test_a_fixed_notebook_runs_from_an_earlier_cell_with_rules_and_parameters_of_the_run(tmp_path: Path) -> None:
    """The plan's rules and the run's parameters hold for the corrected notebook as for the source."""
    cells = ["k = 1", "seen = []", "seen.append(k)", "raise ValueError(k)", "print('seen', seen, k)"]
    process = begin(tmp_path, *cells, options=("-p", "k", "7"))
    fixed = notebooks.write(tmp_path / "fixed.ipynb", "k = 1", "seen = ['new']", *cells[2:3], "k += 1", cells[4])
    refused = repair(tmp_path, "--notebook", fixed)
    assert (refused.code, "--from-cell 2" in refused.err) == (2, True)
    assert repair(tmp_path, "--notebook", fixed, "--from-cell", 2).code == 0
    assert end(process) == 0
    assert "seen ['new', 7] 8" in cli.text_of(cli.executed(tmp_path / "out", "n"))
    assert [len(cell["runs"]) for cell in cli.metrics(tmp_path / "out", "n")["cells"]] == [1, 2, 2, 2, 1]


SELF_REPAIR = """
import json, os, socket, subprocess, sys, threading, time
def try_it(how):
    while True:
        try:
            path = json.load(open({claim!r}))["socket"]
            if path: break
        except (OSError, ValueError): pass
        time.sleep(0.05)
    ask = f'''
import json, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect({{path!r}})
f = s.makefile("rwb"); first = f.readline()
open(sys.argv[1], "ab").write(first)
f.write(json.dumps({{{{"cell": 1, "source": "pass"}}}}).encode() + b"\\\\n"); f.flush()
open(sys.argv[1], "ab").write(f.readline())
'''
    if how == "thread": sys.argv = ["", {answer!r}]; exec(ask)
    else: subprocess.Popen([sys.executable, "-c", ask, {answer!r}], start_new_session=True, env={{}})
for how in ("thread", "process"): threading.Thread(target=try_it, args=(how,)).start()
raise ValueError("let me out")
"""


def test_a_notebook_cannot_repair_itself(tmp_path: Path) -> None:
    """Neither the kernel nor a process that it starts in a session and environment of its own is listened to."""
    answer = tmp_path / "answer"
    claim = tmp_path / "out" / "n.running"
    process = begin(tmp_path, SELF_REPAIR.format(claim=str(claim), answer=str(answer)))
    log = tmp_path / "out" / "n.log"
    cli.until(lambda: log.read_text().count("repair-refused") >= 2, "both refusals")
    assert b"a process of the notebook cannot repair it" in answer.read_bytes()
    assert b"traceback" not in answer.read_bytes()
    assert repair(tmp_path, "--give-up").code == 1
    assert end(process) == 1


FORGERY = """
import json, os, socket, threading, time
path = {socket!r}
listener = socket.socket(socket.AF_UNIX); listener.bind(path); listener.listen()
def answer():
    while True:
        connection, _ = listener.accept()
        connection.sendall(json.dumps({{"notebook": "n", "output_dir": {folder!r}, "cell": 1, "error": "", "traceback": "",
            "held_until": "", "log": ""}}).encode() + b"\\n")
        open({heard!r}, "ab").write(connection.recv(1 << 20))
def forge():
    while True:
        try:
            claim = json.load(open({claim!r}))
            claim.update(socket=path, {fields})
            open({claim!r}, "w").write(json.dumps(claim))
        except (OSError, ValueError): pass
        time.sleep(0.001)
stat = lambda: int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[19])
for work in (answer, forge): threading.Thread(target=work, daemon=True).start()
raise ValueError("held")
"""


@pytest.mark.parametrize("fields", ["", "pid=os.getpid(), pid_started=stat()"], ids=["socket", "socket and pid"])
def test_a_repair_is_not_redirected_by_a_forged_claim(tmp_path: Path, fields: str) -> None:
    """Nothing is sent to a socket of the notebook's, whatever NAME.running says."""
    heard, folder = tmp_path / "heard", tmp_path / "out"
    cell = FORGERY.format(
        socket=f"\0forged-{os.getpid()}-{len(fields)}",  # in no folder
        folder=str(folder),
        heard=str(heard),
        claim=str(folder / "n.running"),
        fields=fields,
    )
    (tmp_path / "fixed.py").write_text("secret = 1")
    process = begin(tmp_path, cell)
    cli.until(lambda: "forged-" in str((running(tmp_path) or {}).get("socket")), "the forgery")

    def refused() -> bool:
        """Tell whether the forgery was met; the run and the notebook write the file in turn."""
        ended = repair(tmp_path, "--cell", 1, "--source", tmp_path / "fixed.py")
        return ended.code == 2 and "does not lead to the run" in ended.err

    cli.until(refused, "the refusal")
    assert not heard.exists() or b"secret" not in heard.read_bytes()
    process.terminate()
    assert end(process) == 1


def test_without_a_socket_the_failure_is_a_failure(tmp_path: Path) -> None:
    """A machine on which no socket can be bound holds nothing, and says why."""
    script = (
        "import contextlib, runner.run.hold as hold\n"
        "@contextlib.contextmanager\ndef none():\n    raise OSError('no sockets here')\n    yield\n"
        "hold.listening = none\nfrom runner.cli import main; main()"
    )
    source = notebooks.write(tmp_path / "n.ipynb", "raise ValueError('first')")
    ended = cli.python(script, "run", source, "--output-dir", tmp_path / "out", "--on-failure", "hold")
    assert ended.code == 1, ended.err
    record = cli.metrics(tmp_path / "out", "n")
    assert (record["status"], record["failure"]["message"]) == ("failed", "first")
    assert any("it cannot listen for repairs: no sockets here" in warning for warning in record["warnings"])
