# SPDX-License-Identifier: Apache-2.0
"""`reports/metrics.prom`: the figures for Prometheus, and their push to a Pushgateway.

Gauges without timestamps: a run is a batch job, and the newest run of a plan replaces the previous one.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
from functools import partial
from typing import TYPE_CHECKING

from runner.core.units import instant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import GaugeMetricFamily

    from runner.report.summary import NotebookSummary, Summary

JOB = "notebook_runner"
TIMEOUT_SECONDS = 10.0

_NOTEBOOK: tuple[tuple[str, str, Callable[[NotebookSummary], float | None]], ...] = (
    ("success", "1 when the notebook succeeded or was legitimately skipped.", lambda nb: float(nb.ok)),
    ("wall_seconds", "Wall time of the run of a notebook.", lambda nb: nb.wall_seconds),
    ("gate_wait_seconds", "Time a notebook waited at the gate.", lambda nb: nb.gate_waited_seconds),
    ("gpu_memory_peak_bytes", "Peak GPU memory by the driver.", lambda nb: nb.peak_gpu_memory_bytes),
    ("gpu_memory_allocated_peak_bytes", "Peak GPU memory by the allocator.", lambda nb: nb.peak_allocated_bytes),
    ("gpu_memory_asked_bytes", "GPU memory that the gate requested.", lambda nb: _scaled(nb.asked_gpu_memory_gb, 1e9)),
    ("gpu_memory_total_bytes", "Memory of the GPU.", lambda nb: nb.gpu_total_bytes),
    ("gpu_utilization_ratio", "Mean utilisation, 0 to 1.", lambda nb: _scaled(nb.gpu_utilization_mean_percent, 0.01)),
    ("gpu_held_seconds", "GPU time held.", lambda nb: nb.gpu_held_seconds),
    ("gpu_busy_seconds", "GPU time busy.", lambda nb: nb.gpu_busy_seconds),
    ("gpu_energy_joules", "Energy used by the GPUs.", lambda nb: nb.gpu_energy_joules),
    ("gpu_released", "1 when GPU memory was back at the baseline.", lambda nb: _scaled(nb.released, 1)),
    ("host_memory_peak_bytes", "Peak memory of the kernel's process tree.", lambda nb: nb.peak_host_memory_bytes),
    ("host_memory_limit_bytes", "Memory limit of the container or machine.", lambda nb: nb.host_memory_limit_bytes),
    ("output_bytes", "Size of the run's output files.", lambda nb: nb.output_bytes),
    ("figures", "Figures in the executed notebook.", lambda nb: nb.figures if nb.exit_code is not None else None),
)  # fmt: skip


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def metrics_text(summary: Summary) -> str:
    """Return the figures of a report in the text format of OpenMetrics."""
    from prometheus_client.openmetrics.exposition import generate_latest

    return str(generate_latest(_registry(summary)).decode())  # type: ignore[no-untyped-call]


def _registry(summary: Summary) -> CollectorRegistry:
    from prometheus_client import CollectorRegistry
    from prometheus_client.registry import Collector

    class Figures(Collector):
        def collect(self) -> Iterator[GaugeMetricFamily]:
            return (family for family in _families(summary) if family.samples)

    registry = CollectorRegistry()
    registry.register(Figures())
    return registry


def _families(summary: Summary) -> Iterator[GaugeMetricFamily]:
    def family(name: str, about: str, *values: tuple[dict[str, str], float | None]) -> GaugeMetricFamily:
        from prometheus_client.metrics_core import GaugeMetricFamily

        made = GaugeMetricFamily(name, about)
        for labels, value in values:
            if value is not None:
                clean = {key: text.encode(errors="replace").decode() for key, text in labels.items()}
                made.add_sample(name, clean, float(value))
        return made

    plan, run = {"plan": summary.plan or ""}, "notebook_run"
    yield family(f"{run}_success", "1 when the whole run succeeded.", (plan, summary.verdict == "succeeded"))
    yield family(f"{run}_info", "The run of these figures.", ({**plan, "run_id": summary.run_id or ""}, 1))
    for name, about, value in (
        ("start_timestamp_seconds", "When the first notebook started.", instant(summary.started_at)),
        ("end_timestamp_seconds", "When the last notebook ended.", instant(summary.ended_at)),
        ("wall_seconds", "From the first start to the last end.", summary.wall_seconds),
        ("regressions", "Regressions against the baseline.", len(summary.regressions)),
    ):
        yield family(f"{run}_{name}", about, (plan, value))
    counts = {word: number for word, number in summary.counts.items() if word not in {"notebooks", "ok"}}
    by_status = [({**plan, "status": word}, number) for word, number in counts.items()]
    yield family(f"{run}_notebooks", "Notebooks by status.", *by_status)
    labels = [{**plan, "notebook": nb.name} for nb in summary.notebooks]
    status = [({**at, "status": nb.status.value}, 1) for at, nb in zip(labels, summary.notebooks, strict=True)]
    yield family("notebook_status", "1 for the status the notebook ended with.", *status)
    for name, about, figure in _NOTEBOOK:
        yield family(f"notebook_{name}", about, *zip(labels, map(figure, summary.notebooks), strict=True))


def push(url: str, summary: Summary) -> str | None:
    """Replace the figures of this plan at a Pushgateway, and return the problem, if any.

    A failed push is reported, but must not make the run fail.
    """
    from prometheus_client import push_to_gateway
    from prometheus_client.exposition import basic_auth_handler, default_handler

    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as error:
        return f"the URL of the Pushgateway is not valid: {error}"
    shown = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return f"the Pushgateway {shown!r} is not a valid http or https URL"
    user, password = (urllib.parse.unquote(text or "") for text in (parts.username, parts.password))
    handler = partial(basic_auth_handler, username=user, password=password) if user else default_handler
    try:
        key = {"plan": summary.plan or ""}
        push_to_gateway(shown, JOB, _registry(summary), key, timeout=TIMEOUT_SECONDS, handler=handler)
    except urllib.error.HTTPError as error:
        detail = error.read(300).decode(errors="replace").strip()
        return f"the Pushgateway {shown} rejected the figures: {error.code} {detail}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"the Pushgateway {shown} cannot be reached: {getattr(error, 'reason', None) or error}"
    return None
