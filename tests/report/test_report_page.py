# SPDX-License-Identifier: Apache-2.0
"""The page of a report as a document: safe with hostile content, self-contained, in order."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from support import pages
from support import records as made

from runner.core.records import Change, Failure, Status
from runner.report import build
from runner.report.html import formatting as text

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "</style></script></title><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "$x^2$ and \\frac",
    "\x1b[31mred\x1b[0m",
    "abc\u202egnp.exe",
    "&lt;b&gt; &amp;",
    "emoji 🧬 日本語",
    "100%25 #1?x=2&y",
)


class Elements(HTMLParser):
    """Collects the elements of a page with their attributes, and the text of each kind."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data):
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def all(self, *tags):
        return [attributes for tag, attributes in self.found if tag in tags]


def page_of(folder: Path, **options) -> str:
    return build(folder, watch=lambda paths, seconds: dict.fromkeys(paths, False), **options).html_path.read_text()


def hostile_folder(folder: Path) -> None:
    """Write records in which every text is hostile."""
    everything = " ".join(HOSTILE)
    for position, bad in enumerate(HOSTILE):
        name = "".join(c for c in f"{position} {bad}" if c not in "/\\\x1b\u202e")
        record = made.metrics(name, status=Status.FAILED, failed_cell=2, cells=4)
        cells = tuple(dataclasses.replace(cell, title=bad, id=bad, warnings=(bad,)) for cell in record.cells)
        made.leave(
            folder,
            dataclasses.replace(
                record,
                run_id="r",
                reason=everything,
                cells=cells,
                failure=Failure(message=bad, error_name=bad, traceback_tail=everything, cell_index=2, hint=bad),
                warnings=(bad,),
                preparation=(Change(rule=bad, detail=bad, old=bad, new=bad),),
                versions={bad: bad},
                source=dataclasses.replace(record.source, title=bad, commit=bad, path=bad),
                environment=dataclasses.replace(record.environment, image=bad, parameters={bad: bad}, platform=bad),
                host=dataclasses.replace(record.host, hostname=bad, memory_limit_source=bad),
                gpus=(dataclasses.replace(record.gpus[0], name=bad, unavailable={bad: bad}),),
                gate=dataclasses.replace(record.gate, reason=bad),
            ),
        )


def test_hostile_names_and_outputs_are_text(tmp_path):
    """No name, message or output of a notebook becomes an element or an attribute."""
    hostile_folder(tmp_path)
    page = page_of(tmp_path)
    elements = Elements(page)
    assert len(elements.all("script")) == 1
    assert len(elements.all("style")) == 1
    assert not elements.all("img", "iframe", "object", "embed", "link", "base", "form", "foreignobject")
    for tag, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on")], tag
    assert "alert(1)" in page
    assert "{{ 7 * 7 }}" in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert r"abc\u202egnp.exe" in page


def test_links_lead_to_files_that_exist_and_nowhere_else(tmp_path):
    """Each link is to a part of the page or a file of the folder, for any notebook name."""
    hostile_folder(tmp_path)
    result = build(tmp_path, watch=lambda paths, seconds: dict.fromkeys(paths, False))
    elements = Elements(result.html_path.read_text())
    ids = {attributes["id"] for _, attributes in elements.found if attributes.get("id")}
    links = [attributes["href"] for attributes in elements.all("a", "use")]
    assert len(links) > 50
    for link in links:
        if link.startswith("#"):
            assert link[1:] in ids
        else:
            assert ":" not in link.partition("/")[0]
            file, _, cell = link.partition("#")
            assert (result.html_path.parent / unquote(file)).exists(), link
            assert not cell or re.fullmatch(r"cell-\d+", cell)


def test_each_failure_says_first_what_mends_it(tmp_path):
    """Each failure is shown first, with the failed line, error, hint and a link to the cell."""
    page = page_of(tmp_path, plan=made.every_status(tmp_path))
    verdict = page.partition('<section id="timeline"')[0]
    assert verdict.count('class="callout bad"') == 11
    first = verdict.index("First failure: ")
    assert first < verdict.index("rsc.pp.pca(adata, n_comps=100)")
    assert "OutOfMemoryError: Out of memory allocating" in verdict
    assert 'href="../03_failed.html#cell-10"' in verdict
    assert "Hint: look at the source and change the rule" in verdict


def test_page_asks_for_nothing_from_a_network(tmp_path):
    """No element of the page has an address to load, and the policy would forbid it."""
    page = page_of(tmp_path, plan=made.every_status(tmp_path))
    elements = Elements(page)
    loads = {
        name
        for tag, attributes in elements.found
        for name, value in attributes.items()
        if tag != "a" and re.match(r"(https?:)?//", value or "")
    }
    assert loads == set()
    assert "url(http" not in page
    assert "@import" not in page


def test_policy_allows_just_the_pages_own_style_and_script(tmp_path):
    """The hashes in the policy are those of the one style and the one script, and nothing else is allowed."""
    page = page_of(tmp_path, plan=made.every_status(tmp_path))
    policy = next(a["content"] for a in Elements(page).all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    for directive, tag in (("style-src", "style"), ("script-src", "script")):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL).group(1)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_no_inline_style_or_handler_that_the_policy_would_drop(tmp_path):
    """Charts too carry their looks in classes and attributes that a strict policy lets through."""
    elements = Elements(page_of(tmp_path, plan=made.every_status(tmp_path)))
    assert elements.all("path")
    assert not [tag for tag, attributes in elements.found if "style" in attributes]


def test_page_reads_in_order(tmp_path):
    """Verdict, facts, timeline, table, advice, comparison, details: in this order, under one h1."""
    earlier = tmp_path / "earlier"
    made.leave(earlier, made.metrics("a", wall=10))
    build(earlier)
    record = made.metrics("a", wall=400)
    held = dataclasses.replace(record.gpus[0], busy_seconds=1.0)
    made.leave(tmp_path, dataclasses.replace(record, gpus=(held,)))
    page = page_of(tmp_path, baselines=[earlier])
    elements = Elements(page)
    parts = ["verdict", "timeline", "table", "advice", "comparison", "details", "facts"]
    places = [page.index(f'<section id="{part}"') for part in parts]
    assert places == sorted(places)
    assert len(elements.all("h1")) == 1
    for landmark in ("header", "nav", "main", "footer"):
        assert len(elements.all(landmark)) == 1
    assert elements.all("html")[0]["lang"] == "en"
    assert all(attributes.get("scope") in {"row", "col"} for attributes in elements.all("th"))


def test_ids_are_unique(tmp_path):
    """No two elements share an id, also not those inside of charts."""
    plan = made.many(tmp_path, 6)
    ids = [attributes["id"] for _, attributes in Elements(page_of(tmp_path, plan=plan)).found if attributes.get("id")]
    assert len(ids) == len(set(ids))


def test_charts_have_a_name_and_a_description(tmp_path):
    """Each chart has a title and a description with its peaks for screen readers."""
    made.leave(tmp_path, made.metrics("a"))
    elements = Elements(page_of(tmp_path))
    charts = [a for a in elements.all("svg") if a.get("role") == "img"]
    assert len(charts) == 2
    ids = {attributes["id"] for _, attributes in elements.found if attributes.get("id")}
    for chart in charts:
        assert {chart["aria-labelledby"], chart["aria-describedby"]} <= ids
    assert any("GPU memory: peak 13.3 GB" in said for said in elements.texts["desc"])


def test_columns_of_gpu_figures_stand_only_where_a_gpu_was(tmp_path):
    """A run without a GPU is not a table of dashes."""
    made.leave(tmp_path, made.metrics("a", gpus=0))
    page = page_of(tmp_path)
    assert "GPU memory peak" not in page
    assert "none used" in page


def test_sections_of_what_went_wrong_are_open(tmp_path):
    """Among many notebooks the failed ones are unfolded and the others wait."""
    plan = made.many(tmp_path, 14)
    notebooks = [a for a in Elements(page_of(tmp_path, plan=plan)).all("details") if a.get("class") == "notebook"]
    assert [a["id"] for a in notebooks if "open" in a] == ["notebook-13"]
    assert len(notebooks) == 14


def test_allocated_memory_stands_beside_the_drivers(tmp_path):
    """With figures of the allocator, need and smallest card are shown with the peak."""
    made.leave(tmp_path, made.metrics("a"))
    page = page_of(tmp_path)
    assert "allocated peak 8.0 GB (rmm)" in page
    assert "need 8.6 GB: fits a 16 GB card" in page


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("\x1b[1;31mE\x1b[0m", "E"),
        ("\x1b]8;;http://x\x07link\x1b]8;;\x07", "link"),
        ("a\x00b", "a\\u0000b"),
        ("a\u2066b", "a\\u2066b"),
        ("a\ud800b", "a\\ud800b"),
        ("line\n\ttab", "line\n\ttab"),
        ("日本語 é", "日本語 é"),
    ],
)
def test_control_characters_are_seen_and_do_nothing(given, shown):
    """Escape sequences go, other invisible characters become visible."""
    assert text.plain(given) == shown


def test_gpus_of_one_kind_are_one_fact(tmp_path):
    """Eight cards of the same kind are listed once, with folded UUIDs; release and table use indices."""
    made.leave(tmp_path, made.metrics("a", gpus=8), with_samples=False)
    made.leave(tmp_path, made.metrics("b", gpus=2), with_samples=False)
    page = pages.Page(page_of(tmp_path))
    facts = page.by_id("facts").text
    assert facts.count("NVIDIA L4") == 1
    assert "8 \N{MULTIPLICATION SIGN} NVIDIA L4, 24.2 GB, driver 570.86.15, CUDA 12.8" in " ".join(facts.split())
    folded = page.one("details", having="uuids").text
    assert all(uuid in folded for uuid in made.UUIDS)
    section = page.by_id("notebook-1").text
    assert not [uuid for uuid in made.UUIDS if uuid in section]
    assert "#7: 455.1 MB before, 455.1 MB after" in section


def test_cards_that_differ_are_told_apart(tmp_path):
    """Another driver or another card is another fact."""
    made.leave(tmp_path, made.metrics("a"), with_samples=False)
    other = dataclasses.replace(made.gpu_use(1), name="NVIDIA A100")
    made.leave(tmp_path, dataclasses.replace(made.metrics("b"), gpus=(other,)), with_samples=False)
    page = pages.Page(page_of(tmp_path))
    assert len(page.all("details", having="uuids")) == 2


def test_energy_column_has_one_unit(tmp_path):
    """Energies of one table can be compared without reckoning."""
    for name, wall in (("a", 3.0), ("b", 240.0), ("c", 10_800.0)):
        made.leave(tmp_path, made.metrics(name, wall=wall), with_samples=False)
    rows = [e for e in pages.Page(page_of(tmp_path)).all("td") if e.attributes.get("data-label") == "Energy"]
    assert [row.text for row in rows] == ["<0.001 kWh", "0.009 kWh", "0.420 kWh"]


def test_utilisation_has_one_name(tmp_path):
    """The mean utilisation is not called busy, which is a share of the time held."""
    made.leave(tmp_path, made.metrics("a"), with_samples=False)
    heads = {e.text for e in pages.Page(page_of(tmp_path)).all("th")}
    assert "GPU utilisation" in heads
    assert "GPU busy" not in heads


def test_names_break_between_words(tmp_path):
    """Names in tables may break behind separators."""
    made.leave(tmp_path, made.metrics("08_unexpected_results"), with_samples=False)
    page = page_of(tmp_path)
    assert "<bdi>08_<wbr>unexpected_<wbr>results</bdi>" in page


def test_dash_stands_once_where_nothing_is_known(tmp_path):
    """What was neither asked nor there is one dash, as everywhere."""
    made.leave(tmp_path, made.metrics("a"), with_samples=False)
    cells = pages.Page(page_of(tmp_path, plan=made.plan_of("a", "b"))).all("td")
    assert [e.text for e in cells if e.attributes.get("data-label") == "requested / total"] == [
        "15 GB / 24.2 GB",
        "\N{EN DASH} not measured",
    ]


def dead_links(page):
    ids = {e.attributes["id"] for e in page.elements if e.attributes.get("id")}
    links = [e.attributes["href"] for e in page.all("a")]
    return [link for link in links if link.startswith("#") and link[1:] not in ids]


def test_empty_folder_says_what_to_do(tmp_path):
    """Without a record there is no verdict and no empty table, but the next step."""
    page = pages.Page(page_of(tmp_path, tasks={"clone": "Succeeded"}))
    assert "verdict-none" in page.one("h1").classes
    assert "runner run NOTEBOOK --output-dir" in page.by_id("verdict").text
    assert not page.all("table")
    assert not page.all("input")
    assert dead_links(page) == []


def test_plan_that_has_not_run_blames_nobody(tmp_path):
    """If nothing of a plan has run the page says so, without a first failure or a missing GPU."""
    page = pages.Page(page_of(tmp_path, plan=made.plan_of("a", "b")))
    assert page.one("h1").text.strip() == "None of 2 notebooks has run yet"
    assert "First failure" not in page.text
    assert "none used" not in page.text
    assert "runner run-all PLAN" in page.by_id("verdict").text
    assert not [e for e in page.all("details", having="notebook") if "open" in e.attributes]
    assert dead_links(page) == []


def test_counts_agree_with_their_nouns(tmp_path):
    """One of a kind is singular wherever it is counted."""
    record = made.metrics("a", wall=0.4, cells=1, gpus=0, versions={"scanpy": "1.11.5"})
    host = dataclasses.replace(record.host, cpus=1.0, oom_kills=1)
    sampler = dataclasses.replace(record.sampler, ticks=1)
    made.leave(tmp_path, dataclasses.replace(record, host=host, sampler=sampler), with_samples=False)
    text = " ".join(pages.Page(page_of(tmp_path)).text.split())
    for said in ("1 package version", "1 CPU,", "1 out-of-memory kill", "every 0.5 s, 1 time,"):
        assert said in text
    assert not re.findall(r"\b1 (?:cells|times|kills|CPUs|package versions|notebooks|lines)\b", text)


def test_a_notebook_shows_its_command_disk_and_kept_parameters(tmp_path):
    """The summary has the same figures; a parameter that was changed as well is not marked kept."""
    changes = tuple(
        Change(rule="parameter", detail=detail, old=old, new=new)
        for detail, old, new in (
            ("n = 5, kept", "5", "5"),
            ("k = 1, kept", "1", "1"),
            ("m = 1 -> 3", "1", "3"),
            ("k = 2 -> 1", "2", "1"),
        )
    )
    record = made.metrics("a b", gpus=0, preparation=changes)
    environment = dataclasses.replace(record.environment, parameters={"n": 5, "m": 3})
    made.leave(tmp_path, dataclasses.replace(record, environment=environment))
    page = page_of(tmp_path)
    assert 'n = 5 <span class="minor">(kept)</span>, m = 3<' in page
    assert "<code>runner run &#39;a b&#39; --plan plan.yaml</code>" in page
    assert "2.4 GB read, 310.0 MB written" in page
    assert "<del>1</del> <ins>3</ins>" in page
    assert "<del>5</del>" not in page
    one = json.loads((tmp_path / "reports" / "summary.json").read_text())["notebooks"][0]
    assert one["kept_parameters"] == ["n"]
    assert one["command"] == ["runner", "run", "a b", "--plan", "plan.yaml"]
    assert (one["disk_read_bytes"], one["disk_written_bytes"]) == (2_400_000_000, 310_000_000)


def test_times_name_the_zone_of_the_machine(monkeypatch):
    """Local time is shown with UTC, with its date if that differs."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert "12:00:00 UTC (21:00 JST)" in text.moment("2026-11-20T12:00:00Z")
        assert "20:00:00 UTC (2026-11-21 05:00 JST)" in text.moment("2026-11-20T20:00:00Z")
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("confined", [True, False])
def test_a_plain_machine_is_not_called_a_container(tmp_path, confined):
    """Where no container limits the memory, the page and its advice speak of none."""
    record = made.metrics("a")
    host = dataclasses.replace(
        record.host,
        memory_limit_source="cgroup-v2:/pod" if confined else "host",
        memory_limit_bytes=12_100_000_000,
        unavailable={"limit_bytes": "no cgroup limits memory below the machine's"},
    )
    made.leave(tmp_path, dataclasses.replace(record, host=host))
    page = page_of(tmp_path)
    for words in ("whole container", "limit_bytes: no cgroup", "ends the container"):
        assert (words in page) is confined
    assert ("close to the memory of the machine" in page) is not confined
