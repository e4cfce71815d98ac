# SPDX-License-Identifier: Apache-2.0
"""`reports/metrics.prom`: the figures for Prometheus, and pushing them to a Pushgateway.

Gauges without timestamps, in the text that both the OpenMetrics and the Prometheus parser read: a
run is a batch job, and the newest one of a plan replaces the one before.
"""

from __future__ import annotations

import base64
import http.client
import math
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runner.report.summary import instant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.report.summary import NotebookSummary, Summary

JOB = "notebook_runner"
TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class _Gauge:
    name: str
    help: str
    samples: list[tuple[dict[str, str], float]] = field(default_factory=list)


_NOTEBOOK: tuple[tuple[str, str, Callable[[NotebookSummary], float | None]], ...] = (
    ("success", "1 when the notebook succeeded or was legitimately skipped.", lambda nb: float(nb.ok)),
    ("wall_seconds", "Wall time of the run of a notebook.", lambda nb: nb.wall_seconds),
    ("gate_wait_seconds", "Time a notebook waited at the gate.", lambda nb: nb.gate_waited_seconds),
    ("gpu_memory_peak_bytes", "Largest use of a GPU's memory, by the driver.", lambda nb: nb.peak_gpu_memory_bytes),
    ("gpu_memory_allocated_peak_bytes", "Likewise, by the allocator.", lambda nb: nb.peak_allocated_bytes),
    ("gpu_memory_asked_bytes", "GPU memory the gate asked for.", lambda nb: _scaled(nb.asked_gpu_memory_gb, 1e9)),
    ("gpu_memory_total_bytes", "Memory of the GPU.", lambda nb: nb.gpu_total_bytes),
    ("gpu_utilization_ratio", "Mean utilisation, 0 to 1.", lambda nb: _scaled(nb.gpu_utilization_mean_percent, 0.01)),
    ("gpu_held_seconds", "GPU time held.", lambda nb: nb.gpu_held_seconds),
    ("gpu_busy_seconds", "GPU time busy.", lambda nb: nb.gpu_busy_seconds),
    ("gpu_energy_joules", "Energy the GPUs took.", lambda nb: nb.gpu_energy_joules),
    ("gpu_released", "1 when GPU memory was back at the baseline.", lambda nb: _scaled(nb.released, 1)),
    ("host_memory_peak_bytes", "Largest memory of the kernel's processes.", lambda nb: nb.peak_host_memory_bytes),
    ("host_memory_limit_bytes", "Memory limit of the container or machine.", lambda nb: nb.host_memory_limit_bytes),
    ("output_bytes", "Size of the files the run left.", lambda nb: nb.output_bytes),
    ("figures", "Figures in the executed notebook.", lambda nb: nb.figures if nb.exit_code is not None else None),
)  # fmt: skip


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def metrics_text(summary: Summary) -> str:
    """Return the figures of a report in the text format of OpenMetrics."""
    lines = []
    for gauge in _gauges(summary):
        if gauge.samples:
            lines += [f"# HELP {gauge.name} {gauge.help}", f"# TYPE {gauge.name} gauge"]
            lines += [f"{gauge.name}{_labels(labels)} {_number(value)}" for labels, value in gauge.samples]
    return "\n".join([*lines, "# EOF", ""])


def _gauges(summary: Summary) -> Iterator[_Gauge]:
    plan = {"plan": summary.plan or ""}
    run = "notebook_run"
    yield _Gauge(f"{run}_success", "1 when the whole run succeeded.", [(plan, float(summary.verdict == "succeeded"))])
    yield _Gauge(f"{run}_info", "The run these figures are of.", [({**plan, "run_id": summary.run_id or ""}, 1.0)])
    for name, help_text, value in (
        ("start_timestamp_seconds", "When the first notebook started.", instant(summary.started_at)),
        ("end_timestamp_seconds", "When the last notebook ended.", instant(summary.ended_at)),
        ("wall_seconds", "From the first start to the last end.", summary.wall_seconds),
        ("regressions", "Figures that got worse than the baseline.", float(len(summary.regressions))),
    ):
        if value is not None:
            yield _Gauge(f"{run}_{name}", help_text, [(plan, value)])
    counts = [
        ({**plan, "status": word}, float(n)) for word, n in summary.counts.items() if word not in {"notebooks", "ok"}
    ]
    yield _Gauge(f"{run}_notebooks", "Notebooks by status.", counts)
    labels = {nb.name: {**plan, "notebook": nb.name} for nb in summary.notebooks}
    status = [({**labels[nb.name], "status": nb.status.value}, 1.0) for nb in summary.notebooks]
    yield _Gauge("notebook_status", "1 for the status the notebook ended with.", status)
    for name, help_text, figure in _NOTEBOOK:
        values = [(labels[nb.name], figure(nb)) for nb in summary.notebooks]
        yield _Gauge(f"notebook_{name}", help_text, [(at, float(value)) for at, value in values if value is not None])


def _labels(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    clean = value.encode(errors="replace").decode()
    return clean.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) and value == int(value) else repr(value)


def push(url: str, summary: Summary) -> str | None:
    """Replace the figures of this plan at a Pushgateway; return what went wrong, if anything did.

    Whoever watches should hear of a failed push, and the run should not fail for it.
    """
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as error:
        return f"the address of the Pushgateway cannot be read: {error}"
    shown = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return f"the Pushgateway {shown!r} is no http or https address"
    group = base64.urlsafe_b64encode((summary.plan or "").encode()).decode().rstrip("=") or "="
    target = f"{shown.rstrip('/')}/metrics/job/{JOB}/plan@base64/{group}"
    request = urllib.request.Request(target, data=metrics_text(summary).encode(), method="PUT")  # noqa: S310
    request.add_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
    if parts.username:
        user = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        request.add_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            answer.read(1)
    except urllib.error.HTTPError as error:
        said = error.read(300).decode(errors="replace").strip()
        return f"the Pushgateway {shown} refused the figures: {error.code} {said}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"the Pushgateway {shown} cannot be reached: {getattr(error, 'reason', None) or error}"
    return None
