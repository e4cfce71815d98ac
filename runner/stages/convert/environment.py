# SPDX-License-Identifier: Apache-2.0
"""Get JavaScript libraries and pictures of figures from the packages of the notebook's kernel."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from runner.core import log

if TYPE_CHECKING:
    from runner.stages.convert.figures import Figure

_SCRIPT = """
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
_NO_NETWORK = {
    **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9"),
    "no_proxy": "<-loopback>",
}
"""Block URLs in figures: the browser that renders them would otherwise reach this machine and link-local addresses."""

_SECONDS = 60
_MOST = 200


def ask(pythons: Iterable[str], questions: Sequence[tuple[str, str, Any]], *, seconds: float) -> dict[int, str]:
    """Return answers by the index of their question; each Python gets the questions still unanswered.

    Parameters
    ----------
    pythons
        Python executables, the kernel's first.
    questions
        ``library``, its name and None; or ``picture``, the library that renders it, and the figure.
    seconds
        Time limit per executable; answers before that count.
    """
    answers: dict[int, str] = {}
    for python in dict.fromkeys(pythons):
        left = [number for number in range(len(questions)) if number not in answers]
        if left:
            failed: set[str] = set()
            output = _output(python, json.dumps([questions[number] for number in left]), seconds)
            for line in output.splitlines():
                # Packages may print other lines.
                with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
                    reply = json.loads(line)
                    if isinstance(reply.get("answer"), str):
                        answers[left[reply["number"]]] = reply["answer"]
                    elif len(failed) < 5:
                        failed.add(str(reply["failed"]))
            for reason in sorted(failed):
                log.info("interactive", python=python, reason=reason)
    return answers


def _output(python: str, questions: str, seconds: float) -> bytes:
    """Return the output of a Python within the time limit; its browsers are ended with it."""
    try:
        process = subprocess.Popen(
            [python, "-c", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",  # modules in the notebook's folder must not shadow packages
            env={
                **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
                **_NO_NETWORK,
                "PYTHONSAFEPATH": "1",
            },
            start_new_session=True,
        )
    except OSError as error:
        log.warning("interactive", python=python, reason=f"cannot be started: {error}")
        return b""
    with process:
        try:
            return process.communicate(questions.encode(), timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            log.warning("interactive", python=python, reason=f"not all figures were rendered within {seconds:g} s")
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0]


class Pictures:
    """The pictures of a page, all rendered on first access.

    Parameters
    ----------
    figures
        The figures by the id of their output.
    pythons
        Python executables whose packages render.
    """

    def __init__(self, figures: Mapping[int, Figure], pythons: Sequence[str]) -> None:
        self._figures = dict(list(figures.items())[:_MOST])
        self._pythons = pythons

    def of(self, output: Mapping[str, Any]) -> str | None:
        """Return the PNG of an output in base64, None without a figure or a renderer."""
        return self._rendered.get(id(output)) if id(output) in self._figures else None

    @cached_property
    def _rendered(self) -> dict[int, str]:
        questions = [("picture", figure.library, _offline(figure)) for figure in self._figures.values()]
        answers = ask(self._pythons, questions, seconds=_SECONDS)
        return {key: answers[number] for number, key in enumerate(self._figures) if number in answers}


def png_size(encoded: str) -> tuple[int, int]:
    """Return width and height of a PNG in base64."""
    head = base64.b64decode(encoded[:64])
    return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])


def _offline(figure: Figure) -> dict[str, Any]:
    """Return a figure's content without images from files or the network."""
    layout = figure.content.get("layout")
    if figure.library != "plotly" or not isinstance(layout, dict) or not isinstance(layout.get("images"), list):
        return figure.content
    own = [one for one in layout["images"] if isinstance(one, dict) and str(one.get("source")).startswith("data:")]
    return {**figure.content, "layout": {**layout, "images": own}}
