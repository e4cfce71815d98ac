# SPDX-License-Identifier: Apache-2.0
"""Interactive figures are found however a library saved them, and drawn where a package can."""

from __future__ import annotations

import base64
import json
import sys
import time

import pytest
from nbformat import v4
from support.pages import Page, html_of

from runner.stages.convert.environment import ask
from runner.stages.convert.figures import auxiliary, figure_of
from runner.stages.convert.page import Look

DATA, LAYOUT = [{"type": "scatter", "y": [1, 2], "name": "a, (b) })("}], {"title": {"text": "</script>"}}
PLOTLY = {"application/vnd.plotly.v1+json": {"data": DATA, "layout": LAYOUT}}
NEW_PLOT = (
    '<div id="f"></div><script src="https://cdn.example/mathjax.js"></script><script>if (document.getElementById("f")) '
    f'{{ Plotly.newPlot(  "f",   {json.dumps(DATA)},  {json.dumps(LAYOUT)},  {{"responsive": true}} ) }};</script>'
)
SPEC = {
    "$schema": "https://vega.github.io/schema/vega-lite/v6.1.0.json",
    "mark": "line",
    "data": {"values": [{"a": 1}]},
}
ALTAIR = (
    '<div id="v"></div><script>(function(spec, embedOpt){ load("https://cdn.example/vega").then(() => (function() {})());'
    f' }})({json.dumps(SPEC)}, {{"mode": "vega-lite"}});</script>'
)


@pytest.mark.parametrize(
    ("data", "library", "content"),
    [
        (PLOTLY, "plotly", {"data": DATA, "layout": LAYOUT}),
        ({"text/html": NEW_PLOT}, "plotly", {"data": DATA, "layout": LAYOUT}),
        ({"text/html": f"<script>/** plotly.js v3 */ a.newPlot(Plotly.newPlot(b))</script>{NEW_PLOT}"}, "plotly", None),
        ({"text/html": NEW_PLOT.splitlines(keepends=True)}, "plotly", None),
        ({"application/vnd.vegalite.v5+json": SPEC}, "vega", SPEC),
        ({"text/html": ALTAIR}, "vega", SPEC),
    ],
)
def test_a_figure_is_found_in_each_form_that_libraries_save(data, library, content):
    """As JSON under its MIME type, or in the script of an HTML output."""
    found = figure_of(data)
    assert found.library == library
    assert content is None or found.content == content


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"application/vnd.plotly.v1+json": "text"},
        {"text/html": "Plotly.newPlot(" * 100_000},
        {"text/html": "function(spec, embedOpt)" + '})({"a":' * 100_000},
        {"text/html": 'Plotly.newPlot("f", ' + "[" * 1_000_000},
        {"text/html": 'Plotly.newPlot("f"' + " " * 5_000_000},
    ],
)
def test_what_is_no_figure_or_broken_is_none(data):
    """Also where calls repeat, or nest without an end."""
    assert figure_of(data) is None


@pytest.mark.parametrize("place", ['<div id="p" data-root-id="p1"></div>', '<div class="bk-plotdiv" id="p"></div>'])
def test_outputs_that_only_load_a_library_are_not_shown(place):
    """Neither they, nor the place where the script of the next output draws, leave a note behind."""
    logo = {"text/html": '<a class="bk-notebook-logo"></a><span>Loading BokehJS ...</span>'}
    loader = {"application/javascript": "load()", "application/vnd.bokehjs_load.v0+json": "load()"}
    place = {"text/html": place}
    drawing = {"application/javascript": "draw()", "application/vnd.bokehjs_exec.v0+json": ""}
    plotly = {"text/html": "<script>/** plotly.js v3.0 */</script>"}
    own = {"text/html": "<p>read me</p>"}
    outputs = [v4.new_output("display_data", data=one) for one in (logo, loader, own, place, drawing, plotly)]
    hidden = auxiliary(outputs)
    assert [id(output) in hidden for output in outputs] == [True, True, False, True, False, True]
    page = Page(html_of(v4.new_notebook(cells=[v4.new_code_cell("1", outputs=outputs)])))
    assert "Bokeh figure" in page.one(having="nb-note").text


def test_a_page_with_interactive_figures_names_the_package_that_one_lacks(monkeypatch):
    """It does not advise the option that it was made with."""
    monkeypatch.setattr(sys, "executable", "/bin/true")
    outputs = [v4.new_output("display_data", data=data) for data in ({"text/html": ALTAIR}, PLOTLY)]
    cell = v4.new_code_cell("1", outputs=outputs)
    page = Page(html_of(v4.new_notebook(cells=[cell]), look=Look(interactive=True)))
    notes = [note.text for note in page.all(having="nb-note")]
    assert ["install vl-convert-python" in notes[0], "install plotly" in notes[1]] == [True, True]
    assert not any("--interactive" in note for note in notes)


@pytest.fixture
def drawing(tmp_path, monkeypatch):
    """Give the environment packages with the calls of the real ones, which say on a picture what they were asked."""
    (tmp_path / "plotly").mkdir()
    (tmp_path / "plotly" / "__init__.py").touch()
    (tmp_path / "plotly" / "io.py").write_text(
        "import json, kaleido, os\n"
        "def to_image(figure, *, format, scale, validate):\n"
        "    assert kaleido.started == 1 and os.environ['https_proxy'].endswith(':9')\n"
        "    assert {os.environ.get(n) for n in ('no_proxy', 'NO_PROXY', 'HTTPS_PROXY')} == {'<-loopback>', None}\n"
        "    print('a package says something')\n"
        "    if figure['layout'].get('width') == -1: raise ValueError('no such width')\n"
        "    return b'\\x89PNG\\r\\n\\x1a\\n\\0\\0\\0\\rIHDR' + (640).to_bytes(4) + (480).to_bytes(4) + json.dumps(figure).encode()\n"
    )
    (tmp_path / "kaleido.py").write_text(
        "started = 0\n"
        "def start_sync_server(silence_warnings):\n    global started\n    started += 1\n"
        "def stop_sync_server(silence_warnings): pass\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")


def shown(*bundles, widgets=None):
    outputs = [v4.new_output("display_data", data=data) for data in bundles]
    notebook = v4.new_notebook(cells=[v4.new_code_cell("1", outputs=outputs)])
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": widgets or {}}}
    return Page(html_of(notebook, name="nb"))


@pytest.mark.usefixtures("drawing")
def test_a_picture_stands_for_a_figure_that_needs_scripts():
    """Drawn by the packages of the kernel, in the size of the figure; one that cannot be drawn keeps its note."""
    remote = {"source": "https://evil.example/a.png"}
    layout = {"images": [remote, {"source": "data:image/png;base64,AA"}]}
    figures = [
        PLOTLY,
        {"text/html": NEW_PLOT},
        *({"application/vnd.plotly.v1+json": {"layout": one}} for one in (layout, {"width": -1})),
    ]
    page = shown(*figures)
    sources = [image.attributes["src"] for image in page.all("img")]
    assert [(image.attributes["width"], image.attributes["height"]) for image in page.all("img")] == [
        ("320", "240")
    ] * 3
    drawn = [base64.b64decode(source.partition(",")[2])[24:] for source in sources]
    assert [json.loads(one) for one in drawn[:2]] == [{"data": DATA, "layout": LAYOUT}] * 2
    assert json.loads(drawn[2])["layout"] == {"images": layout["images"][1:]}
    notes = [note.text for note in page.all(having="nb-note")]
    assert all("runner convert --interactive nb.executed.ipynb" in note for note in notes)
    assert ["Static picture" in note for note in notes] == [True, True, True, False]


@pytest.mark.usefixtures("drawing")
def test_a_picture_that_was_saved_is_taken_as_it_is():
    """A figure with a picture beside it is not drawn again."""
    page = shown({**PLOTLY, "image/png": "c2F2ZWQ="})
    assert page.one("img").attributes["src"] == "data:image/png;base64,c2F2ZWQ="


def figure_widget(trace, prefix="_widget_", **more):
    state = {f"{prefix}data": [trace], f"{prefix}layout": LAYOUT}
    return {"model_name": "AnyModel", "model_module": "anywidget", "state": state, **more}


def view(model, text="FigureWidget({})"):
    return {"application/vnd.jupyter.widget-view+json": {"model_id": model}, "text/plain": text}


@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize("prefix", ["_widget_", "_"])
def test_a_figure_widget_is_drawn_from_its_state(prefix):
    """As it was displayed, with the numbers that the state keeps apart; in a box below what controls are set to."""
    place = {"dtype": "int32", "shape": [2]}
    numbers = base64.b64encode(b"\7\0\0\0\x08\0\0\0").decode()
    buffers = [{"encoding": "base64", "path": [f"{prefix}data", 0, "y", "buffer"], "data": numbers}]
    widgets = {
        "f": figure_widget({"type": "bar", "y": dict(place)}, prefix, buffers=buffers),
        "k": {"model_name": "IntSliderModel", "state": {"value": 3, "description": "k"}},
        "box": {"model_name": "HBoxModel", "state": {"children": ["IPY_MODEL_k", "IPY_MODEL_f"]}},
    }
    page = shown(view("f"), view("box", "HBox()"), widgets=widgets)
    drawn = [base64.b64decode(image.attributes["src"].partition(",")[2])[24:] for image in page.all("img")]
    assert [json.loads(one) for one in drawn] == [{"data": [{"type": "bar", "y": [7, 8]}], "layout": LAYOUT}] * 2
    assert "k: 3" in page.text
    assert "FigureWidget" not in page.text
    assert widgets["f"]["state"][f"{prefix}data"][0]["y"] == place


@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize(
    "buffers",
    [
        7,
        [7],
        [{"path": [], "data": "AA=="}],
        [{"path": ["_widget_data", 9, "y", "buffer"], "data": "AA=="}],
        [{"path": ["_widget_data", 0, "y", "buffer"], "data": 7}],
        [{"path": ["_widget_data", 0, "y", "buffer"], "data": "AA=="}],
        [{"path": ["_models", 0, "y", "buffer"], "data": "AA=="}],
    ],
)
def test_a_damaged_state_of_a_figure_widget_costs_no_page(buffers):
    """Numbers that cannot be read stay away."""
    widgets = {"f": figure_widget({"y": {"dtype": "float64"}}, buffers=buffers)}
    assert len(shown(view("f"), widgets=widgets).all("img")) == 1


def test_widgets_that_hold_each_other_are_opened_once():
    """Each of these is in the other two hundred times."""
    other = {"a": "b", "b": "a"}
    widgets = {
        name: {
            "model_name": "OutputModel",
            "state": {"outputs": [v4.new_output("display_data", data=view(other[name], name))] * 200},
        }
        for name in other
    }
    assert len(shown(view("a", "top"), widgets=widgets).all(having="nb-note")) < 500


def test_altair_draws_its_own_charts():
    """The picture of vl-convert is a PNG of the chart, which loads nothing."""
    pytest.importorskip("vl_convert")
    chart = {**SPEC, "data": {"values": [{"a": 1, "b": 2}, {"a": 2, "b": 1}]}}
    chart["encoding"] = {"x": {"field": "a", "type": "quantitative"}, "y": {"field": "b", "type": "quantitative"}}
    page = shown({"text/html": ALTAIR.replace(json.dumps(SPEC), json.dumps(chart))})
    image = page.one("img").attributes
    assert base64.b64decode(image["src"].partition(",")[2]).startswith(b"\x89PNG")
    assert int(image["width"]) > 200


def test_an_environment_that_hangs_or_lies_costs_no_page(tmp_path, monkeypatch):
    """What it said until its time was over counts, and the next environment is asked for the rest."""
    slow, other = tmp_path / "slow", tmp_path / "other"
    first = '{"number": 0, "answer": "one"}'
    slow.write_text(
        f"#!/bin/sh\necho '{first}'; echo '[]'; echo '{{\"number\": 9, \"answer\": \"x\"}}'; exec sleep 600\n"
    )
    other.write_text('#!/bin/sh\necho \'{"number": 0, "answer": "two"}\'\n')
    for program in (slow, other):
        program.chmod(0o755)
    started = time.monotonic()
    answers = ask(
        [str(slow), str(tmp_path / "none"), str(other)], [("library", n, None) for n in ("a", "b")], seconds=1
    )
    assert answers == {0: "one", 1: "two"}
    assert time.monotonic() - started < 300


def test_no_program_is_started_for_a_notebook_without_figures(monkeypatch):
    """A page of tables and pictures asks nobody."""
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    monkeypatch.setattr("runner.stages.convert.environment.ask", lambda *_, **__: pytest.fail("asked"))
    assert shown({"text/html": "<table><tr><td>1"}).one("td")
