# SPDX-License-Identifier: Apache-2.0
"""The notebook's own code in a traceback, below which any number of library frames may follow."""

from __future__ import annotations

import pytest

from runner.core.endings import failed_line, own_frame, tail

HEADS = {
    "IPython 8 and later": "Cell In[3], line 2",
    "IPython 8.0": "Input In [3], in <cell line: 2>()",
    "IPython 7": "<ipython-input-3-0123456789ab> in <module>",
}
OWN = "      1 import lib\n----> 2 lib.run(adata)\n      3 print('no')"
FRAME = "File ~/env/lib/python3.12/site-packages/lib/deep.py:7, in run(x)\n      6 def run(x):\n----> 7     return run(x)\n      8 \n"


def traceback(head: str, depth: int) -> str:
    frames = "\n".join([FRAME] * depth)
    return (
        f"-----\nValueError      Traceback (most recent call last)\n{head}\n{OWN}\n\n{frames}\nValueError: no such gene"
    )


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("depth", [0, 1, 50])
def test_the_notebooks_own_frame_and_line_stay(head, depth):
    """The end has the error, preceded by the notebook's frame; never more lines than requested."""
    text = traceback(head, depth)
    assert failed_line(text, "") == "lib.run(adata)"
    kept = tail(text, 25).splitlines()
    assert len(kept) <= 25
    assert head in kept
    assert "----> 2 lib.run(adata)" in kept
    assert kept[-1] == "ValueError: no such gene"


def test_the_last_of_several_own_frames_counts():
    """A function that an earlier cell defined is the notebook's own too."""
    text = traceback("Cell In[3], line 2", 1).replace(
        "ValueError: no", "Cell In[1], line 5, in f(x)\n----> 5     x[3]\n\nValueError: no"
    )
    assert failed_line(text, "") == "x[3]"
    assert own_frame(text)[0] == "Cell In[1], line 5, in f(x)"


@pytest.mark.parametrize("text", ["", "Error in f(): no such gene", "Traceback:\n1. f()\n" * 40])
def test_a_traceback_of_another_language_keeps_its_end(text):
    """Without such a frame nothing is invented."""
    assert failed_line(text, "f()") is None
    assert tail(text, 25) == "\n".join(text.strip().splitlines()[-25:])


def test_below_time_the_line_is_that_of_the_cell():
    """IPython numbers the lines of the body and cannot show them."""
    text = "Cell In[1], line 1\n----> 1 get_ipython().run_cell_magic('time', '', 'x')\n\nFile <timed exec>:2\n\nAssertionError: "
    assert failed_line(text, "%%time\nx = 1\nassert x > 2\n") == "assert x > 2"
    assert failed_line(text, "%%time") is None


@pytest.mark.parametrize("piece", ["Cell In[", "In [1", "----> ", "- ", "> 1 ", "File <timed exec>:", "\n", "~/"])
def test_hostile_text_of_any_length_is_looked_at_in_part(piece):
    """The bounds hold for ten megabytes of the start of the patterns."""
    text = piece * (10_000_000 // len(piece))
    assert len("\n".join(own_frame(text))) < 10_000
    assert len(failed_line(text, "x") or "") <= 500


def test_the_end_of_a_long_traceback_still_shows_the_notebooks_own_line():
    """What a record keeps of it names the line of the cell, and not one of the library below."""
    library = "\n".join(f"    {n} x = {n}" for n in range(30, 70))
    text = f"Cell In[1], line 3, in f(x)\n      2 def f(x):\n----> 3     return json.loads(x)\n\n{library}\n--> 70     raw_decode(s)\nValueError: no"
    assert failed_line(tail(text, 30), "") == "return json.loads(x)"
