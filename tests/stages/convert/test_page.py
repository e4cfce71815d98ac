# SPDX-License-Identifier: Apache-2.0
"""An executed notebook becomes one page that reads well, needs no network and runs nothing."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbformat import v4
from support.pages import Page, dangers, html_of

from runner.core.errors import BrokenInputError, RecordError
from runner.stages.convert.page import (
    Look,
    convert,
    find_notebooks,
    notebook_name,
    preload,
    write_page,
)
from runner.stages.convert.terminal import terminal_html

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def code(source="1", outputs=(), **metadata):
    return v4.new_code_cell(source, outputs=list(outputs), metadata=metadata, execution_count=1)


def shows(data, metadata=None):
    return v4.new_output("display_data", data=data, metadata=metadata or {})


def stream(text, name="stdout"):
    return v4.new_output("stream", name=name, text=text)


def page_of(*cells, metadata=None, **options) -> Page:
    return Page(html_of(unchecked(cells, metadata), name="nb", **options))


def unchecked(cells, metadata=None) -> dict:
    """Return a notebook that nbformat did not check: on disk there is none that did."""
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata or {}, "cells": list(cells)}


def output_page(data, **options) -> Page:
    return page_of(code(outputs=[shows(data)]), **options)


# --- the page


def test_the_page_is_whole_safe_and_accessible():
    """Language, character set, title, policy, main landmark and skip link are there, and nothing is loaded."""
    page = page_of(v4.new_markdown_cell("## Load *data*\n\nText"), code(outputs=[stream("1\n")]))
    assert page.html.startswith("<!DOCTYPE html>")
    assert page.one("html").attributes["lang"] == "en"
    assert page.one("title").text == "Load data"
    assert page.one("main").attributes["id"] == "notebook"
    assert page.all("meta")[0].attributes == {"charset": "utf-8"}
    policy = page.all("meta")[1].attributes
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert "default-src 'none'" in policy["content"]
    assert "script-src 'none'" in policy["content"]
    assert dangers(page.html) == []


def test_the_stylesheet_is_small():
    """A page of one cell stays below 20 kB; that of nbconvert has 280."""
    assert len(page_of(code()).html) < 20_000


def test_the_title_is_the_name_where_no_heading_says_more():
    """A notebook without headings is called by its name, which is then the main heading."""
    page = page_of(code())
    assert page.one("title").text == "nb"
    assert page.one("h1").text == "nb"
    assert page_of(code(), title="Given <b>").one("title").text == "Given <b>"


def test_the_name_of_a_notebook_cannot_break_the_page():
    """Names are escaped wherever they stand, the text of images included."""
    notebook = v4.new_notebook(cells=[code(outputs=[shows({"image/png": PIXEL})])])
    html = html_of(notebook, name='"><script>alert(1)</script>')
    assert dangers(html) == []
    assert Page(html).one("img").attributes["alt"].endswith('of "><script>alert(1)</script>')


def test_headings_stay_headings_and_can_be_linked():
    """Levels are kept, ids are those that links written in Jupyter use, and equal headings differ."""
    page = page_of(
        v4.new_markdown_cell("# A title\n## Load data\n[down](#Load-data-2)"),
        v4.new_markdown_cell("## Load data\n### `code` $x$\n#no blank"),
    )
    found = [(e.tag, e.attributes["id"]) for e in page.elements if e.tag in {"h1", "h2", "h3"}]
    assert found[:3] == [("h1", "A-title"), ("h2", "Load-data"), ("h2", "Load-data-2")]
    assert len({name for _, name in found}) == len(found)
    targets = [link.attributes["href"][1:] for link in page.all("a") if link.attributes.get("href", "").startswith("#")]
    ids = {element.attributes.get("id") for element in page.elements}
    assert set(targets) <= ids


def test_converting_twice_gives_the_same_page():
    """Nothing in a page depends on when it was made or on what was converted before."""
    cells = [v4.new_markdown_cell("# A\n# A"), code(outputs=[shows({"text/html": "<style>p{color:red}</style><p>x"})])]
    notebook = v4.new_notebook(cells=cells)
    before = json.dumps(notebook)
    assert html_of(notebook) == html_of(notebook)
    assert json.dumps(notebook) == before


def test_a_list_of_contents_leads_to_the_headings():
    """Three headings or more are listed, fewer are not."""
    page = page_of(v4.new_markdown_cell("# A\n## B & C\n### D\n#### deep"))
    links = [e.text for e in page.elements if e.tag == "a" and "nav" in e.path]
    assert links == ["A", "B & C", "D"]
    assert page_of(v4.new_markdown_cell("# A\n## B")).all("nav") == []


# --- markdown


def test_markdown_reads_as_in_jupyter():
    """Tables, task lists, code and emphasis are rendered."""
    page = page_of(
        v4.new_markdown_cell("| a | b |\n|---|--:|\n| 1 | 2 |\n\n- [x] done\n\n```python\nimport os\n```\n\n**bold**")
    )
    assert [e.text for e in page.all("td")] == ["1", "2"]
    assert "checked" in page.all("input")[1].attributes  # the first is the switch of the page
    assert page.one("strong").text == "bold"
    assert page.all("span", having="kn")


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "[x](javascript:alert(1))",
        "[x](data:text/html,<script>alert(1)</script>)",
        "<javascript:alert(1)>",
        "![x](javascript:alert(1))",
        "![x](https://evil.example/a.png)",
        "![x](//evil.example/a.png)",
        '![x](https://evil.example/a.png "t\\" onerror=alert(1)")',
        "[x]: https://evil.example/a.png\n\n![x][x]",
        '<img src="https://evil.example/a.png">',
        '<h1 onclick="alert(1)" style="background:url(//evil.example)">x</h1>',
        "# <img src=x onerror=alert(1)>",
        '# x" onmouseover="alert(1)',
        "```<script>alert(1)</script>\nx\n```",
        '```python" onload="alert(1)\nx\n```',
        "```mermaid\n</pre><script>alert(1)</script>\n```",
        "| <script>alert(1)</script> |\n|---|\n| <iframe src=//evil.example> |",
        "<style>@import 'https://evil.example'</style>",
    ],
)
def test_markdown_cannot_attack(text):
    """Markdown is as hostile as outputs, trusted or not."""
    for trust in (False, True):
        assert dangers(page_of(v4.new_markdown_cell(text), look=Look(trust=trust)).html) == []
    assert dangers(output_page({"text/markdown": text}).html) == []


def test_a_remote_image_of_markdown_is_a_visible_link():
    """The reader sees that an image is not there, and where it would be."""
    page = page_of(v4.new_markdown_cell("see ![the logo](https://example.org/logo.png)"))
    assert page.all("img") == []
    assert page.one(having="nb-missing").text == "Remote image, not loaded: the logo"


def test_attachments_become_part_of_the_page():
    """A pasted image is shown; one that is missing is said to be."""
    cell = v4.new_markdown_cell("![a](attachment:a.png) ![b](attachment:b.png)")
    cell["attachments"] = {"a.png": {"image/png": PIXEL}}
    page = page_of(cell)
    assert page.one("img").attributes["src"] == f"data:image/png;base64,{PIXEL}"
    assert "not part of the notebook: b" in page.one(having="nb-missing").text


def test_images_beside_the_notebook_become_part_of_the_page(tmp_path):
    """Files below the folder are embedded; paths that lead out of it, links included, are not followed."""
    folder = tmp_path / "source"
    (folder / "figures").mkdir(parents=True)
    for place in (folder / "figures" / "a b.png", tmp_path / "secret.png"):
        place.write_bytes(base64.b64decode(PIXEL))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "notes.txt").write_text("no image")
    text = "![a](figures/a%20b.png) ![b](../secret.png) ![c](link.png) ![d](notes.txt) ![e](file:///etc/passwd)"
    page = page_of(v4.new_markdown_cell(text), folder=folder)
    assert [image.attributes["alt"] for image in page.all("img")] == ["a"]
    assert len(page.all(having="nb-missing")) == 4
    assert page_of(v4.new_markdown_cell(text)).all("img") == []


# --- code cells


def test_code_is_highlighted_and_escaped():
    """Source code is never markup."""
    page = page_of(code("import os  # </code><script>alert(1)</script>"))
    assert page.one("code").text.strip() == "import os  # </code><script>alert(1)</script>"
    assert page.all("span", having="kn")
    assert dangers(page.html) == []


@pytest.mark.parametrize(
    "language", [{}, {"name": "R"}, {"name": "no-such-language"}, {"name": 7}, {"pygments_lexer": "ipython3"}]
)
def test_any_language_is_shown(language):
    """Known languages are highlighted, unknown ones are plain text."""
    page = page_of(code("x <- 1"), metadata={"language_info": language})
    assert page.one("code").text.strip() == "x <- 1"


def test_a_dropped_cell_says_so_and_why():
    """The source stays readable with a visible mark."""
    page = page_of(code("do_shutdown(True)", runner={"dropped": "it would <end> the kernel"}))
    assert page.one("strong").text == "Dropped, not run: it would <end> the kernel"
    assert page.one("section", having="nb-dropped").text.count("do_shutdown(True)") == 1


def test_a_failed_cell_says_so():
    """The mark is text and not colour only."""
    error = v4.new_output("error", ename="KeyError", evalue="'leiden'", traceback=["\x1b[31mKeyError\x1b[0m: 'leiden'"])
    page = page_of(code("adata['leiden']", [error]))
    assert page.one("strong").text == "Failed: KeyError"
    assert page.one("pre", having="nb-error").text == "KeyError: 'leiden'"
    assert page.one("span", having="ansi-red-fg").text == "KeyError"


def test_an_allowed_error_is_no_failure():
    """A cell tagged `raises-exception` is marked as expected."""
    error = v4.new_output("error", ename="ValueError", evalue="x", traceback=[])
    page = page_of(code("raise", [error], tags=["raises-exception"]))
    assert page.one("strong").text == "Expected error: ValueError"
    assert page.one("pre", having="nb-error").text == "ValueError: x"


@pytest.mark.parametrize(
    ("status", "text"), [("interrupted", "Interrupted"), ("failed", "Failed"), ("not-run", "Not run")]
)
def test_the_derived_status_of_a_cell_is_shown(status, text):
    """A cell without outputs that was killed or never reached is told from one that was silent."""
    assert page_of(code("x", runner={"index": 0, "status": status})).one("strong").text == text


def test_cells_are_numbered_as_in_the_report():
    """The number is the place among the source's code cells; cells that were put in do not shift it."""
    page = page_of(
        code("a", runner={"index": 0}),
        code("p", runner={"inserted": True}),
        code("b", [shows({"image/png": PIXEL})], runner={"index": 1}),
    )
    assert [s.attributes["id"] for s in page.all("section")] == ["cell-1", "cell-inserted-1", "cell-2"]
    assert page.one("img").attributes["alt"] == "figure from cell 2 of nb"


def test_a_banner_stands_out():
    """The runner's own banner cells get a frame and a name."""
    page = page_of(v4.new_markdown_cell("**failed** — cell 3", metadata={"runner": {"banner": True}}))
    assert page.one("section", having="nb-banner").attributes["aria-label"] == "Failure"


def test_hidden_parts_are_folded_and_not_lost():
    """What Jupyter hides can be opened."""
    page = page_of(
        code("secret_code", [stream("hidden output")], jupyter={"source_hidden": True, "outputs_hidden": True})
    )
    assert len(page.all("details", having="nb-folded")) == 2
    assert "secret_code" in page.text
    assert "hidden output" in page.text


# --- outputs


def test_images_pass_through_with_a_text():
    """PNG, JPEG and GIF keep their bytes and size, and each has a text that says where it is from."""
    outputs = [
        shows({"image/png": PIXEL + "\n", "text/plain": "<Figure>"}, {"image/png": {"width": 40, "height": "x"}}),
        shows({"image/jpeg": "AAAA"}),
        shows({"image/gif": ["AA", "BB"]}),
    ]
    images = page_of(code("a"), code("b", outputs)).all("img")
    assert [image.attributes["src"].strip() for image in images] == [
        f"data:image/png;base64,{PIXEL}",
        "data:image/jpeg;base64,AAAA",
        "data:image/gif;base64,AABB",
    ]
    assert [image.attributes["alt"] for image in images] == [
        "figure from cell 2 of nb",
        "figure 2 from cell 2 of nb",
        "figure 3 from cell 2 of nb",
    ]
    assert images[0].attributes["width"] == "40"
    assert "height" not in images[0].attributes


def test_image_data_cannot_break_out():
    """Base64 that is none is a broken image and nothing else."""
    page = output_page({"image/png": '"><script>alert(1)</script><img src="'})
    assert dangers(page.html) == []
    assert len(page.all("img")) == 1


def test_svg_outputs_are_images_in_which_nothing_runs():
    """A drawing is shown as an image and never as a part of the page; broken ones fall back to text."""
    page = output_page(
        {"image/svg+xml": '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><path d="M0"/></svg>'}
    )
    assert "path" in base64.b64decode(page.one("img").attributes["src"].partition(",")[2]).decode()
    assert page.all("svg") == []
    assert dangers(page.html) == []
    assert output_page({"image/svg+xml": "<svg", "text/plain": "a figure"}).one(having="nb-text").text == "a figure"


@pytest.mark.parametrize(
    ("markdown", "count"),
    [
        ('<img src="attachment:a b.png" width="33">', 1),
        ("so ![a [1]](attachment:a b.png) and\n![b](pics/b c.png)", 2),
        ("<div><a href='https://x.example'><img src='attachment:a%20b.png'></a></div>", 1),
        ("![x](<attachment:a b.png>) and <img src='pics/b%20c.png'>", 2),
        ("[![badge](pics/b%20c.png)](https://x.example)", 1),
        ("<video src='film.mp4' controls></video>", 0),
    ],
)
def test_what_markdown_names_by_tag_or_by_sign_is_in_the_page(tmp_path, markdown, count):
    """Attachments and files beside the notebook are found however the markdown names them, sizes and links kept."""
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "b c.png").write_bytes(base64.b64decode(PIXEL))
    (tmp_path / "film.mp4").write_bytes(b"film")
    cell = v4.new_markdown_cell(markdown)
    cell["attachments"] = {"a b.png": {"image/png": PIXEL}}
    page = page_of(cell, folder=tmp_path)
    images = page.all("img")
    assert [image.attributes["src"] for image in images] == [f"data:image/png;base64,{PIXEL}"] * count
    assert page.all(having="nb-missing") == []
    assert ("width" in markdown) == any("width" in image.attributes for image in images)
    if "video" in markdown:
        assert page.one("video").attributes["src"] == "data:video/mp4;base64,ZmlsbQ=="


def test_blanks_alone_make_no_picture(tmp_path):
    """An address with blanks that names nothing stays the text that it is, however often one is opened."""
    text = "![x](no such.png) " + "![a](b " * 2000
    page = page_of(v4.new_markdown_cell(text), folder=tmp_path)
    assert page.all("img") == []
    assert "![x](no such.png)" in page.one("p").text


def test_a_badge_leaves_the_link_to_what_stands_around_it():
    """A picture of the network inside a link is its text there: links hold no links."""
    badges = "[![Colab](https://img.example/c.svg)](https://colab.example) ![other](https://img.example/o.svg)"
    links = page_of(v4.new_markdown_cell(badges)).all("a")
    shown = [(link.attributes["href"], link.text) for link in links if "href" in link.attributes]
    assert ("https://colab.example", "Remote image, not loaded: Colab") in shown
    assert ("https://img.example/o.svg", "other") in shown
    assert "https://img.example/c.svg" not in [href for href, _ in shown]


@pytest.mark.parametrize(
    "text", ["---\ntitle: A\njupytext:\n  formats: ipynb\n---\n# Real", "---\r\ntitle: A\r\n---\r\n# Real"]
)
def test_front_matter_is_no_heading(text):
    """Settings of jupytext or Quarto at the top stay as they are written."""
    page = page_of(v4.new_markdown_cell(text))
    assert page.one("title").text == "Real"
    assert [heading.text for level in ("h1", "h2") for heading in page.all(level)] == ["Real#"]
    assert "title: A" in page.one("pre").text


def test_rules_and_headings_are_no_front_matter():
    """Three dashes elsewhere draw a rule, or underline a heading."""
    page = page_of(v4.new_markdown_cell("---\n\nSome text: here\n---\n"), v4.new_markdown_cell("---\nb: c\n---\n"))
    assert len(page.all("h2")) == 2


def test_an_address_of_another_cell_or_folder_is_not_followed(tmp_path):
    """An attachment belongs to its cell, and a path that leads out of the folder is none."""
    (tmp_path / "secret.png").write_bytes(base64.b64decode(PIXEL))
    (tmp_path / "nb").mkdir()
    first = v4.new_markdown_cell("a")
    first["attachments"] = {"a.png": {"image/png": PIXEL}}
    other = v4.new_markdown_cell("<img src='attachment:a.png'> <img src='../secret.png'> <img src='file:///etc/x.png'>")
    page = page_of(first, other, folder=tmp_path / "nb")
    assert page.all("img") == []
    assert len(page.all(having="nb-missing")) == 3


def test_an_animation_shows_its_first_picture():
    """Of a player that needs a script the first frame stays, said to be one, without dead controls."""
    frames = "".join(f'  frames[{n}] = "data:image/png;base64,{PIXEL[:40]}\\\n{PIXEL[40:]}"\n' for n in range(3))
    html = f"<div class='animation'><img id='_anim_img1'><input type='range'><button>+</button></div><script>{frames}</script>"
    page = output_page({"text/html": html, "text/plain": "<IPython.core.display.HTML object>"})
    assert page.one("img").attributes["src"] == f"data:image/png;base64,{PIXEL}"
    assert "first of 3 frames of an animation" in page.one(having="nb-note").text
    assert [one.attributes["id"] for one in page.all("input")] == ["nb-hide"]  # the switch of the page
    assert page.all("button") == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"application/vnd.plotly.v1+json": {"data": []}}, "Plotly figure"),
        ({"application/vnd.vegalite.v5+json": {}, "text/plain": "<VegaLite 5 object>"}, "alt.renderers.enable('png')"),
        ({"application/vnd.vegalite.v5.16.3+json": {}, "text/plain": "<VegaLite 5 object>"}, "Vega-Lite chart"),
        (
            {"text/html": "<iframe src='https://maps.example/a?b=1'></iframe>"},
            "A frame with https://maps.example/a?b=1",
        ),
        ({"text/html": "<iframe srcdoc='<p>map</p>'></iframe>"}, "An inline frame is not shown"),
        ({"application/vnd.jupyter.widget-view+json": {"model_id": "x"}}, "its state was not saved"),
        ({"text/html": "<script>1</script>", "text/plain": "x"}, "runner convert --interactive nb.executed.ipynb"),
        ({"text/html": "<script src='https://a.example/b.js'></script>"}, "convert --trust-html nb.executed.ipynb"),
        (
            {"text/html": "<p>Make this Notebook Trusted to load map</p><iframe srcdoc='map'></iframe>"},
            "An inline frame",
        ),
        ({"image/png": "  "}, "damaged"),
    ],
)
def test_a_note_says_what_is_not_shown_and_why(data, said, monkeypatch):
    """Each note names the thing that is missing, and what keeps it; only a broken form is called damaged."""
    monkeypatch.setattr(sys, "executable", shutil.which("false"))  # no package draws
    page = output_page(data)
    note = page.one(having="nb-note").text
    assert said in note
    assert ("damaged" in note) == (said == "damaged")


def test_a_style_alone_is_no_script():
    """An output that brings a style and nothing to see says nothing of scripts."""
    page = output_page({"text/html": "<style>td{color:red}</style>", "text/plain": "<style object>"})
    assert page.one(having="nb-text").text == "<style object>"
    assert page.all(having="nb-note") == []


def test_controls_show_what_they_are_set_to():
    """A widget that is no progress bar tells its setting; one without any tells its kind."""
    models = {
        "box": ("VBoxModel", {"children": ["IPY_MODEL_a", "IPY_MODEL_b"]}),
        "a": ("IntSliderModel", {"description": "k", "value": 7}),
        "b": ("DropdownModel", {"description": "method", "_options_labels": ["leiden", "louvain"], "index": 1}),
        "c": ("FigureModel", {"_data": []}),
    }
    state = {key: {"model_name": name, "state": value} for key, (name, value) in models.items()}
    metadata = {"widgets": {"application/vnd.jupyter.widget-state+json": {"state": state}}}
    views = [shows({"application/vnd.jupyter.widget-view+json": {"model_id": key}}) for key in ("box", "c")]
    page = page_of(code(outputs=views), metadata=metadata)
    assert page.one(having="nb-text").text == "k: 7 method: louvain"
    assert page.one(having="nb-note").text == "A widget (Figure) is not shown: it needs scripts."


def test_html_outputs_keep_their_tables_and_lose_their_scripts():
    """What was removed is said in place and in the warnings."""
    notebook = v4.new_notebook(
        cells=[code(outputs=[shows({"text/html": "<table><tr><td>1</td></tr></table><script>alert(1)</script>"})])]
    )
    page = Page(html_of(notebook))
    assert page.one("td").text == "1"
    assert "--interactive" in page.one(having="nb-note").text
    assert dangers(page.html) == []


def test_an_output_of_scripts_only_shows_its_other_form():
    """An interactive plot without its script is empty, so its picture or text is shown."""
    data = {"text/html": "<div id=plot></div><script>draw()</script>", "image/png": PIXEL, "text/plain": "Figure()"}
    page = output_page(data)
    assert len(page.all("img")) == 1
    assert "--interactive" in page.one(having="nb-note").text
    assert output_page({"application/javascript": "alert(1)"}).one(having="nb-note")


def test_styles_of_an_output_reach_nothing_else():
    """The rules of a styled table are confined to the output that brought them."""
    page = output_page(
        {"text/html": "<style>td{color:red} body{display:none}</style><table><tr><td>1</td></tr></table>"}
    )
    output = page.one(having="nb-html")
    style = page.all("style")[1].text
    assert f"#{output.attributes['id']} td{{color:red}}" in style
    assert style.count("#cell-1-output-1") == 2


def test_a_frame_without_colours_follows_the_theme_and_one_with_colours_gets_paper():
    """Outputs that bring colours for white paper are not put on black."""
    assert (
        "nb-themed"
        in output_page({"text/html": '<table class="dataframe"><tr><td>1</td></tr></table>'})
        .one(having="nb-html")
        .classes
    )
    assert "nb-themed" not in output_page({"text/html": '<p style="color:#000">1</p>'}).one(having="nb-html").classes


def test_latex_outputs_are_mathml():
    """Formulas of sympy and the like are shown without a script."""
    assert output_page({"text/latex": r"$\displaystyle \frac{1}{2}$", "text/plain": "1/2"}).one("mfrac")


def test_a_progress_widget_shows_its_last_state():
    """The bar of tqdm is read from the stored widget state; without one its text is shown."""
    state = {
        "box": {"model_name": "HBoxModel", "state": {"children": ["IPY_MODEL_l", "IPY_MODEL_b", "IPY_MODEL_r"]}},
        "l": {"model_name": "HTMLModel", "state": {"value": "fit: 100%"}},
        "b": {"model_name": "FloatProgressModel", "state": {"value": 20.0, "max": 20.0}},
        "r": {"model_name": "HTMLModel", "state": {"value": " 20/20 [00:01&lt;00:00]"}},
    }
    metadata = {"widgets": {"application/vnd.jupyter.widget-state+json": {"state": state}}}
    data = {"application/vnd.jupyter.widget-view+json": {"model_id": "box"}, "text/plain": "  0%|  | 0/20"}
    shown = page_of(code(outputs=[shows(data)]), metadata=metadata).one(having="nb-text").text
    assert shown.startswith("fit: 100% |█")
    assert shown.endswith("20/20 [00:01<00:00]")
    assert output_page(data).one(having="nb-text").text == "  0%|  | 0/20"


def test_a_box_of_widgets_that_holds_itself_ends():
    """A cycle in the stored state is cut."""
    state = {"box": {"model_name": "VBoxModel", "state": {"children": ["IPY_MODEL_box"] * 3}}}
    metadata = {"widgets": {"application/vnd.jupyter.widget-state+json": {"state": state}}}
    data = {"application/vnd.jupyter.widget-view+json": {"model_id": "box"}, "text/plain": "text"}
    assert page_of(code(outputs=[shows(data)]), metadata=metadata).one(having="nb-text").text == "text"


@pytest.mark.parametrize(
    "output",
    [
        {},
        {"output_type": "display_data"},
        {"output_type": "display_data", "data": None, "metadata": None},
        {"output_type": "display_data", "data": {}, "metadata": {}},
        {"output_type": "display_data", "data": {"image/png": 7}},
        {"output_type": "display_data", "data": {"image/png": None, "text/plain": None}},
        {"output_type": "display_data", "data": {"image/png": {"a": 1}}},
        {"output_type": "display_data", "data": {"text/html": ["<b>", 3, None]}},
        {"output_type": "display_data", "data": {"application/vnd.jupyter.widget-view+json": "x"}},
        {"output_type": "display_data", "data": {"application/json": {"a": [1, {"b": None}]}}},
        {"output_type": "display_data", "data": {"application/x-unknown": "<script>alert(1)</script>"}},
        {"output_type": "display_data", "data": {"<script>alert(1)</script>": "x"}},
        {
            "output_type": "display_data",
            "data": {"image/png": PIXEL},
            "metadata": {"image/png": {"width": -1, "height": 1e99}},
        },
        {"output_type": "stream"},
        {"output_type": "stream", "name": 7, "text": None},
        {"output_type": "error"},
        {"output_type": "error", "ename": None, "evalue": ["<script>"], "traceback": "no list"},
        {"output_type": "error", "ename": "E", "evalue": "v", "traceback": [None, 3, "\ud800"]},
        {"output_type": "new-kind", "data": {"text/plain": "x"}},
        "no mapping",
    ],
)
def test_a_damaged_output_costs_itself_only(output):
    """Whatever an output holds, the cell after it is on the page."""
    cells = [{**code(), "outputs": [output]}, code("the_cell_after")]
    page = page_of(*cells)
    assert "the_cell_after" in page.text
    assert dangers(page.html) == []


def test_an_output_that_breaks_the_conversion_says_so(tmp_path):
    """The page has a note in its place and the record a warning; everything else is there."""
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    cells = [code(outputs=[]), code("the_cell_after")]
    cells[0]["outputs"] = [{"output_type": "display_data", "metadata": {}, "data": {"application/json": deep}}]
    done = write_page(unchecked(cells), tmp_path / "a.html", name="nb")
    page = Page(done.path.read_text())
    assert page.one(having="nb-note").text == "This output could not be shown (RecursionError)."
    assert "the_cell_after" in page.text
    assert any("RecursionError" in text for text in done.warnings)
    while deep:
        deep = deep.pop()  # taken apart here, for the interpreter would do it recursively


@pytest.mark.parametrize("outputs", [None, 7, "x", {"a": 1}])
def test_outputs_that_are_no_list_are_none(outputs):
    """A half-written notebook still gives its page."""
    assert page_of({**code("source"), "outputs": outputs}).all(having="nb-outputs") == []


def test_halves_of_characters_are_replaced_everywhere():
    """Lone surrogates in any text leave a page that can be written as UTF-8."""
    bad = "a\ud800b"
    cells = [
        v4.new_markdown_cell(f"# {bad}"),
        code(bad, [stream(bad), shows({"text/html": f"<p>{bad}</p>", bad: bad}), shows({"text/latex": f"${bad}$"})]),
    ]
    html = html_of(unchecked(cells, {"kernelspec": {"name": bad}}), name=bad, title=bad)
    assert html.encode().count(b"a?b") >= 6


# --- streams


def test_neighbouring_texts_of_a_stream_are_one():
    """What a program printed in two writes reads as one text; stderr is told from stdout."""
    page = page_of(code(outputs=[stream("a"), stream("b\n"), stream("w", "stderr"), stream("c")]))
    assert [e.text for e in page.all("pre", having="nb-stdout")] == ["ab\n", "c"]
    assert page.one("pre", having="nb-stderr").attributes["aria-label"] == "Standard error"


def test_redrawn_lines_show_their_last_state():
    """A progress bar of a terminal is one line, also over several outputs."""
    page = page_of(code(outputs=[stream("  0%\r 50%", "stderr"), stream("\r100%\n", "stderr"), stream("a\r\nb\r\n")]))
    assert page.one("pre", having="nb-stderr").text == "100%\n"
    assert page.one("pre", having="nb-stdout").text == "a\nb\n"


@pytest.mark.parametrize(
    ("text", "classes", "shown"),
    [
        ("\x1b[31mred\x1b[0m", {"ansi-red-fg"}, "red"),
        ("\x1b[1;32mbold\x1b[m", {"ansi-green-intense-fg", "ansi-bold"}, "bold"),
        ("\x1b[44mground\x1b[49m", {"ansi-blue-bg"}, "ground"),
        ("\x1b[4munder\x1b[24m", {"ansi-underline"}, "under"),
    ],
)
def test_terminal_colours_are_shown(text, classes, shown):
    """ANSI colours become classes of the stylesheet."""
    span = Page(terminal_html(text)).one("span")
    assert (span.classes, span.text) == (classes, shown)


def test_other_terminal_sequences_and_controls_vanish():
    """Links, cursor movements and control characters leave their text."""
    text = "\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\ \x1b[2K\x1b[1Aup \x07\x00bell \x1b[999mcolour\x1b"
    assert Page(f"<pre>{terminal_html(text)}</pre>").one("pre").text == "link up bell colour"


def test_colours_hold_over_the_pieces_of_a_long_text():
    """A colour that was set at the start of a long text is still set at its end."""
    text = "line\n" * 10_000 + "end"
    spans = Page(terminal_html(f"\x1b[31m{text}\x1b[0m after")).all("span")
    assert {tuple(span.classes) for span in spans} == {("ansi-red-fg",)}
    assert "".join(span.text for span in spans) == text


def test_text_of_a_stream_is_never_markup():
    """Tags, entities and attributes are text, coloured or not."""
    for text in (
        "<script>alert(1)</script>&amp;",
        "\x1b[31m<img src=x onerror=alert(1)>\x1b[0m",
        '\x1b[38;5;208m" style="color: rgb(1,2,3)"',
    ):
        page = page_of(code(outputs=[stream(text)]))
        assert dangers(page.html) == []
    assert page.one("pre", having="nb-stdout").text == '" style="color: rgb(1,2,3)"'


def test_a_huge_stream_is_bounded():
    """Fifty megabytes leave head, tail and a marker that says how much is missing."""
    text = "head\n" + "\x1b[31mx\x1b[0m" * 5_000_000 + "\ntail"
    page = page_of(code(outputs=[stream(text)]))
    shown = page.one("pre", having="nb-stdout").text
    assert shown.startswith("head\n")
    assert shown.endswith("\ntail")
    assert "MB omitted from this page" in shown
    assert len(page.html) < 10_000_000


# --- trust


def test_trust_keeps_scripts_and_says_so():
    """Scripts and frames of outputs stay as they are, under a policy that lets them, with a visible note."""
    html = '<script src="https://cdn.example/plot.js"></script><iframe src="https://example.org"></iframe><b onclick="x()">b</b>'
    page = page_of(
        code(outputs=[shows({"text/html": html}), shows({"application/javascript": "run()"})]), look=Look(trust=True)
    )
    assert html in page.html
    assert "<script>run()</script>" in page.html
    assert "--trust-html" in page.one(having="nb-trust").text
    assert "'unsafe-inline'" in page.all("meta")[1].attributes["content"].split("style-src")[0]
    assert page_of(code()).all(having="nb-trust") == []


# --- files


def write_notebook(path, *cells):
    nbformat.write(v4.new_notebook(cells=list(cells)), path)
    return path


def test_a_file_becomes_a_page_beside_it(tmp_path):
    """The record tells path, size and warnings; the name on the page leaves out that it was executed."""
    source = write_notebook(
        tmp_path / "01 Ü.executed.ipynb", code(outputs=[shows({"text/html": "<script>1</script>"})])
    )
    done = convert(source, tmp_path / "01 Ü.html")
    assert done.path.stat().st_size == done.bytes
    assert done.seconds >= 0
    assert any("cell 1" in text for text in done.warnings)
    assert Page(done.path.read_text(encoding="utf-8")).one("title").text == "01 Ü"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["01 Ü.executed.ipynb", "01 Ü.html"]


def test_the_page_in_memory_and_the_page_on_disk_are_the_same(tmp_path):
    """Streaming a page to disk changes nothing of it."""
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell("# Ä"), code(outputs=[shows({"image/png": PIXEL})])])
    done = write_page(notebook, tmp_path / "a.html", name="nb")
    assert done.path.read_text(encoding="utf-8") == html_of(notebook, name="nb")


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    """A conversion that breaks half way is an error and damages nothing."""
    html = tmp_path / "a.html"
    html.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("runner.core.files.os.fsync", full)
    with pytest.raises(RecordError, match="No space left"):
        write_page(v4.new_notebook(cells=[code()]), html, name="nb")
    assert html.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]


@pytest.mark.parametrize(
    "partial", [{"nbformat_minor": 4}, {"nbformat_minor": 4, "metadata": None}, {"nbformat_minor": 99}]
)
def test_notebooks_of_other_minor_versions_are_converted(tmp_path, partial):
    """Cells without ids, sources as lists, missing outputs and fields are fine."""
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# A\n", "text"]},
        {
            "cell_type": "code",
            "metadata": {},
            "source": ["print(1)\n"],
            "outputs": [{"output_type": "stream", "name": "stdout", "text": ["1\n"]}],
        },
        {"cell_type": "code", "metadata": {}, "source": "no outputs at all"},
        {"cell_type": "raw", "metadata": {}, "source": "<script>alert(1)</script>"},
    ]
    document = {"nbformat": 4, "metadata": {}, "cells": cells, **partial}
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))
    page = Page(convert(path, tmp_path / "a.html").path.read_text())
    assert page.one("h1").attributes["id"] == "A"
    assert page.one("pre", having="nb-stdout").text == "1\n"
    assert dangers(page.html) == []


def test_a_notebook_without_code_cells_is_converted(tmp_path):
    """Text alone is worth a page, although there is nothing to run."""
    path = write_notebook(tmp_path / "text.ipynb", v4.new_markdown_cell("# Only text"))
    assert "Only text" in convert(path, tmp_path / "t.html").path.read_text()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "does not exist"),
        (b"", "empty"),
        (b"{", "JSON"),
        (b"[]", "not a notebook"),
        (b'{"nbformat": 9, "cells": []}', "nbformat 9"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_what_is_no_notebook_is_an_error_that_says_what_to_do(tmp_path, content, says):
    """The message names the file and what is wrong, and no page is left."""
    path = tmp_path / "a.ipynb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BrokenInputError, match=says) as caught:
        convert(path, tmp_path / "a.html")
    assert "a.ipynb" in caught.value.message
    assert caught.value.hint
    assert not (tmp_path / "a.html").exists()


def test_notebooks_are_found_in_folders_in_a_stable_order(tmp_path):
    """Files as given, folders sorted; checkpoints, hidden files and other files are left out; each only once."""
    for name in ("b.ipynb", "a.ipynb", ".hidden.ipynb", "notes.txt"):
        (tmp_path / name).write_text("{}")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "a-checkpoint.ipynb").write_text("{}")
    (tmp_path / "sub.ipynb").mkdir()
    found = find_notebooks([tmp_path / "b.ipynb", tmp_path])
    assert [path.name for path in found] == ["b.ipynb", "a.ipynb"]


def test_what_names_no_notebook_is_an_error(tmp_path):
    """A missing path, another file and an empty folder are named."""
    (tmp_path / "a.txt").write_text("")
    for path, says in (
        (tmp_path / "none", "does not exist"),
        (tmp_path / "a.txt", "not a notebook"),
        (tmp_path, "has no notebooks"),
    ):
        with pytest.raises(BrokenInputError, match=says):
            find_notebooks([path])


def test_names_leave_out_what_says_that_a_notebook_was_executed(tmp_path):
    """The page of `01.executed.ipynb` is called `01`."""
    assert notebook_name(tmp_path / "01.executed.ipynb") == "01"
    assert notebook_name(tmp_path / "a.b.ipynb") == "a.b"


def test_preloading_is_only_about_time():
    """It can be called from anywhere, any number of times."""
    preload([v4.new_code_cell()])
    preload([v4.new_markdown_cell()])
    preload([v4.new_markdown_cell()])
    assert "<h1" in page_of(v4.new_markdown_cell("# x")).html


def test_a_page_without_markdown_or_colours_needs_no_markdown(tmp_path):
    """Importing nbconvert takes as long as all the rest of a small page."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom runner.stages.convert.page import write_page\nimport nbformat\n"
        "write_page(nbformat.read(sys.argv[1], 4), Path(sys.argv[2]), name='n')\nassert 'nbconvert' not in sys.modules"
    )
    source = tmp_path / "n.ipynb"
    nbformat.write(v4.new_notebook(cells=[code("1", outputs=[v4.new_output("stream", text="<42>")])]), source)
    subprocess.run([sys.executable, "-c", script, source, tmp_path / "n.html"], check=True)
    assert "&lt;42&gt;" in (tmp_path / "n.html").read_text()


def test_code_can_be_left_out():
    """Outputs and text stay."""
    cells = [v4.new_markdown_cell("# Title"), code("secret_name = 1", outputs=[v4.new_output("stream", text="42")])]
    page = page_of(*cells, look=Look(no_input=True))
    assert "secret_name" not in page.html
    assert "42" in page.html
    assert page.all("input") == []
    assert page_of(*cells).one("input").attributes["id"] == "nb-hide"


def test_tags_remove_cells_inputs_and_outputs_but_no_failure():
    """Both spellings count, markdown too; without the switch all stays."""
    error = v4.new_output("error", ename="KeyError", evalue="'x'", traceback=["KeyError: 'x'"])

    def cell(word, tag, *, outputs=None):
        made = code(f"{word}_code", outputs=outputs or [v4.new_output("stream", text=f"{word}_text")])
        made.metadata["tags"] = [tag]
        return made

    text = v4.new_markdown_cell("zero_text", metadata={"tags": ["remove_cell"]})
    cells = [
        text,
        cell("one", "remove-cell"),
        cell("two", "remove_input"),
        cell("three", "remove-output"),
        cell("four", "remove-cell", outputs=[error]),
    ]
    page = page_of(*cells, look=Look(remove_tagged=True)).html
    kept = {"two_text", "three_code", "four_code", "KeyError"}
    gone = {"zero_text", "one_code", "one_text", "two_code", "three_text"}
    assert {word for word in kept | gone if word in page} == kept
    assert {word for word in kept | gone if word in page_of(*cells).html} == kept | gone


def test_a_page_leads_back_to_the_report_where_there_is_one():
    """Relative to the page, so that both move together."""
    assert '<a class="nb-back" href="index.html">' in page_of(look=Look(report="index.html")).html
    assert "nb-back" not in page_of().html.partition("</style>")[2]


def test_an_output_shows_pictures_beside_the_notebook(tmp_path):
    """As markdown does: by path within the folder, also with blanks, and nothing from outside of it."""
    (tmp_path / "in").mkdir()
    for path in (tmp_path / "in" / "a b.png", tmp_path / "out.png"):
        path.write_bytes(b"\x89PNG")
    html = '<div><a href="#x"><img src="a%20b.png" width="9"></a><img src="../out.png"></div>'
    page = page_of(code(outputs=[shows({"text/html": html})]), folder=tmp_path / "in")
    assert page.one("img").attributes["src"] == "data:image/png;base64,iVBORw=="
    assert "Image that is not part of the notebook: ../out.png" in page.html


@pytest.mark.parametrize(("status", "mark"), [("succeeded", "nb-good"), ("failed", "nb-bad"), ("timed-out", "nb-bad")])
def test_the_head_tells_the_status_in_word_and_colour(status, mark):
    """Only a success looks like one."""
    page = page_of(code(), metadata={"runner": {"status": status}})
    assert page.one("dd", having=mark).text == status
