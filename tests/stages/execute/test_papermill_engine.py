# SPDX-License-Identifier: Apache-2.0
"""`papermill --engine runner` runs notebooks as papermill's users know it, and tells the truth when a kernel dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
import pytest
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from support import cli, notebooks

PAPERMILL = [sys.executable, "-m", "papermill", "--engine", "runner", "--no-progress-bar"]
DIE = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


def command(*arguments: object, cwd: Path | None = None) -> cli.Ended:
    """Run papermill's own command line with our engine."""
    done = subprocess.run(
        [*PAPERMILL, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=cli.environment(),
        cwd=cwd,
        timeout=cli.PATIENCE,
        check=False,
    )
    return cli.Ended(done.returncode, done.stdout, done.stderr)


def left(path: Path) -> Any:
    """Return a notebook as it was left, checked against nbformat's schema."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def states(notebook: Any) -> list[tuple[str, bool | None]]:
    """Return what papermill's metadata says of each code cell of the source."""
    return [
        (cell.metadata.papermill.status, cell.metadata.papermill.exception)
        for cell in notebook.cells
        if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])
    ]


def test_the_command_runs_a_notebook_with_parameters(tmp_path: Path) -> None:
    """Papermill injects, our engine runs, and the notebook says that it completed."""
    source = notebooks.write(tmp_path / "in.ipynb", notebooks.code("n = 1", tags=["parameters"]), "print('n is', n)")

    ended = command(source, tmp_path / "out.ipynb", "-p", "n", "42", "--log-output")

    assert ended.code == 0, ended.err
    notebook = left(tmp_path / "out.ipynb")
    assert "n is 42" in cli.text_of(notebook)
    assert "n is 42" in ended.err
    assert states(notebook) == [("completed", False)] * 2
    assert notebook.metadata.papermill.exception is None
    assert notebook.metadata.papermill.duration > 0
    assert notebook.metadata.runner.status == "succeeded"


def test_the_command_fails_where_a_cell_raises(tmp_path: Path) -> None:
    """Exit code, message and banner are papermill's; the state of each cell is true."""
    source = notebooks.write(tmp_path / "in.ipynb", "1", "raise ValueError('no such gene')", "print('never')")

    ended = command(source, tmp_path / "out.ipynb")

    assert ended.code == 1
    assert "PapermillExecutionError" in ended.err
    assert "no such gene" in ended.err
    notebook = left(tmp_path / "out.ipynb")
    assert states(notebook) == [("completed", False), ("failed", True), ("pending", None)]
    assert notebook.metadata.papermill.exception is True
    assert notebook.metadata.runner.status == "failed"
    assert any("papermill-error-cell-tag" in cell.metadata.get("tags", []) for cell in notebook.cells)


def test_the_command_fails_where_a_kernel_dies(tmp_path: Path) -> None:
    """Papermill's own engine leaves such a notebook green; with ours the cell failed and the rest is pending."""
    source = notebooks.write(tmp_path / "in.ipynb", "print('first')", DIE, "print('never')")

    ended = command(source, tmp_path / "out.ipynb")

    assert ended.code == 138  # papermill's own code for a dead kernel
    assert "the kernel died in cell 2 by SIGKILL" in ended.err
    notebook = left(tmp_path / "out.ipynb")
    assert "first" in cli.text_of(notebook)
    assert states(notebook) == [("completed", False), ("failed", True), ("pending", None)]
    assert notebook.metadata.papermill.exception is True
    assert notebook.metadata.runner.status == "kernel-died"


def test_a_cell_that_takes_too_long_is_a_timeout(tmp_path: Path) -> None:
    """Papermill's --execution-timeout is the deadline of each cell."""
    source = notebooks.write(tmp_path / "in.ipynb", "1", "import time; time.sleep(600)", "2")

    ended = command(source, tmp_path / "out.ipynb", "--execution-timeout", "1")

    assert ended.code == 1
    assert "did not end within 1.0s in cell 2" in ended.err
    notebook = left(tmp_path / "out.ipynb")
    assert states(notebook) == [("completed", False), ("failed", True), ("pending", None)]
    assert notebook.metadata.runner.status == "timed-out"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_notebook(tmp_path: Path, number: int, code: int) -> None:
    """What was printed is kept, the running cell failed, and the exit code is that of the signal."""
    source = notebooks.write(tmp_path / "in.ipynb", "print('first')", "print('begun')\nimport time; time.sleep(600)")
    out = tmp_path / "out.ipynb"
    process = subprocess.Popen(
        [*PAPERMILL, str(source), str(out), "--log-output"],
        stderr=subprocess.PIPE,
        text=True,
        env=cli.environment(),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "begun" in line:
            break
    process.send_signal(number)
    process.communicate(timeout=cli.PATIENCE)

    assert process.returncode == code
    notebook = left(out)
    assert {"first", "begun"} <= set(cli.text_of(notebook).split())
    assert states(notebook) == [("completed", False), ("failed", True)]
    assert notebook.metadata.runner.status == "terminated"


def test_an_exit_without_an_error_is_as_in_papermill_and_told_in_the_metadata(tmp_path: Path) -> None:
    """Papermill takes sys.exit(0) for a good end; our metadata says that cells are missing."""
    source = notebooks.write(tmp_path / "in.ipynb", "import sys; sys.exit(0)", "print('never')")

    ended = command(source, tmp_path / "out.ipynb")

    notebook = left(tmp_path / "out.ipynb")
    assert notebook.metadata.runner.status == "incomplete"
    assert states(notebook)[1] == ("pending", None)
    assert ended.code == 0, ended.err


def test_a_kernel_that_exits_is_a_failure(tmp_path: Path) -> None:
    """os._exit(0) ends the kernel in the middle: no success for anybody."""
    source = notebooks.write(tmp_path / "in.ipynb", "import os; os._exit(0)", "print('never')")

    ended = command(source, tmp_path / "out.ipynb")

    assert ended.code == 138
    assert "exited by itself in cell 1 with code 0" in ended.err
    assert left(tmp_path / "out.ipynb").metadata.runner.status == "incomplete"


def test_a_relative_output_goes_where_papermill_puts_it(tmp_path: Path) -> None:
    """With --cwd the notebook works in that folder; the output is relative to the caller's, also after a death."""
    notebooks.write(tmp_path / "in.ipynb", "import os; print('in', os.path.basename(os.getcwd()))", DIE)
    (tmp_path / "work").mkdir()

    ended = command("in.ipynb", "out.ipynb", "--cwd", "work", cwd=tmp_path)

    assert ended.code == 138
    assert "in work" in cli.text_of(left(tmp_path / "out.ipynb"))
    assert list((tmp_path / "work").iterdir()) == []


def test_standard_output_gets_the_notebook_once(tmp_path: Path) -> None:
    """Papermill's ``-`` writes to stdout; no file of that name appears."""
    notebooks.write(tmp_path / "in.ipynb", "print('x')")

    ended = command("in.ipynb", "-", cwd=tmp_path)

    assert ended.code == 0, ended.err
    notebook = nbformat.reads(ended.out, as_version=4)
    assert "x" in cli.text_of(notebook)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.ipynb"]


def run(source: Path, output: Path | str | None, **options: Any) -> Any:
    return papermill.execute_notebook(
        str(source), None if output is None else str(output), engine_name="runner", progress_bar=False, **options
    )


def test_the_python_interface_returns_the_notebook(tmp_path: Path) -> None:
    """Parameters, kernel name and the returned notebook are as with papermill's engine."""
    source = notebooks.write(
        tmp_path / "in.ipynb", notebooks.code("n = 1", tags=["parameters"]), "n * 2", kernel="other"
    )

    notebook = run(source, tmp_path / "out.ipynb", parameters={"n": 21}, kernel_name="python3")

    assert "42" in cli.text_of(notebook)
    assert left(tmp_path / "out.ipynb").metadata.papermill.parameters == {"n": 21}


def test_an_output_is_not_needed(tmp_path: Path) -> None:
    """Without an output path nothing is written, and the notebook comes back."""
    source = notebooks.write(tmp_path / "in.ipynb", "print('x')")

    assert "x" in cli.text_of(run(source, None))
    assert [path.name for path in tmp_path.iterdir()] == ["in.ipynb"]


@pytest.mark.parametrize(
    ("cell", "error", "options"),
    [
        ("raise ValueError('x')", papermill.PapermillExecutionError, {}),
        (DIE, DeadKernelError, {}),
        ("import os; os._exit(3)", DeadKernelError, {}),
        ("import time; time.sleep(600)", CellTimeoutError, {"execution_timeout": 1}),
    ],
)
def test_the_python_interface_raises_what_papermill_and_nbclient_raise(
    tmp_path: Path, cell: str, error: type[Exception], options: dict[str, Any]
) -> None:
    """Callers that handle these errors today handle ours; the notebook is on the disk before."""
    source = notebooks.write(tmp_path / "in.ipynb", "print('first')", cell)

    with pytest.raises(error):
        run(source, tmp_path / "out.ipynb", **options)

    assert "first" in cli.text_of(left(tmp_path / "out.ipynb"))


@pytest.mark.slow  # in its thread, `--in-process` cannot skip it
def test_a_notebook_can_be_run_outside_the_main_thread(tmp_path: Path) -> None:
    """Schedulers do that; signals are left alone there."""
    source = notebooks.write(tmp_path / "in.ipynb", "print('x')")
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(run(source, tmp_path / "out.ipynb")))
    thread.start()
    thread.join(cli.PATIENCE)

    assert "x" in cli.text_of(results[0])


@pytest.mark.parametrize("cell", ["1", "1 / 0"], ids=["success", "failure"])
@pytest.mark.parametrize("cleanup", [True, False])
def test_a_child_in_a_session_of_its_own_ends_with_the_notebook(tmp_path: Path, cell: str, cleanup: bool) -> None:
    """However the notebook ends; unless the caller wants to keep what it started."""
    start = "import subprocess\nchild = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    source = notebooks.write(tmp_path / "in.ipynb", start + "open('pid', 'w').write(str(child.pid))", cell)
    script = "import papermill, sys; papermill.execute_notebook(*sys.argv[1:3], engine_name='runner', cleanup=%s)"

    cli.python(script % cleanup, source, tmp_path / "out.ipynb", env={"PYTHONWARNINGS": "ignore"}, cwd=tmp_path)

    left = [process for process in psutil.process_iter() if process.pid == int((tmp_path / "pid").read_text())]
    alive = [process for process in left if process.status() != psutil.STATUS_ZOMBIE]
    for process in alive:
        process.kill()
    assert len(alive) == (0 if cleanup else 1)
