# SPDX-License-Identifier: Apache-2.0
"""What a traceback says of the notebook's own code: its last frame, and the line that failed.

Frames of libraries come below the notebook's and may be many; without the notebook's own the end
of a traceback does not say what to change. Tracebacks are those of IPython; those of other kernels
have no frame that is known here, and then their end is all there is.
"""

from __future__ import annotations

import re

_LONGEST = 200_000
"""Characters that are looked at: the notebook's frame is near the top, the error at the end."""
_LINE_CHARS = 500
_OWN = re.compile(r"(?:Cell |Input )?In ?\[\d{1,9}\]|<ipython-input-\d{1,9}-|File <timed (?:exec|eval)>")
"""How the frame of a cell begins in IPython 8 and later, in 8.0, in 7, and below `%%time`."""
_FRAME = re.compile(r"…|File |Cell In|Input In|<ipython-input-|[~/]")
"""How a frame begins, or what `tail` writes where it leaves frames out."""
_ARROW = re.compile(r"-{1,8}> {1,8}\d{1,9} ?")
_TIMED = re.compile(r"File <timed (?:exec|eval)>:(\d{1,9})")
_FRAME_LINES = 8


def own_frame(traceback: str) -> list[str]:
    """Return the lines of the last frame of the notebook's own code, shortened around the line that failed."""
    lines = _bounded(traceback).splitlines()
    starts = [number for number, line in enumerate(lines) if _OWN.match(line)]
    if not starts:
        return []
    end = next((n for n in range(starts[-1] + 1, len(lines)) if not lines[n].strip() or _FRAME.match(lines[n])), None)
    frame = lines[starts[-1] : end]
    at = max((number for number, line in enumerate(frame) if _ARROW.match(line)), default=0)
    first = max(1, at - _FRAME_LINES // 2)
    return [line[:_LINE_CHARS] for line in (frame[0], *frame[first : first + _FRAME_LINES])]


def failed_line(traceback: str, source: str) -> str | None:
    """Return the line of a cell that failed, as its traceback shows it.

    Parameters
    ----------
    traceback
        Without colours.
    source
        The cell. Below `%%time` IPython numbers its lines and does not show them.
    """
    frame = own_frame(traceback)
    if frame and (timed := _TIMED.match(frame[0])):
        body = source.splitlines()[int(timed[1]) :][:1]
        return body[0].strip()[:_LINE_CHARS] if body else None
    marked = [line[match.end() :].strip() for line in frame if (match := _ARROW.match(line))]
    return marked[-1] if marked and marked[-1] else None


def tail(traceback: str, lines: int) -> str:
    """Return the last lines, below the notebook's own last frame where that is further up."""
    every = traceback.strip().splitlines()
    if len(every) <= lines:
        return "\n".join(every)
    frame = own_frame(traceback)
    end = every[-lines:]
    if not frame or frame[0] in (line[:_LINE_CHARS] for line in end):
        return "\n".join(end)
    return "\n".join([*frame, "…", *every[-max(1, lines - len(frame) - 1) :]])


def _bounded(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}\n…\n{text[-_LONGEST // 2 :]}"
