# SPDX-License-Identifier: Apache-2.0
"""What the packages of the notebook's kernel can give a page: libraries of scripts, and pictures of figures."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterable, Sequence
from typing import Any

from runner.core import log

_ASK = """
import base64, importlib.util, json, sys

def panel():
    import bokeh.resources, panel, pathlib
    return bokeh_js() + "\\n" + (pathlib.Path(panel.__file__).parent / "dist" / "panel.min.js").read_text()

def bokeh_js():
    import bokeh.resources
    return "\\n".join(bokeh.resources.INLINE.js_raw)

def plotly_picture(figure):
    import kaleido, plotly.io
    if not servers and hasattr(kaleido, "start_sync_server"):
        kaleido.start_sync_server(silence_warnings=True)
        servers.append(kaleido)
    return plotly.io.to_image(figure, format="png", scale=2, validate=False)

def vega_picture(spec):
    import vl_convert
    lite = "vega-lite" in str(spec.get("$schema", "vega-lite"))
    draw = vl_convert.vegalite_to_png if lite else vl_convert.vega_to_png
    return draw(spec, scale=2, allowed_base_urls=[])

servers = []
libraries = {
    "plotly": lambda: __import__("plotly.offline").offline.get_plotlyjs(),
    "bokeh": bokeh_js,
    "panel": panel,
    "vega": lambda: __import__("vl_convert").javascript_bundle(),
}
pictures = {"plotly": plotly_picture, "vega": vega_picture}
for number, (what, name, content) in enumerate(json.load(sys.stdin)):
    try:
        if what == "library":
            answer = libraries[name]()
        else:
            answer = base64.b64encode(pictures[name](content)).decode()
        print(json.dumps({"number": number, "answer": answer}), flush=True)
    except Exception as error:
        print(json.dumps({"number": number, "failed": f"{type(error).__name__}: {error}"[:300]}), flush=True)
for server in servers:
    server.stop_sync_server(silence_warnings=True)
"""
_NOWHERE = {
    **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9"),
    "no_proxy": "<-loopback>",
}
"""A figure that names an address gets nothing from there: what draws it runs a browser, which otherwise goes to this
machine and to link-local addresses by itself."""


def ask(pythons: Iterable[str], questions: Sequence[tuple[str, str, Any]], *, seconds: float) -> dict[int, str]:
    """Return the answers by the number of their question; each Python is asked what those before it did not know.

    Parameters
    ----------
    pythons
        Programs, that of the kernel first.
    questions
        ``library`` and its name, or ``picture``, the library that draws it, and what from.
    seconds
        How long one program has; what it said until then counts.
    """
    answers: dict[int, str] = {}
    for python in dict.fromkeys(pythons):
        left = [number for number in range(len(questions)) if number not in answers]
        if left:
            failed: set[str] = set()
            for line in _said(python, json.dumps([questions[number] for number in left]), seconds).splitlines():
                with contextlib.suppress(
                    ValueError, LookupError, TypeError, AttributeError
                ):  # packages print on their own
                    said = json.loads(line)
                    if isinstance(said.get("answer"), str):
                        answers[left[said["number"]]] = said["answer"]
                    elif len(failed) < 5:
                        failed.add(str(said["failed"]))
            for reason in sorted(failed):
                log.info("interactive", python=python, reason=reason)
    return answers


def _said(python: str, question: str, seconds: float) -> bytes:
    """Return what a Python prints, until its time is over; browsers that it started end with it."""
    try:
        process = subprocess.Popen(
            [python, "-c", _ASK],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",  # where no module of the notebook's folder hides a package
            env={
                **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
                **_NOWHERE,
                "PYTHONSAFEPATH": "1",
            },
            start_new_session=True,
        )
    except OSError as error:
        log.warning("interactive", python=python, reason=f"its packages cannot be asked: {error}")
        return b""
    with process:
        try:
            return process.communicate(question.encode(), timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            log.warning("interactive", python=python, reason=f"not all figures were drawn within {seconds:g} s")
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0]
