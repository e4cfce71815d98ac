# SPDX-License-Identifier: Apache-2.0
"""Charts show every peak of the samples, for any file."""

from __future__ import annotations

import random
import re
from datetime import timedelta
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import records as made

from runner.core.records import Status
from runner.report import build
from runner.report.assemble import assemble
from runner.report.folder import read_folder
from runner.report.html import timeline
from runner.report.html.charts import clock, notebook_chart, time_step
from runner.report.html.panels import Scene, panels_of, scene_of
from runner.report.sample_series import GpuSamples, Samples, envelope, means, read_samples


def all_dead(paths, seconds):
    return dict.fromkeys(paths, False)


def shown_values(svg: str, series: str) -> list[tuple[float, float]]:
    """Return time and value of each point of a series, as the page's script computes them."""
    root = ET.fromstring(svg)
    step, left = map(float, root.attrib["data-seconds"].split())
    group = next(e for e in root.iter() if e.attrib.get("data-series") == series)
    rise, origin = map(float, group.attrib["data-value"].split())
    path = next(e for e in group.iter() if e.tag.endswith("path"))
    numbers = [float(n) for n in re.findall(r"-?[\d.]+", path.attrib["d"])]
    return [((x - left) * step, (origin - y) * rise) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]


def chart_of(folder, record, **shape) -> str:
    made.leave(folder, record, **shape)
    return drawn(folder, record.notebook)


def drawn(folder, name) -> str:
    report = assemble(read_folder(folder, watch=all_dead))
    scene = scene_of(next(entry for entry in report.entries if entry.name == name))
    return notebook_chart("c", scene, read_samples(folder / f"{name}.samples.csv"))


@pytest.mark.parametrize("spike_at", [0, 1, 4_321, 57_598, 57_599])
def test_largest_value_shown_is_the_largest_recorded(tmp_path, spike_at):
    """A peak of one sample among 57,600 is in the picture, at its time, wherever it lies."""
    record = made.metrics("a", wall=28_800.0)
    svg = chart_of(tmp_path, record, spike_at=spike_at, spike=23_999_000_000)
    points = shown_values(svg, "GPU memory")
    assert len(points) < 700
    at, value = max(points, key=lambda point: point[1])
    assert value == pytest.approx(23.999, abs=0.003)
    assert at == pytest.approx(spike_at * 0.5, abs=1.0)
    assert 'data-peak="23.999"' in svg
    assert "peak 24.0 GB" in svg


@settings(max_examples=60)
@given(
    st.lists(st.floats(0, 1e12) | st.just(float("nan")), min_size=1, max_size=900),
    st.integers(1, 40),
    st.randoms(use_true_random=False),
)
def test_thinning_out_keeps_extremes_and_ends(values, buckets, rng):
    """Of any series the largest, the smallest, the first and the last value stay, in order of time."""
    time = np.cumsum([rng.choice([0.0, 0.5, 0.5, 30.0]) for _ in values])
    series = np.array(values)
    kept_time, kept = envelope(time, series, buckets)
    known = series[np.isfinite(series)]
    assert len(kept) <= 2 * buckets + 2
    assert np.all(np.diff(kept_time) >= 0)
    if len(known):
        assert kept.max() == known.max()
        assert kept.min() == known.min()
        assert (kept[0], kept[-1]) == (known[0], known[-1])
    else:
        assert len(kept) == 0


def test_means_lie_between_the_extremes():
    """Downsampled utilisation is the mean of each time bucket."""
    time = np.arange(10_000) * 0.5
    values = np.array([random.Random(n).uniform(0, 100) for n in range(10_000)])
    at, mean = means(time, values, 100)
    assert len(mean) == 100
    assert mean.mean() == pytest.approx(values.mean(), abs=0.1)
    assert np.all(np.diff(at) > 0)


def test_lines_that_are_no_samples_are_counted_and_left_out(tmp_path):
    """A torn or foreign line costs itself and nothing else."""
    path = tmp_path / "a.samples.csv"
    made.samples(path, seconds=10)
    lines = path.read_text().splitlines()
    lines[3:3] = ["garbage", "", "x,y,z,,,,,", f"nan,{made.UUIDS[0]},1,2,3,4,5,6{made.NO_UNITS}"]
    path.write_text("\n".join(lines) + "\n5.0,GPU-half,12")
    samples = read_samples(path)
    assert len(samples.time_seconds) == 20
    assert samples.left_out == 4
    assert list(samples.gpus) == [made.UUIDS[0]]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["garbage", "x,y,z,,,,,"], "a.samples.csv cannot be drawn: none of its 2 lines is valid"),
        ([f"nan,,,,,,1,2{made.NO_UNITS}"], "a.samples.csv cannot be drawn: none of its 1 line is valid"),
    ],
)
def test_file_of_bad_lines_only_is_told_in_a_sentence(tmp_path, lines, said):
    """A samples file without one sample is named as such, and by no exception."""
    made.leave(tmp_path, made.metrics("a"))
    (tmp_path / "a.samples.csv").write_text("\n".join([made.HEADER, *lines, ""]))
    assert build(tmp_path, watch=all_dead).problems == (said,)


def test_samples_without_figures_draw_nothing(tmp_path):
    """Times alone make no chart, and no empty axes."""
    made.leave(tmp_path, made.metrics("a"))
    lines = (f"{at},,,,,,,{made.NO_UNITS}" for at in (0.5, 1.0))
    (tmp_path / "a.samples.csv").write_text("\n".join([made.HEADER, *lines, ""]))
    result = build(tmp_path, watch=all_dead)
    assert result.problems == ("a.samples.csv cannot be drawn: its samples contain no values",)
    assert "notebook-1-chart" not in result.html_path.read_text()


@pytest.mark.parametrize(
    ("bad", "said"),
    [(1, "1 invalid line ignored"), (2, "2 invalid lines ignored")],
)
def test_lines_left_out_are_counted_in_words(tmp_path, bad, said):
    """One line is one line."""
    made.leave(tmp_path, made.metrics("a", wall=10.0))
    with (tmp_path / "a.samples.csv").open("a") as stream:
        stream.write("x\n" * bad)
    assert build(tmp_path, watch=all_dead).problems == (f"a.samples.csv: {said}",)


@pytest.mark.parametrize("content", ["", "\n", made.HEADER, f"{made.HEADER}\n", "a,b\n1,2\n", "\x00\x01\x02\n"])
def test_file_without_samples_draws_nothing_and_fails_nothing(tmp_path, content):
    """An empty or foreign samples file leaves a report without that chart."""
    made.leave(tmp_path, made.metrics("a"))
    (tmp_path / "a.samples.csv").write_text(content)
    result = build(tmp_path, watch=all_dead)
    assert result.verdict == "succeeded"
    assert "data-series" not in result.html_path.read_text().partition("<script>")[0]


def test_nothing_that_samples_hold_fails_the_report(tmp_path):
    """Infinite, negative, huge and backward values are drawn or left out."""
    made.leave(tmp_path, made.metrics("a"))
    uuid = made.UUIDS[0]
    rows = [
        "1e400,x,1,1,1,1,1,1",
        f"5,{uuid},1e308,-5,1,1,-1e308,1e9",
        f"1,{uuid},,,,,,",
        f"-7,{uuid},inf,nan,1,1,1e30,1",
    ]
    (tmp_path / "a.samples.csv").write_text("\n".join([made.HEADER, *(row + made.NO_UNITS for row in rows)]) + "\n")
    assert build(tmp_path, watch=all_dead).verdict == "succeeded"


def test_what_the_units_of_several_gpus_did_is_their_mean(tmp_path):
    """Means over the GPUs that report a value at that time; without any nothing is drawn."""
    nothing = np.full(3, np.nan)
    time = np.array([0.0, 1.0, 2.0])
    told = ([np.nan, 10.0, 30.0], [np.nan, 20.0, np.nan])
    gpus = {
        f"GPU-{number}": GpuSamples(
            time_seconds=time,
            memory_bytes=nothing,
            utilization_percent=nothing,
            power_watts=nothing,
            activity={"tensor_percent": np.array(values)},
        )
        for number, values in enumerate(told)
    }
    samples = Samples(time_seconds=time, host_memory_bytes=nothing, host_cpu_percent=nothing, gpus=gpus)
    (panel,) = panels_of(Scene(name="a"), samples, 300)
    (line,) = panel.lines
    assert (line.label, list(line.time), list(line.values)) == ("tensor", [1.0, 2.0], [15.0, 30.0])
    assert panel.top == pytest.approx(34.5)


def test_chart_without_a_gpu_shows_the_host(tmp_path):
    """On a machine without a GPU the host's memory and CPU are drawn."""
    svg = chart_of(tmp_path, made.metrics("a", gpus=0))
    assert "GPU" not in re.sub(r"<title id.*?</title>", "", svg)
    assert shown_values(svg, "Host memory")
    assert shown_values(svg, "Host CPU")


def test_each_gpu_has_a_line(tmp_path):
    """Of several GPUs each is drawn and named."""
    svg = chart_of(tmp_path, made.metrics("a", gpus=3))
    for index in range(3):
        assert shown_values(svg, f"GPU memory, GPU {index}")


def test_cells_are_bands_and_the_failing_one_stands_out(tmp_path):
    """Cells lie behind the curves; hovering one names it without a script."""
    record = made.metrics("a", status=Status.FAILED, failed_cell=9)
    svg = chart_of(tmp_path, record)
    root = ET.fromstring(svg)
    bands = [e for e in root.iter() if e.attrib.get("class", "").startswith("band")]
    titles = [band[0].text for band in bands]
    assert any(t.startswith("cell 3 · succeeded") and "sc.read" in t for t in titles)
    bad = [t for t, band in zip(titles, bands, strict=True) if "bad" in band.attrib["class"]]
    assert bad
    assert all(t.startswith("cell 10 · failed") for t in bad)


def test_names_are_never_markup_or_mathematics(tmp_path):
    """A notebook called like a tag or a formula is drawn as its letters."""
    for name in ("a $x^2$ b", "a<b>&amp;", "日本語 🧬", "${1}_{"):
        folder = tmp_path / str(abs(hash(name)))
        made.leave(folder, made.metrics(name))
        report = assemble(read_folder(folder, watch=all_dead))
        texts = ["".join(e.itertext()) for e in ET.fromstring(timeline.draw(timeline.rows_of(report))).iter()]
        assert name in texts


def rows_of(folder, plan=None):
    return timeline.rows_of(assemble(read_folder(folder, watch=all_dead), plan=plan))


def test_timeline_tells_waits_and_gates_from_work(tmp_path):
    """A notebook that stood ready, and one that stood at the gate, show how long."""
    made.leave(tmp_path, made.metrics("a", wall=100.0), with_samples=False)
    record = made.metrics("b", wall=60.0, start=made.START + timedelta(seconds=130), gate=made.gate(1, waited=25.0))
    made.leave(tmp_path, record, with_samples=False)
    rows = rows_of(tmp_path, made.plan_of("a", "b", needs={"b": ["a"]}))
    assert rows[0].waited_seconds is None
    assert rows[1].waited_seconds == pytest.approx(30.0)
    svg = timeline.draw(rows)
    assert "b: ready, waited 30s for its turn" in svg
    assert "b: waited 25s at the gate" in svg
    assert "b needs a" in svg


def test_three_seconds_beside_three_hours_are_both_legible(tmp_path):
    """The shortest bar is visible, and each has its duration."""
    made.leave(tmp_path, made.metrics("long", wall=10_800.0), with_samples=False)
    start = made.START + timedelta(seconds=10_900)
    made.leave(tmp_path, made.metrics("short", wall=3.0, start=start), with_samples=False)
    root = ET.fromstring(timeline.draw(rows_of(tmp_path)))
    widths = []
    for bar in (e for e in root.iter() if e.attrib.get("class", "").startswith("run")):
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", bar.find(".//{*}path").attrib["d"])]
        widths.append(max(numbers[::2]) - min(numbers[::2]))
    assert min(widths) >= 2.9
    texts = ["".join(e.itertext()) for e in root.iter() if e.tag.endswith("text")]
    assert {"3h00m", "3.0s"} <= set(texts)


def test_timeline_is_grouped_by_stage_in_the_order_of_the_plan(tmp_path):
    """Stages are headings in order of their first notebook."""
    made.leave(tmp_path, made.metrics("a"), with_samples=False)
    plan = made.plan_of("a", "b", "c", stages={"a": "basic", "b": "advanced", "c": "basic"})
    root = ET.fromstring(timeline.draw(rows_of(tmp_path, plan)))
    texts = ["".join(e.itertext()) for e in root.iter() if e.tag.endswith("text")]
    words = [t for t in texts if t in {"basic", "advanced", "a", "b", "c"}]
    assert words.index("basic") < words.index("advanced")


def test_charts_are_left_out_with_a_reason_when_they_cannot_be_drawn(tmp_path, monkeypatch):
    """Without numpy the report lacks only the charts, and notes that."""
    import sys

    made.leave(tmp_path, made.metrics("a"))
    monkeypatch.setitem(sys.modules, "numpy", None)
    result = build(tmp_path, watch=all_dead)
    assert result.verdict == "succeeded"
    assert any("charts are not drawn" in problem for problem in result.problems)
    assert "all cells ran" in result.html_path.read_text()


@pytest.mark.parametrize(("end", "step"), [(0.4, 0.1), (3, 1), (40, 5), (240, 30), (28_800, 3600), (10**6, 200_000)])
def test_time_axis_counts_as_people_do(end, step):
    """Steps of a time axis are whole seconds, minutes or hours if possible."""
    assert time_step(end) == pytest.approx(step)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0"), (0.5, "0.5s"), (30, "30s"), (60, "1m"), (90, "1m30"), (7500, "2h05"), (7200, "2h")]
)
def test_times_on_an_axis_are_short(seconds, text):
    """The label of a tick has at most five characters."""
    assert clock(seconds) == text


def test_gap_in_the_drivers_figures_is_no_zero(tmp_path):
    """Missing values of the driver are omitted from the curve."""
    made.leave(tmp_path, made.metrics("a"))
    path = tmp_path / "a.samples.csv"
    lines = path.read_text().splitlines()
    for place in range(100, 200):
        fields = lines[place].split(",")
        fields[2:6] = ["", "", "", ""]
        lines[place] = ",".join(fields)
    path.write_text("\n".join(lines) + "\n")
    values = [value for _, value in shown_values(drawn(tmp_path, "a"), "GPU memory")]
    assert min(values) > 0.4


def test_lost_run_is_drawn_too(tmp_path):
    """The samples of a run that left no record are the best evidence there is: they are drawn."""
    made.leave(tmp_path, made.metrics("a"), with_samples=False)
    made.running(tmp_path, "gone")
    made.samples(tmp_path / "gone.samples.csv", seconds=100, host_end=30_500_000_000)
    svg = drawn(tmp_path, "gone")
    assert max(value for _, value in shown_values(svg, "Host memory")) == pytest.approx(30.4, abs=0.1)
    assert "limit, 32.0 GB" in svg
    assert "GPU and host usage of gone over time" in build(tmp_path, watch=all_dead).html_path.read_text()


def groups(svg, kind):
    return [e for e in ET.fromstring(svg).iter() if e.attrib.get("class", "").split()[:1] == [kind]]


def texts_of(svg):
    return ["".join(e.itertext()) for e in ET.fromstring(svg).iter() if e.tag.endswith("text")]


def test_lines_of_several_gpus_have_a_key(tmp_path):
    """Each GPU has a legend key and a distinct dash pattern, for print."""
    svg = chart_of(tmp_path, made.metrics("a", gpus=8))
    assert [t for t in texts_of(svg) if t.startswith("#")] == [f"#{index}" for index in range(8)]
    dashes = {
        line.attrib["data-series"]: line.find(".//{*}path").attrib.get("stroke-dasharray")
        for line in groups(svg, "line")
        if line.attrib.get("data-series", "").startswith("GPU memory")
    }
    assert len(set(dashes.values())) == 8
    alone = tmp_path / "alone"
    assert not [t for t in texts_of(chart_of(alone, made.metrics("a"))) if t.startswith("#")]


def test_names_of_limits_stand_beside_the_title_and_off_the_curve(tmp_path):
    """The label of a limit does not overlap with curves and is visible on a narrow screen."""
    svg = chart_of(tmp_path, made.metrics("a"), host_end=31_900_000_000)
    texts = {"".join(e.itertext()): e for e in ET.fromstring(svg).iter() if e.tag.endswith("text")}
    tops = {}
    for title, name in (("Host memory", "limit, 32.0 GB"), ("GPU memory", "requested, 15 GB")):
        at = (
            {word: re.findall(r"-?[\d.]+", texts[word].attrib["transform"]) for word in (title, name)}
            if ("transform" in texts[title].attrib)
            else {word: [texts[word].attrib["x"], texts[word].attrib["y"]] for word in (title, name)}
        )
        assert float(at[name][0]) < 400
        assert float(at[name][1]) == pytest.approx(float(at[title][1]), abs=2)
        tops[title] = float(at[name][1])
    path = next(g for g in groups(svg, "line") if g.attrib.get("data-series") == "Host memory").find(".//{*}path")
    ys = [float(n) for n in re.findall(r"-?[\d.]+", path.attrib["d"])[1::2]]
    assert min(ys) > tops["Host memory"]


def test_numbers_above_the_bands_are_called_cells(tmp_path):
    """The row of cell numbers is labelled."""
    assert "cell" in texts_of(chart_of(tmp_path, made.metrics("a")))


def test_saved_cells_of_a_lost_run_are_bands(tmp_path):
    """Cell times come from the last saved notebook; the last known cell extends to the end."""
    made.running(tmp_path, "gone", cell_index=3)
    made.samples(tmp_path / "gone.samples.csv", seconds=60)
    made.executed_notebook(tmp_path / "gone.executed.ipynb", done=3)
    titles = [band[0].text for band in groups(drawn(tmp_path, "gone"), "band")]
    assert titles == [
        "cell 1 · succeeded · 10s · import scanpy as sc",
        "cell 2 · succeeded · 10s · rmm.reinitialize(managed_memory=False, pool_allocator=True)",
        "cell 3 · succeeded · 10s · adata = sc.read('h5/dli_census.h5ad')",
        "cell 4 · interrupted · rsc.pp.calculate_qc_metrics(adata, qc_vars=['MT'])",
    ]
    made.running(tmp_path, "gone", cell_index=5)
    assert len(groups(drawn(tmp_path, "gone"), "band")) == 3, "what came after the save is not known"


def test_notebook_that_never_started_draws_no_line(tmp_path):
    """A need is drawn only to the start of a notebook."""
    made.leave(tmp_path, made.metrics("a"), with_samples=False)
    assert groups(timeline.draw(rows_of(tmp_path, made.plan_of("a", "b", needs={"b": ["a"]}))), "need") == []


def test_need_that_another_need_implies_is_not_drawn(tmp_path):
    """Of three in a row the third one's need of the first goes without saying."""
    for position, name in enumerate("abc"):
        start = made.START + timedelta(seconds=250 * position)
        made.leave(tmp_path, made.metrics(name, start=start), with_samples=False)
    svg = timeline.draw(rows_of(tmp_path, made.plan_of("a", "b", "c", needs={"b": ["a"], "c": ["a", "b"]})))
    assert [need[0].text for need in groups(svg, "need")] == ["b needs a", "c needs b"]


def test_cut_name_tells_its_whole_on_hover(tmp_path):
    """A name too long for the picture is cut there and whole in its title."""
    name = "02_scRNA_analysis_extended_with_an_awfully_long_name"
    made.leave(tmp_path, made.metrics(name), with_samples=False)
    svg = timeline.draw(rows_of(tmp_path))
    [group] = groups(svg, "name")
    assert group[0].text == name
    assert "".join(group[1].itertext()).endswith("…")


@pytest.mark.parametrize(("count", "times"), [(12, 1), (13, 2)])
def test_tall_timeline_has_its_axis_twice(tmp_path, count, times):
    """With more than a dozen rows the time axis is repeated at the top."""
    made.leave(tmp_path, made.metrics("nb_00", wall=60.0), with_samples=False)
    plan = made.plan_of(*(f"nb_{place:02d}" for place in range(count)))
    assert texts_of(timeline.draw(rows_of(tmp_path, plan))).count("30s") == times


def test_legend_explains_what_the_timeline_shows(tmp_path):
    """The legend has the kinds of bars that are there, by their statuses, and no others."""
    made.leave(tmp_path, made.metrics("a"), with_samples=False)
    legend = timeline.legend_of(rows_of(tmp_path))
    assert legend == timeline.Legend(bars=(("good", "succeeded"),), gate=False, wait=False, need=False)
    every = timeline.legend_of(rows_of(tmp_path / "every", made.every_status(tmp_path / "every")))
    assert dict(every.bars)["bad"] == "failed, refused, kernel-died, broken-input"
    assert dict(every.bars)["odd"] == "lost"
    assert (every.gate, every.wait, every.need) == (True, True, True)
