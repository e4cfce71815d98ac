# SPDX-License-Identifier: Apache-2.0
"""What we put into a kernel never shows in a cell: on the oldest and the newest ipykernel that we allow."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support import cli, notebooks

from runner.stages.execute.kernel import Kernel, answer

ROOT = Path(__file__).parents[3]
PRINTS = "for i in range(20_000): print(i)"
PRINTED = "".join(f"{i}\n" for i in range(20_000))


def _oldest() -> str:
    """Return the oldest ipykernel that pyproject.toml allows."""
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (bound,) = (match[1] for need in needs if (match := re.fullmatch(r"ipykernel>=([\d.]+)", need)))
    return bound


KERNELS = {
    "oldest": (f"ipykernel=={_oldest()}.*", "ipython==8.12.*", "ipywidgets>=8"),
    "newest": ("ipykernel", "ipywidgets>=8"),
}


@pytest.fixture(scope="module", params=KERNELS)
def kernels(request, tmp_path_factory):
    """Give JUPYTER_PATH with a kernel named ``other`` that has one of the versions."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "newest":  # what the tests run with is what constraints.txt calls the newest
        python = Path(sys.executable)
    else:
        uv = shutil.which("uv")
        if uv is None:
            pytest.skip("no uv to make an environment with")
        python = folder / "env" / "bin" / "python"
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder / "env")], check=True)
        made = subprocess.run(
            [uv, "pip", "install", "--quiet", "--python", str(python), *KERNELS[request.param]],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            pytest.skip(f"no package index to install {KERNELS[request.param]} from: {made.stderr[-500:]}")
    spec = folder / "kernels" / "other" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "other", "language": "python"}))
    return {"JUPYTER_PATH": str(folder)}


def run(tmp_path, kernels, *cells):
    """Run cells in the other kernel and return the end, the record and the texts of each cell."""
    source = notebooks.write(tmp_path / "n.ipynb", *cells, kernel="other")
    ended = cli.runner("run", source, "--output-dir", tmp_path, "--no-html", env=kernels)
    executed = cli.executed(tmp_path, "n")
    texts = [
        "".join(out.get("text", "") for out in cell.outputs) for cell in executed.cells if cell.cell_type == "code"
    ]
    return ended, cli.metrics(tmp_path, "n"), texts


@pytest.mark.slow
def test_no_print_fails_or_is_lost(tmp_path, kernels):
    """400,000 short prints in a healthy notebook: every cell has all of its own, and none raises."""
    ended, record, texts = run(tmp_path, kernels, *[PRINTS] * 10)
    assert ended.code == 0, record["reason"]
    assert [text == PRINTED for text in texts] == [True] * 10


@pytest.mark.slow
def test_several_threads_print_at_once(tmp_path, kernels):
    """400,000 short prints from four threads, and the sending of pieces meanwhile: no thread ends by an error."""
    cell = (
        "import sys, threading\nraised = []\ndef talk(stream):\n    try:\n"
        "        for i in range(50_000): print(i, file=stream)\n"
        "    except BaseException as error: raised.append(repr(error))\n"
        "threads = [threading.Thread(target=talk, args=(s,)) for s in (sys.stdout, sys.stderr) * 2]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\nassert not raised, raised"
    )
    ended, record, _ = run(tmp_path, kernels, cell, cell)
    assert ended.code == 0, record["reason"]


def test_a_reader_that_has_read_much_before_the_first_cell_gets_all_of_it(tmp_path, kernels, monkeypatch):
    """A slow start is asked again and again, and each answer is an output: the kernel never waits for ever."""
    monkeypatch.setenv("JUPYTER_PATH", kernels["JUPYTER_PATH"])

    async def printed() -> str:
        kernel = Kernel("other", cwd=tmp_path, env=cli.environment())
        await kernel.start()
        try:
            early = kernel.client()
            while await answer(early, set(), 2.0) is None:
                pass
            early.stop_channels()
            late = kernel.client()
            for _ in range(10):
                while await answer(late, set(), 2.0) is None:
                    pass
            asked, text = late.execute("for i in range(50): print(i, flush=True)"), ""
            while True:
                message = await late.get_iopub_msg(timeout=30)
                if message["parent_header"].get("msg_id") == asked:
                    text += message["content"].get("text", "")
                    if message["content"].get("execution_state") == "idle":
                        return text
        finally:
            await kernel.shut_down()
            kernel.remove_folder()

    assert asyncio.run(printed()) == "".join(f"{i}\n" for i in range(50))


def test_a_stream_that_cannot_be_measured_prints_all_the_same(tmp_path, kernels):
    """Whatever ipykernel's buffers are in another version: `print` does what it does without us."""
    cell = (
        "import collections, io, sys\nclass Buffers(collections.defaultdict):\n"
        "    def values(self): raise ValueError('I/O operation on closed file')\n"
        "sys.stdout.flush()\nfor i in range(100):\n    sys.stdout._buffers = Buffers(io.StringIO)\n"
        "    print(i)\n    sys.stdout.flush()"
    )
    ended, record, texts = run(tmp_path, kernels, cell)
    assert ended.code == 0, record["reason"]
    # What ipykernel flushed by itself between two statements is not in the buffers that were put in.
    assert texts[0].splitlines()[-1] == "99"
