# SPDX-License-Identifier: Apache-2.0
"""What a real browser does with a page: nothing runs, nothing is loaded, everything is visible."""

from __future__ import annotations

import json
import re
import shutil
import sys

import pytest
from nbformat import v4
from support.pages import Page, html_of
from test_sanitize import VECTORS

from runner.stages.convert.page import Look

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH"),
]
PROBE = "document.title = 'pwned'; document.documentElement.dataset.pwned = '1'; fetch('https://evil.example/ran')"
OUTPUT = f"""
<script>{PROBE}</script><img src=x onerror="{PROBE}"><svg onload="{PROBE}"></svg>
<iframe srcdoc="<script>{PROBE}</script>"></iframe>
<a href="javascript:{PROBE}">link</a><button onclick="{PROBE}">b</button>
<style>@import 'https://evil.example/a.css'; body {{ background: url(https://evil.example/b.png) }}</style>
<link rel=stylesheet href="https://evil.example/c.css"><img src="https://evil.example/d.png">
<meta http-equiv=refresh content="0;url=https://evil.example"><p id="seen">visible</p>
"""
SVG = f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9" onload="{PROBE}"><script>{PROBE}</script><image href="https://evil.example/s.png"/></svg>'


def shown(data):
    return v4.new_output("display_data", data=data)


@pytest.fixture
def browser():
    """Give a Chromium that reports each request; the page's file is the only one it may make."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def visit(browser, path, **context):
    """Open a page and return it with the requests that left the browser's own checks for the network."""
    opened = browser.new_context(**context)
    sent: list[str] = []

    def stop(route):
        sent.append(route.request.url)
        route.abort()

    opened.route(lambda url: not url.startswith(("file:", "data:")), stop)
    page = opened.new_page()
    page.goto(path.as_uri(), wait_until="load")
    page.wait_for_timeout(200)  # time for a script or a refresh that must not come
    return page, sent


def hostile_notebook():
    markdown = v4.new_markdown_cell(
        f'# Title\n{OUTPUT}\n\n![x](https://evil.example/m.png)\n\n$\\text{{<img src=x onerror="{PROBE}">}}$'
    )
    outputs = [shown({"text/html": OUTPUT}), shown({"image/svg+xml": SVG}), shown({"application/javascript": PROBE})]
    outputs += [shown({"text/html": vector}) for vector in VECTORS]
    return v4.new_notebook(cells=[markdown, v4.new_code_cell("1", outputs=outputs)])


def test_nothing_runs_and_no_request_leaves_a_page(browser, tmp_path):
    """Scripts, handlers, frames, refreshes and remote files of outputs do nothing in a real browser."""
    path = tmp_path / "page.html"
    path.write_text(html_of(hostile_notebook()), encoding="utf-8", errors="replace")
    page, requests = visit(browser, path)
    assert requests == []
    assert page.title().startswith("Title")
    assert page.evaluate("document.documentElement.dataset.pwned") is None
    assert page.locator(".nb-html #seen").first.is_visible()
    assert len(page.frames) == 1


def test_the_policy_holds_even_without_the_sanitiser(browser, tmp_path):
    """With the raw output put back into the page its scripts still do not run: two walls, each tested alone."""
    html = html_of(v4.new_notebook(cells=[v4.new_markdown_cell("# Title")]))
    path = tmp_path / "page.html"
    path.write_text(html.replace("</main>", OUTPUT.replace("<meta", "<x-meta") + "</main>"), encoding="utf-8")
    page, requests = visit(browser, path)
    assert page.evaluate("document.documentElement.dataset.pwned") is None
    assert page.title() == "Title"
    assert requests == []


def test_a_trusted_page_runs_the_scripts_of_outputs(browser, tmp_path):
    """What the tests above find missing does happen where it may: they can fail."""
    path = tmp_path / "page.html"
    output = "<script>document.title = 'ran'</script><img src='https://cdn.example/a.png'>"
    path.write_text(
        html_of(
            v4.new_notebook(cells=[v4.new_code_cell("1", outputs=[shown({"text/html": output})])]),
            look=Look(trust=True),
        )
    )
    page, requests = visit(browser, path)
    assert requests == ["https://cdn.example/a.png"]
    assert page.title() == "ran"
    assert "Trusted outputs" in page.locator(".nb-trust").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_nothing_sticks_out_of_a_page(browser, tmp_path, scheme, width):
    """Wide tables, lines and formulas scroll inside their box, on a screen and on a telephone."""
    table = "<table class='dataframe'><tr>" + "<td>1234567890</td>" * 60 + "</tr></table>"
    outputs = [
        v4.new_output("stream", name="stdout", text="x" * 3000),
        shown({"text/html": table}),
        shown({"text/latex": "$" + "x+" * 300 + "y$"}),
    ]
    cells = [
        v4.new_markdown_cell("# " + "word " * 40 + "\n| a |\n|---|\n| " + "y" * 400 + " |"),
        v4.new_code_cell("z = " + "1 + " * 200 + "1", outputs=outputs),
    ]
    html = html_of(v4.new_notebook(cells=cells))
    assert Page(html).one("main")
    path = tmp_path / "page.html"
    path.write_text(html, encoding="utf-8")
    page, _ = visit(browser, path, color_scheme=scheme, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_its_ground(browser, tmp_path, scheme):
    """Contrast of code, terminal colours and notes is at least 4.5 to 1, in both themes."""
    colours = "".join(f"\x1b[{code}mcolour {code}\x1b[0m\n" for code in range(31, 37))
    source = 'import os\n# comment\n@decorated\nclass A(Exception):\n    def f(self): return "text" + 1.5 * len(x)\n'
    error = v4.new_output("error", ename="KeyError", evalue="x", traceback=["\x1b[31mKeyError\x1b[0m"])
    cells = [
        v4.new_markdown_cell("# A\n> quote [link](#A) `code`"),
        v4.new_code_cell(source, outputs=[v4.new_output("stream", name="stderr", text=colours), error]),
    ]
    path = tmp_path / "page.html"
    path.write_text(html_of(v4.new_notebook(cells=cells)), encoding="utf-8")
    page, _ = visit(browser, path, color_scheme=scheme)
    assert page.evaluate(CONTRAST) == []


CONTRAST = """() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const linear = v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 };
  const light = c => { const [r, g, b] = c.map(linear);
                       return .2126 * r + .7152 * g + .0722 * b };
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, style = getComputedStyle(e);
    if (!walker.currentNode.data.trim() || style.opacity === '0' || e.closest('.nb-skip, style')) continue;
    const a = light(parse(style.color).slice(0, 3)), b = light(ground(e).slice(0, 3));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) bad.push(`${e.className} ${walker.currentNode.data.trim().slice(0, 20)}: ${ratio.toFixed(2)}`);
  }
  return bad;
}"""


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Install a kernel whose environment has a plotly that says what it is to draw, and no Bokeh."""
    program = tmp_path / "python"
    library = (
        "window.Plotly = {newPlot: (id, data) => { document.getElementById(id).textContent = `drawn ${data.length}`; }}"
    )
    answer = json.dumps({"number": 1, "answer": library + "; // </script> <!--"})
    program.write_text(f"#!/bin/sh\ncat >/dev/null; cat <<'END'\nloading\n{answer}\nEND\n")
    program.chmod(0o755)
    folder = tmp_path / "kernels" / "drawing"
    folder.mkdir(parents=True)
    spec = {"argv": [str(program)], "display_name": "Drawing", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(program))
    return {"name": "drawing", "display_name": "Drawing", "language": "python"}


def test_interactive_figures_work_each_in_its_frame(browser, kernel, tmp_path):
    """Without a network, with each library once, and without a way to the page or to another frame."""
    plotly = {"application/vnd.plotly.v1+json": {"data": [{}, {}], "layout": {"title": "</script><b>"}}}
    handler = "<button onclick=\"this.textContent = 'played'\">play</button><script>window.player = 1</script>"
    hostile = f"<script>try {{ parent.document.title = 'pwned' }} catch (error) {{ }} {PROBE}</script><i>hostile</i>"
    outputs = [shown(plotly), shown(plotly), shown({"text/html": handler}), shown({"text/html": hostile})]
    bokeh = {
        "application/javascript": "draw()",
        "application/vnd.bokehjs_exec.v0+json": "",
        "text/plain": "plain bokeh",
    }
    cell = v4.new_code_cell("1", outputs=[*outputs, shown(bokeh)])
    path = tmp_path / "page.html"
    html = html_of(
        v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel}), look=Look(interactive=True), title="mine"
    )
    path.write_text(html)
    page, sent = visit(browser, path)
    frames = page.frames[1:]
    assert [frame.locator("#figure").inner_text() for frame in frames[:2]] == ["drawn 2", "drawn 2"]
    frames[2].locator("button").click()
    assert frames[2].locator("button").inner_text() == "played"
    assert "hostile" in frames[3].locator("body").inner_text()
    assert (len(frames), page.title(), page.locator("html").get_attribute("data-pwned"), sent) == (4, "mine", None, [])
    assert {frame.get_attribute("sandbox") for frame in page.locator("iframe").all()} == {"allow-scripts"}
    assert html.count("window.Plotly") == 1
    assert "plain bokeh" in page.locator("main").inner_text()
    assert (
        "Figures of bokeh are not interactive: bokeh is missing in the kernel's environment"
        in page.locator("header").inner_text()
    )


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("throw new Error('no such glyph')", "Nothing was drawn: Uncaught Error: no such glyph"),
        ("Promise.reject(new Error('no such glyph'))", "Nothing was drawn: Error: no such glyph"),
        ("document.body.append('figure'); throw new Error('after it')", "figure"),
        (
            "const lost = document.createElement('script'); lost.src = 'https://cdn.example/a.js'; document.body.append(lost)",
            "Not loaded, as a figure has no network: https://cdn.example/a.js",
        ),
    ],
)
def test_a_frame_says_why_it_stays_empty(browser, tmp_path, script, text):
    """An error of its scripts, or what they would load; names of its own are left to them."""
    from playwright.sync_api import expect

    cell = v4.new_code_cell("1", outputs=[shown({"text/html": f"<script>{script}</script>"})])
    path = tmp_path / "page.html"
    path.write_text(html_of(v4.new_notebook(cells=[cell]), look=Look(interactive=True)))
    page, sent = visit(browser, path)
    expect(page.frames[1].locator("body")).to_have_text(
        re.compile(r"\S"), timeout=60_000
    )  # its policy forbids what evaluates text
    page.wait_for_timeout(500)
    assert (page.frames[1].locator("body").inner_text().strip(), sent) == (text, [])


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example/leaflet.js"></script><script>L.map()</script><p>map</p>',
        "<p>molecule</p><script>$3Dmolpromise = load('https://cdn.example/3Dmol.js')</script>",
    ],
)
def test_what_only_a_network_has_stays_a_note(browser, tmp_path, html):
    """A figure whose scripts are in no package is not made a frame that stays empty."""
    cell = v4.new_code_cell("1", outputs=[shown({"text/html": html})])
    path = tmp_path / "page.html"
    path.write_text(html_of(v4.new_notebook(cells=[cell]), look=Look(interactive=True)))
    page, sent = visit(browser, path)
    assert page.locator("iframe").count() == 0
    assert "Scripts of this output were removed; run `runner convert --trust-html" in page.locator("main").inner_text()
    assert sent == []
