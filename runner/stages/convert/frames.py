# SPDX-License-Identifier: Apache-2.0
"""Interactive outputs, each in a separate frame that works offline.

A frame is sandboxed without the page's origin, so its scripts can access neither the page nor other frames. The page's
policy allows only the scripts in the page, by their hashes, and no URLs. The libraries (plotly, Bokeh, Vega) come from
the packages of the notebook's kernel and are in the page once; `frames.js` inserts them into the frames that need them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

from runner.core.surrogates import without_surrogates
from runner.core.templates import policy_hash
from runner.stages.convert.environment import ask
from runner.stages.convert.figures import Figure, text_of

_SECONDS = 60
_PACKAGES = {"plotly": "plotly", "bokeh": "bokeh", "panel": "panel", "vega": "vl-convert-python"}
_BOKEH = "application/vnd.bokehjs_exec.v0+json"
_HOLOVIEWS = "application/vnd.holoviews_exec.v0+json"
_LOADED = re.compile(r"<script\b[^>]{0,2000}\bsrc=[^>]{0,2000}>\s*</script>|<link\b[^>]{0,2000}>", re.IGNORECASE)
"""Elements of a fragment that load from the network."""
_SCRIPTS = {"", "text/javascript", "application/javascript", "module"}
_ONLINE = "$3Dmolpromise"
"""The call with which py3Dmol loads its library from the network."""
_WATCH = """{
const problems = [], shown = new Set();
addEventListener('error', (event) => problems.push(event.message || 'a script failed'));
addEventListener('unhandledrejection', (event) => problems.push(`${event.reason}`));
addEventListener('securitypolicyviolation', ({ blockedURI }) => {
  if (blockedURI.startsWith('http')) problems.push(`Not loaded, as a figure has no network: ${blockedURI}`);
});
const drawn = () => document.body.innerText.trim() || [...document.body.querySelectorAll('*')].some(
  (one) => (one.shadowRoot && one.offsetHeight) || one.matches('svg, canvas, img, video, audio, input, button'));
const report = () => {
  const empty = shown.size === 0 && !drawn();
  for (const text of problems.filter((one) => one.startsWith('Not loaded') || empty)) {
    if (shown.has(text) || shown.size >= 3) continue;
    shown.add(text);
    const line = document.createElement('p');
    line.style.font = '14px sans-serif';
    line.style.overflowWrap = 'anywhere';
    line.textContent = text.startsWith('Not loaded') ? text.slice(0, 300) : `Nothing was drawn: ${text.slice(0, 300)}`;
    document.body.append(line);
  }
  parent.postMessage(document.body.scrollHeight + 16, '*');
};
addEventListener('load', () => [300, 3000].forEach((wait) => setTimeout(report, wait)));
}"""
"""Shows in the frame failed loads and errors of its scripts, and sends its height to the page."""


@dataclass(frozen=True, slots=True)
class Frame:
    """An interactive output."""

    document: str
    library: str
    """Name of the library that its scripts need, empty for none."""


class Frames:
    """The frames of a page.

    Parameters
    ----------
    outputs
        The outputs of each cell, including those in widgets.
    figures
        Their figures by the id of the output.
    pythons
        Python executables whose packages provide the libraries.
    """

    def __init__(
        self,
        outputs: Sequence[Sequence[Mapping[str, Any]]],
        figures: Mapping[int, Figure],
        pythons: Sequence[str],
    ) -> None:
        self._by_output: dict[int, Frame] = {}
        for before, output in (pair for cell in outputs for pair in pairwise([{}, *cell])):
            if frame := frame_of(output.get("data"), before.get("data"), figures.get(id(output))):
                self._by_output[id(output)] = frame
        wanted = sorted({frame.library for frame in self._by_output.values() if frame.library})
        found = ask(pythons, [("library", name, None) for name in wanted], seconds=_SECONDS)
        self.libraries = {wanted[number]: _in_page(text) for number, text in sorted(found.items())}
        """Libraries in the page, by name."""
        self.missing = {name: _PACKAGES[name] for name in wanted if name not in self.libraries}
        """Packages missing from the kernel's environment, by the library that they provide."""

    def of(self, output: Mapping[str, Any]) -> Frame | None:
        """Return the frame of an output; None if it is not interactive, or its library is unavailable."""
        frame = self._by_output.get(id(output))
        return None if frame is None or frame.library in self.missing else frame

    def lacking(self, output: Mapping[str, Any]) -> str:
        """Return the missing package that an interactive output needs, empty for none."""
        frame = self._by_output.get(id(output))
        return self.missing.get(frame.library, "") if frame else ""

    def policy(self, script: str) -> str:
        """Return the script policy: the page's own script, the libraries, and those of the frames."""
        allowed = [script, *self.libraries.values()]
        for frame in self._by_output.values():
            allowed += _Scripts(frame.document).inline
        hashes = " ".join(sorted({f"'{policy_hash(text)}'" for text in allowed}))
        evaluated = " 'unsafe-eval'" if "vega" in self.libraries else ""  # it compiles expressions to functions
        return f"script-src 'unsafe-hashes'{evaluated} {hashes}"


def frame_of(data: object, before: object = None, figure: Figure | None = None) -> Frame | None:
    """Return the frame of an interactive MIME bundle, None if it cannot work offline.

    Bokeh puts the element that it renders to in the output ``before`` that of its script.
    """
    if not isinstance(data, dict):
        return None
    if figure and figure.library == "plotly":
        parts = ", ".join(_json(figure.content[key]) for key in ("data", "layout"))
        return Frame(_document("", f"Plotly.newPlot('figure', {parts}, {{responsive: true}})"), "plotly")
    if figure:
        return Frame(_document("", f"vegaEmbed('#figure', {_json(figure.content)}, {{actions: false}})"), "vega")
    html = text_of(data.get("text/html"))
    if _BOKEH in data:
        html = html or text_of(before.get("text/html") if isinstance(before, dict) else "")
        return Frame(_document(html, text_of(data.get("application/javascript")).replace("</", "<\\/")), "bokeh")
    scripts = _Scripts(html) if "<script" in html[:50_000_000].lower() else None
    if scripts is None or not scripts.inline or scripts.foreign or _ONLINE in html:
        return None
    library = "panel" if _HOLOVIEWS in data else next(iter(scripts.known), "")
    return Frame(_document(_LOADED.sub("", html), ""), library)


def _document(html: str, script: str) -> str:
    ran = f"<script>{_newlines(script)}</script>" if script else ""
    return f'<script>{_WATCH}</script><div id="figure"></div>{_newlines(html)}{ran}'


def _newlines(text: str) -> str:
    """Return text as normalized by a browser before it computes the hash."""
    return without_surrogates(text).replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")


def _json(value: object) -> str:
    return json.dumps(value).replace("<", "\\u003c")


def _in_page(script: str) -> str:
    return _newlines(re.sub(r"</(?=script)", r"<\\/", script, flags=re.IGNORECASE).replace("<!--", "\\x3c!--"))


class _Scripts(HTMLParser):
    """The scripts of a fragment: inline ones, including handlers, and the libraries it loads."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.inline: list[str] = []
        self.known: set[str] = set()
        self.foreign = False
        """True if it loads something that no package provides."""
        self._script: list[str] | None = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inline += [value for name, value in attrs if name.startswith("on") and value]
        found = dict(attrs)
        if tag != "script":
            self.foreign = self.foreign or tag in {"iframe", "object", "embed"}
        elif (source := found.get("src")) is not None:
            library = next((name for name in _PACKAGES if name in source.rpartition("/")[2]), None)
            self.known |= {library} if library else set()
            self.foreign = self.foreign or library is None
        elif (found.get("type") or "").lower() in _SCRIPTS:
            self._script = []

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self._script.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "script" and self._script is not None:
            self.inline.append("".join(self._script))
            self._script = None
