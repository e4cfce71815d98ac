# SPDX-License-Identifier: Apache-2.0
"""The report in a real browser without a network: looks, works and reads as promised."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from support import records as made
from test_report_page import hostile_folder

from runner.core.records import Status
from runner.report import build, overview
from runner.report.html.render import live_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")]
NODE_MODULES = Path(os.environ.get("NODE_MODULES", Path(__file__).parents[2] / ".build" / "node_modules"))
KINDS = ("every", "many", "hostile", "demo")


@pytest.fixture(scope="module")
def chromium():
    """Give a headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Reports(dict[str, Path]):
    """The pages, each made when it is first wanted."""

    def __init__(self, new_folder) -> None:
        self._new_folder = new_folder

    def __missing__(self, kind: str) -> Path:
        folder = self._new_folder(kind)
        plan = None
        baselines = []
        if kind == "every":
            plan = made.every_status(folder)
        elif kind == "many":
            plan = made.many(folder, 40)
        elif kind == "failed":
            for number in range(40):
                record = made.metrics(f"nb_{number:03d}", status=Status.FAILED, failed_cell=8, seed=number)
                made.leave(folder, record, with_samples=number < 5)
        elif kind == "hostile":
            hostile_folder(folder)
        elif kind == "long":
            long = "02_scRNA_analysis_extended_with_an_awfully_long_name_for_the_decoupler_and_more"
            for name in (long, "03_multi_gpu"):
                made.leave(folder, made.metrics(name, gpus=8))
            plan = made.plan_of(long, "03_multi_gpu", needs={"03_multi_gpu": [long]})
        else:
            earlier = self._new_folder("earlier")
            made.leave(earlier, made.metrics("01", gpus=0, wall=10))
            build(earlier)
            baselines = [earlier]
            for name in ("01", "02", "03"):
                made.leave(folder, made.metrics(name, gpus=0, wall=30))
        dead = lambda paths, seconds: dict.fromkeys(paths, False)  # noqa: E731
        self[kind] = build(folder, plan=plan, baselines=baselines, watch=dead).html_path
        return self[kind]


@pytest.fixture(scope="session")
def reports(tmp_path_factory):
    """Give the reports: every status, forty notebooks, forty that failed, hostile ones, and three without a GPU."""
    return Reports(tmp_path_factory.mktemp)


@pytest.fixture
def visit(chromium, reports):
    """Open a report and fail on console messages or requests."""
    said: list[str] = []
    contexts = []

    def open_page(kind, *, width=1280, **options):
        context = chromium.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
        contexts.append(context)

        def stop(route):
            said.append(f"request for {route.request.url}")
            route.abort()

        context.route(lambda url: not url.startswith("file:"), stop)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
        page.goto(reports[kind].as_uri(), wait_until="load")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def test_the_index_shows_a_run_reloads_itself_and_then_leads_to_its_report(visit, reports):
    """Reload without a script shows the current content."""
    folder = reports["demo"].parent.parent
    forward = (folder / "index.html").read_text()
    overview.announce(folder, run_id="r", plan="small", names=["01", "waiting"], chosen=["01", "waiting"])
    try:
        reports["index"] = folder / "index.html"
        reports["index"].write_text(live_page(overview.look(folder)))
        page = visit("index")
        assert page.locator("tbody tr").last.inner_text().split() == ["waiting", "queued"]
        reports["index"].write_text(forward)
        page.wait_for_url(reports["demo"].as_uri(), timeout=120_000)
    finally:
        (folder / overview.WHOLE_RUN).unlink()
        reports["index"].write_text(forward)
        del reports["index"]


def names(page):
    return page.locator("#notebooks tbody tr:visible th a").all_inner_texts()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_opens_silently_without_a_network(visit, kind, scheme):
    """No request, no console message, no dialog: also with hostile notebooks."""
    page = visit(kind, color_scheme=scheme)
    assert page.locator("h1").inner_text()
    assert page.locator("svg.chart").count() >= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [360, 768, 1280, 1920])
def test_page_never_scrolls_sideways(visit, kind, width):
    """From a phone to a wide screen nothing sticks out of the page."""
    page = visit(kind, width=width)
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_table_sorts_both_ways_and_keeps_what_is_missing_last(visit):
    """A click sorts, a second one turns it round, and a dash is never the smallest value."""
    page = visit("every")
    wall = page.get_by_role("button", name="Wall")
    wall.click()
    up = names(page)
    assert up[0] == "02_skipped"
    assert up[-1] == "12_not_run"
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("Wall")
    wall.click()
    assert names(page)[0] == "04_refused"
    assert names(page)[-1] == "12_not_run"
    page.get_by_role("button", name="Notebook", exact=True).click()
    assert names(page) == sorted(up)


def test_table_filters_by_text_and_status(visit):
    """Search and status filter the table, and the count is shown."""
    page = visit("many")
    page.get_by_label("Find").fill("nb_01")
    assert len(names(page)) == 10
    page.get_by_label("Status").select_option("failed")
    assert names(page) == ["nb_012"]
    assert page.get_by_role("status").filter(has_text="1 of 40 notebooks").count() == 1
    page.get_by_label("Find").fill("")
    page.get_by_label("Status").select_option("any")
    assert len(names(page)) == 40


@pytest.mark.parametrize(
    ("typed", "found"), [("log", 0), ("html", 0), ("measured", 0), ("lost", 1), ("09_NOT", 1), ("not-r", 2)]
)
def test_find_looks_at_names_and_statuses_only(visit, typed, found):
    """Links and hidden text of a row are not searched."""
    page = visit("every")
    page.get_by_label("Find").fill(typed)
    assert len(names(page)) == found


def test_search_without_a_hit_says_so(visit):
    """A note and a reset button replace an empty table."""
    page = visit("every")
    page.get_by_label("Find").fill("zzz")
    assert page.get_by_text("No notebook matches.").is_visible()
    assert not page.locator("#notebooks").is_visible()
    page.get_by_role("button", name="Show all").click()
    assert len(names(page)) == 13
    assert not page.locator("#none-fits").is_visible()


@pytest.mark.parametrize("kind", ["every", "many", "hostile"])
def test_narrow_table_shows_every_figure_and_link(visit, kind):
    """On a phone each row is a card: nothing of it is cut off, and its files can be reached."""
    page = visit(kind, width=400)
    outside = page.locator("#notebooks tbody :is(th, td, a)").evaluate_all(
        "(all) => all.filter((e) => e.checkVisibility() && e.getBoundingClientRect().right > 400)"
        ".map((e) => e.textContent)"
    )
    assert outside == []
    assert page.locator("#notebooks tbody .files a:visible").count() == page.locator("#notebooks .files a").count()
    assert page.get_by_role("button", name="GPU memory peak").is_visible()


def test_paper_cuts_no_table_off(visit):
    """At the width of a sheet all table cells are inside it, for any names."""
    page = visit("long")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 703, "height": 1000})
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    outside = page.locator("table :is(th, td)").evaluate_all(
        "(all) => all.filter((e) => e.checkVisibility() && e.getBoundingClientRect().right > 704)"
        ".map((e) => e.textContent)"
    )
    assert outside == []


def test_bands_of_cells_are_seen(visit):
    """Every second band differs from the page by enough to be seen, light and dark."""

    def luminance(colour):
        channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for scheme in ("light", "dark"):
        page = visit("every", color_scheme=scheme)
        band, below = page.evaluate(
            """() => [getComputedStyle(document.querySelector('.chart .band.odd path')).fill,
            getComputedStyle(document.body).backgroundColor]"""
        )
        high, low = sorted((luminance(band), luminance(below)), reverse=True)
        assert (high + 0.05) / (low + 0.05) > 1.2, scheme


def test_status_stands_on_the_line_of_its_text(visit):
    """The word of a status has the baseline of the words around it."""
    page = visit("every")
    tops = page.locator(".counts li").first.evaluate(
        """(li) => [li.querySelector('.status span'), li.querySelector('b')].map((part) => {
            const mark = document.createElement('span');
            mark.style.cssText = 'display:inline-block;width:1px;height:0';
            part.append(mark);
            const bottom = mark.getBoundingClientRect().bottom;
            mark.remove();
            return bottom;
        })"""
    )
    assert abs(tops[0] - tops[1]) < 1


def test_pointer_on_a_chart_shows_values(visit):
    """The time and the value of each series are shown at the pointer."""
    page = visit("every")
    chart = page.locator("svg[data-seconds]:visible").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 80)
    text = page.locator(".readout:visible").inner_text()
    assert re.search(r"GPU memory: \d+\.\d GB", text)
    assert re.search(r"Host memory: \d+\.\d GB", text)
    page.mouse.move(5, 5)
    assert page.locator(".readout:visible").count() == 0


def test_largest_value_can_be_read_from_the_chart(visit):
    """Moving over the whole chart one meets the peak that was recorded."""
    page = visit("every")
    chart = page.locator("svg[data-seconds]:visible").first
    chart.scroll_into_view_if_needed()
    peak = float(chart.locator("[data-series='GPU memory']").get_attribute("data-peak"))
    box = chart.bounding_box()
    seen = []
    for step in range(0, int(box["width"]), 2):
        page.mouse.move(box["x"] + step, box["y"] + 80)
        seen.append(float(re.search(r"GPU memory: ([\d.]+) GB", page.locator(".readout:visible").inner_text())[1]))
    assert max(seen) == pytest.approx(peak, abs=0.06)


def test_arrow_keys_read_a_chart(visit):
    """Without a pointer the arrow keys move along a chart and Escape leaves it."""
    page = visit("every")
    page.locator("figure:visible:has(svg[data-seconds])").first.focus()
    page.keyboard.press("ArrowRight")
    first = page.locator(".readout:visible").inner_text()
    page.keyboard.press("Shift+ArrowRight")
    assert page.locator(".readout:visible").inner_text() != first
    page.keyboard.press("Escape")
    assert page.locator(".readout:visible").count() == 0


def test_keyboard_reaches_everything_that_can_be_used(visit):
    """Tab visits each link, button, field, fold and scrolling part in turn, and the focus is seen."""
    page = visit("demo")
    selector = "a[href], button, input, select, summary, [tabindex='0']"
    wanted = page.locator(selector).evaluate_all("(all) => all.filter((e) => e.checkVisibility()).length")
    reached = set()
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        at = page.evaluate(f"Array.from(document.querySelectorAll({selector!r})).indexOf(document.activeElement)")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        if at >= 0:
            assert outline != "none"
            reached.add(at)
    assert len(reached) == wanted


def test_link_to_a_folded_notebook_unfolds_it(visit):
    """Choosing a notebook in the table opens its section."""
    page = visit("many")
    section = page.locator("#notebook-3")
    assert section.get_attribute("open") is None
    page.locator("#notebooks a[href='#notebook-3']").click()
    page.wait_for_function("document.getElementById('notebook-3').open")
    assert section.locator("svg.chart").is_visible()
    assert abs(section.bounding_box()["y"]) < 100


@pytest.mark.parametrize("kind", KINDS)
def test_page_is_complete_without_scripts(visit, kind):
    """With scripts off tables, charts and sections are there; the tools that cannot work are not."""
    page = visit(kind, java_script_enabled=False)
    assert page.locator("#notebooks tbody tr").count() == {"every": 13, "many": 40, "hostile": 11, "demo": 3}[kind]
    assert page.locator("svg.chart").first.is_visible()
    assert page.locator("details.notebook").count() == page.locator("#notebooks tbody tr").count()
    assert not page.locator(".tools").is_visible()


def test_dark_page_is_dark_and_its_charts_too(visit):
    """In dark mode page, text and curves change their colours together."""

    def colours(scheme):
        page = visit("every", color_scheme=scheme)
        return page.evaluate(
            """() => [getComputedStyle(document.body).backgroundColor,
            getComputedStyle(document.querySelector('.chart text')).fill,
            getComputedStyle(document.querySelector('.chart [data-series] path')).stroke,
            getComputedStyle(document.querySelector('.chart .run path')).fill]"""
        )

    light, dark = colours("light"), colours("dark")
    assert light[0] == "rgb(255, 255, 255)"
    assert max(map(int, re.findall(r"\d+", dark[0])[:3])) < 60
    assert all(a != b for a, b in zip(light, dark, strict=True))


def test_print_is_light_and_unfolds_what_is_open(visit):
    """On paper the tools of the screen are gone; of forty notebooks only those that failed are printed in full."""
    page = visit("many", color_scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert not page.locator(".tools").is_visible()
    assert page.evaluate("getComputedStyle(document.body).getPropertyValue('--page').trim()") == "#ffffff"
    assert page.locator("#notebook-13 h4").first.is_visible()
    assert not page.locator("#notebook-3 h4").first.is_visible()
    few = visit("demo")
    few.emulate_media(media="print")
    assert few.locator("#notebook-3 h4").first.is_visible()


@pytest.mark.parametrize("kind", ["many", "failed"])
def test_forty_notebooks_print_on_at_most_thirty_pages(visit, kind):
    """Details of those that are fine stay folded, those of failures after the fifth too; package versions are left out."""
    page = visit(kind)
    assert 3 < len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) <= 30
    assert page.locator(".notebook[open]").count() == {"many": 3, "failed": 5}[kind]


def test_rows_of_the_table_are_one_line_and_nothing_of_them_is_cut(visit):
    """Forty notebooks take a screen and a half, with all links of each row in sight."""
    page = visit("many", width=1440)
    rows = page.locator("#notebooks tbody tr")
    assert max(row.bounding_box()["height"] for row in rows.all()) < 36
    assert page.locator("#table .wide").evaluate("(box) => box.scrollWidth <= box.clientWidth")
    assert visit("many", width=360).locator(".swipe").is_visible()
    assert not page.locator(".swipe").is_visible()


@pytest.mark.parametrize("width", [360, 720, 768, 1024, 1280, 1366])
def test_the_table_of_notebooks_fits_each_width(visit, width):
    """Columns that do not fit are left to the details of a notebook; its files and its status always fit."""
    page = visit("every", width=width)
    assert page.locator("#table .wide").evaluate("(box) => box.scrollWidth <= box.clientWidth")
    row = page.locator("#notebooks tbody tr").first
    assert row.get_by_role("link", name="metrics").is_visible()
    assert row.get_by_text("succeeded", exact=True).is_visible()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "scheme", "width"),
    [
        ("every", "light", 1280),
        ("every", "dark", 1280),
        ("every", "light", 360),
        ("demo", "light", 1280),
        ("demo", "dark", 360),
        ("many", "light", 1280),
        ("hostile", "light", 1280),
    ],
)
def test_axe_finds_no_violation(visit, kind, scheme, width):
    """axe-core has nothing to object: contrast, names, landmarks, tables, keyboard."""
    axe = NODE_MODULES / "axe-core" / "axe.min.js"
    if not axe.is_file():
        pytest.skip(f"no axe-core in {NODE_MODULES}; npm install --prefix .build axe-core, or set NODE_MODULES")
    page = visit(kind, color_scheme=scheme, width=width, bypass_csp=True)
    if kind != "many":
        page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    page.evaluate(axe.read_text())
    options = "{resultTypes: ['violations'], rules: {'target-size': {enabled: true}}}"
    found = page.evaluate(f"async () => (await axe.run(document, {options})).violations")
    assert [f"{v['id']}: {node['html'][:200]}" for v in found for node in v["nodes"][:3]] == []


def test_strict_viewer_shows_text_tables_and_drawn_charts(chromium, reports):
    """A viewer that drops our style and script still shows lines in colours and not black shapes."""
    context = chromium.new_context(offline=True)
    page = context.new_page()
    html = reports["every"].read_text().replace("style-src 'sha256-", "style-src 'sha256-0")
    page.set_content(html)
    assert page.evaluate("getComputedStyle(document.querySelector('.chart [data-series] path')).fill") == "none"
    assert page.evaluate("getComputedStyle(document.querySelector('.chart .run path')).fill") != "rgb(0, 0, 0)"
    assert page.locator("#notebooks tbody tr").count() == 13
    context.close()
