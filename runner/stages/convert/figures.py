# SPDX-License-Identifier: Apache-2.0
"""Find the specifications of plotly and Vega/Altair figures in outputs.

They are saved as JSON under a MIME type, or as HTML with a script that renders them and loads the library from the
network: the default of Altair and of plotly's notebook renderers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

_PLOTLY = "application/vnd.plotly.v1+json"
_VEGA = re.compile(r"application/vnd\.vega(?:lite)?\.v\d[\d.]{0,10}\+json")
_LOADERS = {"application/vnd.bokehjs_load.v0+json", "application/vnd.holoviews_load.v0+json"}
_BOKEH_PLACE = re.compile("data-root-id|bk-plotdiv")  # the second before Bokeh 1.0
_CALLS = 20
_DECODER = json.JSONDecoder()


class Figure(NamedTuple):
    """A figure."""

    library: str
    """``plotly`` or ``vega``."""
    content: dict[str, Any]
    """``data`` and ``layout`` of plotly, or a Vega or Vega-Lite specification."""


def figure_of(data: object) -> Figure | None:
    """Return the figure in a MIME bundle, None if it has none."""
    if not isinstance(data, dict):
        return None
    if isinstance(figure := data.get(_PLOTLY), dict):
        return Figure("plotly", {"data": figure.get("data", []), "layout": figure.get("layout", {})})
    vega = next((value for kind, value in data.items() if _VEGA.fullmatch(str(kind))), None)
    if isinstance(vega, dict):
        return Figure("vega", vega)
    html = text_of(data.get("text/html"))
    for arguments in _calls(html, "Plotly.newPlot("):
        if [type(argument) for argument in arguments] == [str, list, dict]:
            return Figure("plotly", {"data": arguments[1], "layout": arguments[2]})
    if "function(spec, embedOpt)" in html:
        for arguments in _calls(html, "})("):
            if arguments and isinstance(arguments[0], dict):
                return Figure("vega", arguments[0])
    return None


def auxiliary(outputs: Sequence[Mapping[str, Any]]) -> set[int]:
    """Return the ids of outputs without content: they load a library or are the placeholder of the next one."""
    found = set()
    for before, output in pairwise([{}, *outputs]):
        data, earlier = dict_of(output.get("data")), dict_of(before.get("data"))
        html, place = text_of(data.get("text/html")).strip(), text_of(earlier.get("text/html"))
        if not _LOADERS.isdisjoint(data):
            found |= {id(output), *([id(before)] if place.startswith("<script") or "bk-notebook-logo" in place else [])}
        elif "application/vnd.holoviews_exec.v0+json" in data and "panel.models.browser.BrowserInfo" in html:
            found.add(id(output))
        elif html.startswith("<script") and ("plotly.js v" in html or "cdn.plot.ly/plotly" in html):
            found |= {id(output)} if html.endswith("</script>") and figure_of(data) is None else set()
        elif "application/vnd.bokehjs_exec.v0+json" in data and not html and _BOKEH_PLACE.search(place):
            found.add(id(before))
    return found


def text_of(value: object) -> str:
    """Return a text field of a notebook, which may be stored as a list of lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(part for part in value if isinstance(part, str))
    return "" if value is None else str(value)


def dict_of(value: object) -> dict[str, Any]:
    """Return a mapping of a notebook, empty if it has another type."""
    return value if isinstance(value, dict) else {}


def _calls(script: str, opener: str) -> Iterator[list[Any]]:
    """Yield the JSON arguments, at most three, of the last calls of a function."""
    end = len(script)
    for _ in range(_CALLS):
        end = script.rfind(opener, 0, end)
        if end < 0:
            return
        position = end + len(opener)
        arguments: list[Any] = []
        try:
            while len(arguments) < 3:
                position += len(script[position : position + 1000]) - len(script[position : position + 1000].lstrip())
                argument, position = _DECODER.raw_decode(script, position)
                arguments.append(argument)
                position += script[position : position + 1] == ","
        except (ValueError, RecursionError):
            pass
        yield arguments
