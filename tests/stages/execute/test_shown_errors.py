# SPDX-License-Identifier: Apache-2.0
"""What a cell shows decides: an error output is a failure, whatever the kernel replied and whoever captured it."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import papermill.engines  # noqa: F401  (first: it imports our engine by its entry point)
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from support import cli, notebooks

from runner.core.errors import BrokenInputError
from runner.core.notebook_document import read_notebook
from runner.core.redact import Redactor
from runner.stages.execute.client import NotebookClient, Observer
from runner.stages.execute.papermill_engine import Manager
from runner.stages.prepare.prepare import prepare

OUT = "import ipywidgets\nout, other = ipywidgets.Output(), ipywidgets.Output()\ndisplay(out, other)"
SHOWS = {
    "%run": (
        ["open('step.py', 'w').write('x = 1\\nraise ValueError(\"step failed\")')", "%run step.py"],
        "ValueError",
        "step failed",
    ),
    "run_cell": (["1", "result = get_ipython().run_cell('1/0')"], "ZeroDivisionError", "division by zero"),
    "%%capture": (["1", "%%capture kept\nprint('seen')\n1/0"], "ZeroDivisionError", "division by zero"),
    "showtraceback": (
        ["1", "try:\n    {}['X']\nexcept KeyError:\n    get_ipython().showtraceback()\nprint('went on')"],
        "KeyError",
        "'X'",
    ),
    "Output": (
        [OUT, "with out:\n    print('captured')\n    raise ValueError('step failed')"],
        "ValueError",
        "step failed",
    ),
    "nested": (
        [OUT, "with out:\n    with other:\n        print('captured')\n        1/0"],
        "ZeroDivisionError",
        "division by zero",
    ),
    "%pdb": (["%pdb on", "[][3]"], "IndexError", "list index out of range"),
    "a hook that shows no error": (
        [
            "import types\nget_ipython()._showtraceback = types.MethodType(lambda *_: print('my words'), get_ipython())",
            "{}['X']",
        ],
        "KeyError",
        "'X'",
    ),
    "a usage error": (["1", "%no_such_magic"], "UsageError", "no_such_magic"),
}


@pytest.mark.parametrize("name", SHOWS)
def test_a_cell_that_shows_an_error_failed(tmp_path, name):
    """Name and message come from the error; the cell holds it; later cells do not run."""
    cells, error, message = SHOWS[name]
    source = notebooks.write(tmp_path / "n.ipynb", *cells, "print('must not run')")
    ended = cli.runner("run", source, "--output-dir", tmp_path / "out", cwd=tmp_path)
    record = cli.metrics(tmp_path / "out", "n")
    assert ended.code == 1, record["reason"]
    assert [cell["status"] for cell in record["cells"]] == ["succeeded", "failed", "not-run"]
    failure = record["failure"]
    assert (failure["error_name"], failure["cell_index"]) == (error, 1)
    assert message in failure["message"]
    assert record["reason"].startswith(f"{error} in cell 2")
    shown = [
        out
        for cell in cli.executed(tmp_path / "out", "n").cells
        for out in cell.get("outputs", [])
        if out.output_type == "error"
    ]
    assert shown[0].ename == error
    assert ("last lines of the traceback" in failure["hint"]) == bool(failure["traceback_tail"])
    if name in {"Output", "nested"}:
        assert "captured" in (tmp_path / "out" / "n.log").read_text()
        assert "captured" in (tmp_path / "out" / "n.html").read_text()


@pytest.mark.parametrize("name", ["%run", "Output", "a hook that shows no error"])
def test_papermills_users_are_told_of_the_same_errors(tmp_path, name):
    """The rule is one for `runner run` and the engine."""
    cells, error, _ = SHOWS[name]
    source = notebooks.write(tmp_path / "n.ipynb", *cells, "print('must not run')")
    command = [
        sys.executable,
        "-m",
        "papermill",
        "--engine",
        "runner",
        "--no-progress-bar",
        str(source),
        str(tmp_path / "o.ipynb"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=cli.environment(), check=False)
    assert done.returncode == 1, done.stderr
    assert error in done.stderr
    left = json.loads((tmp_path / "o.ipynb").read_text())
    assert left["metadata"]["runner"]["status"] == "failed"


def test_an_expected_error_is_none_wherever_it_is_shown(tmp_path):
    """With the tag raises-exception; but a notebook that ends itself ends."""
    tagged = {"tags": ["raises-exception"]}
    source = notebooks.write(
        tmp_path / "n.ipynb",
        OUT,
        notebooks.code("with out: 1/0", **tagged),
        notebooks.code("get_ipython().run_cell('1/0')\nraise SystemExit(3)", **tagged),
        "print('must not run')",
    )
    ended = cli.runner("run", source, "--output-dir", tmp_path, "--no-html")
    record = cli.metrics(tmp_path, "n")
    assert (ended.code, record["status"]) == (6, "incomplete")
    assert [cell["status"] for cell in record["cells"]] == ["succeeded", "succeeded", "failed", "not-run"]


def test_outputs_of_a_task_stay_with_its_cell_and_so_does_its_error(tmp_path):
    """A task goes on while later cells run: nothing that it prints is lost, and its error fails its cell."""
    source = notebooks.write(
        tmp_path / "n.ipynb",
        OUT,
        "import asyncio\nasync def work():\n    await asyncio.sleep(0.1)\n    print('from the task')\n"
        "    with out:\n        raise ValueError('step failed')\ntask = asyncio.create_task(work())",
        "await task\nprint('waited')",
        "print('must not run')",
    )
    ended = cli.runner("run", source, "--output-dir", tmp_path, "--no-html")
    record = cli.metrics(tmp_path, "n")
    assert (ended.code, record["reason"]) == (1, "ValueError in cell 2: step failed")
    assert [cell["status"] for cell in record["cells"]] == ["succeeded", "failed", "succeeded", "not-run"]
    cell = cli.executed(tmp_path, "n").cells[-3]
    assert [out.get("text") or out.ename for out in cell.outputs] == ["from the task\n", "ValueError"]


def test_a_cell_to_skip_is_dropped(tmp_path):
    """It is no success: record, notebook and page say that it did not run, and why."""
    source = notebooks.write(
        tmp_path / "n.ipynb", notebooks.code("threshold = 0.05", tags=["skip-execution"]), "print('second')"
    )
    ended = cli.runner("run", source, "--output-dir", tmp_path)
    record = cli.metrics(tmp_path, "n")
    assert (ended.code, record["reason"]) == (0, "all cells ran, 1 dropped")
    assert [cell["status"] for cell in record["cells"]] == ["dropped", "succeeded"]
    assert cli.executed(tmp_path, "n").cells[0].metadata.runner.dropped == "tagged skip-execution"
    assert "tagged skip-execution" in (tmp_path / "n.html").read_text()
    with pytest.raises(BrokenInputError, match="no cell assigns it"):
        prepare(read_notebook(source), parameters={"threshold": 0.1})


KERNEL = """
import json
from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel

class Odd(Kernel):
    implementation, implementation_version, banner = "odd", "1", "odd"
    language_info = {"name": "odd", "mimetype": "text/plain", "file_extension": ".odd"}

    def do_execute(self, code, silent, store_history=True, user_expressions=None, allow_stdin=False, **_):
        return {"execution_count": self.execution_count, **json.loads(code)}

IPKernelApp.launch_instance(kernel_class=Odd)
"""


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ({"status": "error", "ename": "", "evalue": "", "traceback": []}, "an unnamed error in cell 2"),
        (
            {"status": "error", "ename": None, "evalue": "no such gene"},
            "an unnamed error in cell 2: no such gene",
        ),
        ({"status": "aborted"}, "NotRun in cell 2: the kernel answered 'aborted': it did not run the cell"),
    ],
)
def test_a_kernel_of_another_language_may_reply_what_it_wants(tmp_path, reply, reason):
    """No empty name, no reason that ends in a colon, no success without the reply that says so."""
    (tmp_path / "odd.py").write_text(KERNEL)
    spec = tmp_path / "kernels" / "odd" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, str(tmp_path / "odd.py"), "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "odd", "language": "odd"}))
    source = notebooks.write(tmp_path / "n.ipynb", '{"status": "ok"}', json.dumps(reply), language="odd", kernel="odd")
    ended = cli.runner("run", source, "--output-dir", tmp_path, env={"JUPYTER_PATH": str(tmp_path)})
    record = cli.metrics(tmp_path, "n")
    assert (ended.code, record["reason"]) == (1, reason)
    assert "no traceback" in record["failure"]["hint"]


def test_an_output_widget_works_as_in_a_frontend(tmp_path):
    """Forty times: no reply is waited for in vain, and the next cell can read what was captured."""
    cells = [
        f"out = ipywidgets.Output()\ndisplay(out)\nwith out:\n    display('shown')\n    print({n})" for n in range(40)
    ]
    source = notebooks.write(
        tmp_path / "n.ipynb",
        "import ipywidgets",
        *cells,
        "print([o['output_type'] for o in out.outputs], out.outputs[-1]['text'])",
    )
    ended = cli.runner("run", source, "--output-dir", tmp_path, "--no-html", "--cell-timeout", "60s")
    assert ended.code == 0, ended.err
    assert "['display_data', 'stream'] 39\n" in cli.text_of(cli.executed(tmp_path, "n"))


def test_a_widget_tells_the_kernel_once_and_only_between_cells():
    """A message on the socket whose reply is awaited takes the wake-up of the reply with it."""
    sent = []
    session = SimpleNamespace(msg=lambda kind, content, **_: {"type": kind, **content})
    channel = SimpleNamespace(send=lambda msg: sent.append(msg["data"]["state"]["outputs"]))
    manager = Manager(new_notebook(cells=[new_code_cell("")]), progress_bar=False)
    client = NotebookClient(
        manager, SimpleNamespace(manager=None), observer=Observer(), redactor=Redactor(), log_name="n.log"
    )
    client.reset_execution_trackers()
    client.kc = SimpleNamespace(session=session, shell_channel=channel)

    def get(kind, **content):
        header = {"msg_id": "answer", "msg_type": kind}
        message = {"msg_type": kind, "header": header, "parent_header": {"msg_id": "asked"}, "content": content}
        client.process_message(message, client.nb.cells[0], 0)

    state = {"_model_module": "@jupyter-widgets/output", "_model_name": "OutputModel", "outputs": [], "msg_id": ""}
    get("comm_open", comm_id="w", target_name="jupyter.widget", data={"state": state})
    get("comm_msg", comm_id="w", data={"method": "update", "state": {"msg_id": "asked"}})
    for number in range(5000):
        get("stream", name="stdout", text=f"{number}\n")
    get("comm_msg", comm_id="w", data={"method": "update", "state": {"msg_id": ""}})
    assert sent == []
    client.end_cell(0)
    assert [[out["text"] for out in outputs] for outputs in sent] == [["".join(f"{n}\n" for n in range(5000))]]
    assert client.nb.cells[0].outputs == []


def test_a_truncated_output_names_its_cell_as_logs_and_reports_do(tmp_path):
    """Code cells of the source, from 1; texts and inserted cells do not count."""
    source = notebooks.write(
        tmp_path / "n.ipynb", notebooks.markdown("# Title"), "1", notebooks.markdown("text"), "print('x' * 3_000_000)"
    )
    ended = cli.runner("run", source, "--output-dir", tmp_path, "--no-html")
    (line,) = (line for line in ended.err.splitlines() if "output-truncated" in line)
    assert " cell=2 " in line


def test_an_error_without_a_message_shows_the_line_that_failed(tmp_path):
    """In the reason, in the hint, and below `%%time`, where IPython shows no line."""
    source = notebooks.write(tmp_path / "n.ipynb", "n_cells = 0", "%%time\nx = 1\nassert n_cells > 0")
    cli.runner("run", source, "--output-dir", tmp_path, "--no-html")
    record = cli.metrics(tmp_path, "n")
    assert record["reason"] == "AssertionError in cell 2: assert n_cells > 0"
    assert "`assert n_cells > 0`" in record["failure"]["hint"]
