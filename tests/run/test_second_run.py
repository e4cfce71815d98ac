# SPDX-License-Identifier: Apache-2.0
"""`runner run --twice`: each cell is judged by a second run that leaves no trace."""

from __future__ import annotations

import json
import signal
import time

import pytest
from support import cli, notebooks

PLOT = "import matplotlib\nmatplotlib.use('agg')\nimport matplotlib.pyplot as plt"
FIGURE = "from IPython.display import Image\nplt.plot({values})\nplt.savefig({name!r})\nplt.close()\nImage({name!r})"


def twice(folder, *cells: str, plan: str = ""):
    notebooks.write(folder / "checkout" / "n.ipynb", *cells)
    asked = [folder / "checkout" / "n.ipynb"]
    if plan:
        (folder / "checkout" / "plan.yaml").write_text(plan)
        asked = ["n", "--plan", folder / "checkout" / "plan.yaml"]
    ended = cli.runner("run", *asked, "--twice", "--output-dir", folder / "out", "--no-html")
    return ended, json.loads((folder / "out" / "n.metrics.json").read_text())


def test_each_cell_is_marked_and_an_unstable_one_ends_with_7(tmp_path):
    """Times and folders do not count, numbers and figures do; the checkout is as one run leaves it."""
    ended, record = twice(
        tmp_path,
        f"import os, time, numpy as np\n{PLOT}\nprint(f'{{time.time() % 60:.3f}} s in {{os.getcwd()}}')",
        "np.random.default_rng(0).normal(size=3)",
        "np.random.default_rng().normal(size=3)",
        "open('made.txt', 'a').write('x')\nprint(open('made.txt').read())",
        FIGURE.format(values="[1, 2, 3]", name="same.png"),
        FIGURE.format(values="np.random.default_rng().normal(size=9)", name="other.png"),
    )
    assert ended.code == 7, ended.err
    marks = ["equal-in-meaning", "bit-equal", "unstable", "bit-equal", "bit-equal", "unstable"]
    assert [cell["second_run"] for cell in record["cells"]] == marks
    assert [one["target"] for one in record["expectations"]] == ["cell 3", "cell 6"]
    assert record["status"] == "unexpected-results"
    assert (tmp_path / "checkout" / "made.txt").read_text() == "x"
    assert not list(tmp_path.rglob(".trial-*"))
    assert cli.runner("verify", tmp_path / "out").code == 0


def test_a_stable_notebook_succeeds(tmp_path):
    """Nothing is said about it but the marks."""
    ended, record = twice(tmp_path, "print(1)", "{'a': 2}")
    assert ended.code == 0, ended.err
    assert [cell["second_run"] for cell in record["cells"]] == ["bit-equal"] * 2
    assert (record["expectations"], record["warnings"]) == ([], [])


def test_a_second_run_that_fails_is_told_as_such(tmp_path):
    """What is outside of the checkout is not kept apart."""
    count = tmp_path / "count"
    ended, record = twice(tmp_path, f"open({str(count)!r}, 'a').write('x')\nassert open({str(count)!r}).read() == 'x'")
    assert ended.code == 7
    assert "failed" in record["reason"]
    assert record["cells"][0]["second_run"] is None


def test_there_is_no_second_run_of_a_failure(tmp_path):
    """The failure is the end."""
    count = tmp_path / "count"
    ended, record = twice(tmp_path, f"open({str(count)!r}, 'a').write('x')\n1 / 0")
    assert (ended.code, record["status"], count.read_text()) == (1, "failed", "x")


PLAN = """
version: 1
name: p
notebooks:
- name: n
  path: n.ipynb
  products: [made/*.csv]
"""


@pytest.mark.parametrize(("value", "code"), [("1", 0), ("os.urandom(8).hex()", 7)])
def test_products_are_compared_as_well(tmp_path, value, code):
    """By what they mean; cells may show nothing of it."""
    source = (
        f"import os, time\nos.makedirs('made', exist_ok=True)\nopen('made/a.csv', 'w').write(f'x\\n{{{value}}}\\n');"
    )
    ended, record = twice(tmp_path, source, plan=PLAN)
    assert ended.code == code, ended.err
    assert [one["target"] for one in record["expectations"]] == (["made/a.csv"] if code else [])


def test_a_signal_in_the_second_run_ends_both(tmp_path):
    """What the first run made is there, and nobody claims that it was judged."""
    count = tmp_path / "count"
    source = f"import os, time\nopen({str(count)!r}, 'a').write('x')\ntime.sleep(600 if len(open({str(count)!r}).read()) > 1 else 0)"
    notebooks.write(tmp_path / "n.ipynb", source)
    with cli.start("run", tmp_path / "n.ipynb", "--twice", "--output-dir", tmp_path / "out") as process:
        deadline = time.monotonic() + cli.PATIENCE
        while not count.exists() or count.read_text() != "xx":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=cli.PATIENCE)
    assert process.returncode == 143
    record = json.loads((tmp_path / "out" / "n.metrics.json").read_text())
    assert (record["status"], record["provisional"]) == ("terminated", False)
    assert "second run" in record["reason"]
    assert not list(tmp_path.rglob(".trial-*"))
