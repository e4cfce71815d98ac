# SPDX-License-Identifier: Apache-2.0
"""OpenTelemetry spans of a run: its stages and cells, below the span of the caller.

Nothing is imported or sent unless an OTLP endpoint is set with the standard variables. The parent span is
``TRACEPARENT``, else the one in Tekton's annotation ``tekton.dev/taskrunSpanContext``.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from runner.core import log

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_SEND_SECONDS = 3.0
"""Timeout for a collector that does not answer."""


class Trace:
    """The spans of one command; without a tracer all methods do nothing."""

    def __init__(self, tracer: Any = None, parent: Any = None) -> None:
        self._tracer = tracer
        self._open = [parent]
        self._cell: Any = None

    @contextmanager
    def span(self, name: str, **attributes: Any) -> Iterator[None]:
        """Record the block as a span; an exception marks it as an error."""
        if self._tracer is None:
            yield
            return
        from opentelemetry.trace import set_span_in_context

        span = self._tracer.start_span(name, context=self._open[-1], attributes=_known(attributes))
        self._open.append(set_span_in_context(span))
        try:
            yield
        except BaseException as error:
            self._fail(span, f"{type(error).__name__}: {error}")
            raise
        finally:
            self.end_cell("the run ended in it")
            self._open.pop()
            span.end()

    def start_cell(self, name: str, **attributes: Any) -> None:
        """Start the span of a cell."""
        if self._tracer is not None:
            self.end_cell("another cell began")
            self._cell = self._tracer.start_span(name, context=self._open[-1], attributes=_known(attributes))

    def end_cell(self, problem: str = "") -> None:
        """End the span of the running cell, as an error if there is a problem."""
        if self._cell is not None:
            if problem:
                self._fail(self._cell, problem)
            self._cell.end()
            self._cell = None

    def note(self, problem: str = "", **attributes: Any) -> None:
        """Add attributes to the open span, and mark it as an error if there is a problem."""
        if self._tracer is not None:
            from opentelemetry.trace import get_current_span

            span = get_current_span(self._open[-1])
            span.set_attributes(_known(attributes))
            if problem:
                self._fail(span, problem)

    @staticmethod
    def _fail(span: Any, problem: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        span.set_status(Status(StatusCode.ERROR, log.masked(problem)[:400]))


def _known(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"runner.{key}": log.masked(value) if isinstance(value, str) else value
        for key, value in attributes.items()
        if value is not None
    }


@contextmanager
def tracing(name: str, environ: Mapping[str, str] | None = None, **attributes: Any) -> Iterator[Trace]:
    """Yield the trace of a command; it is sent at the end."""
    environ = os.environ if environ is None else environ
    if not any(environ.get(one) for one in _ENDPOINTS) or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        yield Trace()
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError:
        log.warning("no-trace", reason="an OTLP endpoint is set; pip install 'rapids-notebook-runner[otel]'")
        yield Trace()
        return
    provider = TracerProvider(
        resource=Resource.create({"service.name": environ.get("OTEL_SERVICE_NAME") or "rapids-notebook-runner"}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=_SEND_SECONDS)))
    parent = TraceContextTextMapPropagator().extract(_carrier(environ))
    trace = Trace(provider.get_tracer("runner"), parent)
    try:
        with trace.span(name, **attributes):
            yield trace
    finally:
        provider.shutdown()


def _carrier(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of the parent span; invalid ones are ignored."""
    if environ.get("TRACEPARENT"):
        return {"traceparent": environ["TRACEPARENT"], "tracestate": environ.get("TRACESTATE", "")}
    try:
        found = json.loads(environ.get("TEKTON_SPAN_CONTEXT") or "{}")
    except ValueError:
        return {}
    return {str(key).lower(): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
