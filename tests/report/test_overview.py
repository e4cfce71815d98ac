# SPDX-License-Identifier: Apache-2.0
"""`runner status` and the index page: progress of a run from claims and records."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from simdriver import Device, SimulatedDriver
from support import cli, records

from runner.core.records import Status
from runner.report import overview
from runner.report.html.render import forward_page, live_page

if TYPE_CHECKING:
    from runner.report.overview import Overview, Row

RUN = records.RUN


def look(folder: Path, *alive: str, names: Sequence[str] = ()) -> Overview:
    return overview.look(
        folder, names=names, watch=lambda paths, _seconds: {path: path.stem in alive for path in paths}
    )


def rows(folder: Path, *alive: str, names: Sequence[str] = ()) -> dict[str, Row]:
    return {row.name: row for row in look(folder, *alive, names=names).rows}


def announce(folder: Path, *names: str, chosen: Sequence[str] | None = None, alive: bool = True) -> None:
    """Write the file of `run-all` at its start; dead: as if its process had ended."""
    run = overview.announce(folder, run_id=RUN, plan="small", names=names, chosen=names if chosen is None else chosen)
    if not alive:
        document = {**dataclasses.asdict(run), "pid_started": -1}
        (folder / overview.WHOLE_RUN).write_text(json.dumps(document))


def ended(folder: Path, name: str, status: Status = Status.SUCCEEDED, **changes: object) -> None:
    records.leave(folder, records.metrics(name, status=status, cells=2, **changes), with_samples=False)


def test_each_state_of_a_notebook_is_shown(tmp_path: Path) -> None:
    announce(tmp_path, "done", "bad", "now", "kept", "gone", "waiting", "old", "other", chosen=[
        "done", "bad", "now", "kept", "gone", "waiting", "old"])  # fmt: skip
    ended(tmp_path, "done")
    ended(tmp_path, "bad", Status.FAILED, reason="no such gene")
    records.running(tmp_path, "now", cell_index=2, cell_count=9)
    records.samples(tmp_path / "now.samples.csv", seconds=5, peak=13_000_000_000)
    records.running(tmp_path, "kept")
    ended(tmp_path, "kept", Status.FAILED, provisional=True, stage="held", reason="no such cell")
    records.running(tmp_path, "gone", cell_index=2, cell_count=9)
    ended(tmp_path, "old", run_id="earlier1-run")
    ended(tmp_path, "other", run_id="earlier1-run")

    found = rows(tmp_path, "now", "kept")

    assert {name: row.state for name, row in found.items()} == {
        "done": "succeeded",
        "bad": "failed",
        "now": "running",
        "kept": "held",
        "gone": "lost",
        "waiting": "queued",
        "old": "queued",
        "other": "not-run",
    }
    assert (found["now"].cell, found["now"].cells) == (3, 9)
    assert found["now"].gpu_memory_bytes
    assert found["kept"].reason == "no such cell; held until None: `runner repair kept`"
    assert found["gone"].reason == "its process is gone, last seen in cell 3 of 9"
    assert found["old"].reason.startswith("last succeeded at 2026-")
    assert found["other"].reason.startswith("not in this run; last succeeded at 2026-")
    assert "run-started" in found["bad"].log_line
    assert overview.text(look(tmp_path, "now", "kept"))[0].endswith(
        "1 succeeded, 1 failed, 1 running, 1 held, 1 lost, 2 queued, 1 not-run"
    )


def test_nothing_is_queued_once_the_run_is_gone(tmp_path: Path) -> None:
    announce(tmp_path, "a", "b", alive=False)
    ended(tmp_path, "a", provisional=True, stage="convert")
    assert {name: row.state for name, row in rows(tmp_path).items()} == {"a": "lost", "b": "not-run"}
    assert not look(tmp_path).running
    records.running(tmp_path, "a")
    assert rows(tmp_path, "a")["b"].state == "queued", "a Pipeline goes on without run-all"


def test_a_notebook_past_its_cells_says_which_stage_it_is_in(tmp_path: Path) -> None:
    records.running(tmp_path, "a")
    ended(tmp_path, "a", provisional=True, stage="convert")
    (row,) = look(tmp_path, "a").rows
    assert row.state == "running"
    assert overview.detail(row, "").startswith("in stage convert")


def test_without_run_all_the_plan_or_the_folder_says_which_notebooks_there_are(tmp_path: Path) -> None:
    ended(tmp_path, "b")
    assert list(rows(tmp_path)) == ["b"]
    assert list(rows(tmp_path, names=["a", "b"])) == ["a", "b"]
    announce(tmp_path, "c")
    assert list(rows(tmp_path, names=["a", "b"])) == ["a", "b"], "another plan's run"
    records.running(tmp_path, "stranger")
    assert list(rows(tmp_path, "stranger")) == ["c", "stranger"], "what runs is shown, whoever started it"


@pytest.mark.parametrize("damage", ["{", "[]", '{"names": ["../x"]}', '{"names": 1}', "\0"])
def test_damaged_files_cost_nothing_but_what_they_said(tmp_path: Path, damage: str) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / overview.WHOLE_RUN).write_text(damage)
    (tmp_path / "a.running").write_text(damage)
    (tmp_path / "b.metrics.json").write_text(damage)
    (tmp_path / "\x1b[31m.metrics.json").write_text("{}")
    ended(tmp_path, "c")
    assert {name: row.state for name, row in rows(tmp_path).items()} == {"b": "not-run", "c": "succeeded"}


@pytest.mark.parametrize("value", [None, 5, -1.5, "x", [], {}, ["../x"], True, 10**30])
def test_a_notebook_that_writes_anything_into_claims_and_records_breaks_nothing(tmp_path: Path, value: object) -> None:
    announce(tmp_path, "a", "b")
    records.running(tmp_path, "a")
    ended(tmp_path, "b", Status.FAILED, provisional=True, stage="convert")
    for name in (overview.WHOLE_RUN, "a.running", "b.metrics.json"):
        path = tmp_path / name
        before = path.read_text()
        document = json.loads(before)
        for key in document:
            path.write_text(json.dumps({**document, key: value}))
            for alive in ((), ("a",), ("a", "b")):
                found = look(tmp_path, *alive)
                assert {row.name for row in found.rows} <= {"a", "b"}, (name, key)
                assert overview.text(found)
                assert live_page(found)
        path.write_text(before)


def test_what_a_notebook_prints_moves_no_cursor(tmp_path: Path) -> None:
    announce(tmp_path, "a")
    ended(tmp_path, "a", Status.FAILED, reason="\x1b[2Jgone\r\nfine")
    (tmp_path / "a.log").write_text("\x1b[2J\x1b]0;title\x07last\x9b2J \x08line" + "x" * 10_000 + "\n\n")
    text = "\n".join(overview.text(look(tmp_path)))
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "last" in text
    assert len(text) < 1000


class Parsed(HTMLParser):
    """The elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    @property
    def refresh(self) -> list[str | None]:
        return [found["content"] for tag, found in self.tags if tag == "meta" and found.get("http-equiv") == "refresh"]


def test_the_page_reloads_itself_while_anything_runs_and_has_no_script(tmp_path: Path) -> None:
    announce(tmp_path, "a<script>", "b")
    ended(tmp_path, "b", Status.FAILED, reason="<img src=x onerror=alert(1)>")
    page = Parsed(live_page(look(tmp_path)))
    assert page.refresh == ["5"]
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert Parsed(live_page(dataclasses.replace(look(tmp_path), running=False))).refresh == []


def test_afterwards_the_page_leads_to_the_report() -> None:
    page = Parsed(forward_page("reports/my report.html"))
    assert page.refresh == ["0; url=reports/my%20report.html"]
    assert ("a", {"href": "reports/my%20report.html"}) in page.tags


def test_a_page_of_a_notebook_named_index_is_not_overwritten(tmp_path: Path) -> None:
    ended(tmp_path, "index")
    before = (tmp_path / "index.html").read_bytes()
    assert cli.runner("report", tmp_path).code == 0
    assert (tmp_path / "index.html").read_bytes() == before


def test_a_folder_without_a_run_is_a_usage_error(tmp_path: Path) -> None:
    ended = cli.runner("status", tmp_path)
    assert ended.code == 2
    assert "contains no runs" in ended.err


def test_memory_in_use_now_is_shown(tmp_path: Path, simulated_driver: SimulatedDriver) -> None:
    ended(tmp_path, "a")
    simulated_driver.write(Device(uuid="GPU-1", name="NVIDIA H200", total_bytes=141 * 10**9, used_bytes=12 * 10**9))
    lines = cli.runner("status", tmp_path, env=simulated_driver.environ()).out.splitlines()
    assert "GPU 0 NVIDIA H200: 12.0 GB of 141.0 GB in use" in lines
    assert lines[-1].startswith("host memory: ")
    machine = json.loads(cli.runner("status", tmp_path, "--json", env=simulated_driver.environ()).out)["machine"]
    assert machine["gpus"][0]["used_bytes"] == 12 * 10**9
    assert 0 < machine["host_used_bytes"] < machine["host_total_bytes"]
