# SPDX-License-Identifier: Apache-2.0
"""One trace from the caller of a run to its cells, as received by an OTLP collector."""

from __future__ import annotations

import http.server
import threading

import pytest
from support import cli, notebooks

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Takes OTLP over HTTP on loopback and keeps the spans."""

    def __init__(self):
        self.spans = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    outer.spans += [span for scope in resource.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.server.server_address[1]}"}

    def named(self, name):
        (found,) = [span for span in self.spans if span.name == name]
        return found


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.server.shutdown()


def run(folder, environment, *cells):
    notebooks.write(folder / "a.ipynb", *cells)
    return cli.runner("run", folder / "a.ipynb", "--output-dir", folder / "out", env=environment)


@pytest.mark.parametrize(
    "parent",
    [
        {"TRACEPARENT": f"00-{TRACE}-{PARENT}-01"},
        {"TEKTON_SPAN_CONTEXT": f'{{"traceparent":"00-{TRACE}-{PARENT}-01"}}'},
    ],
    ids=["TRACEPARENT", "Tekton"],
)
def test_stages_and_cells_are_children_of_whoever_started_the_run(collector, tmp_path, parent):
    """Each stage below the run, each cell below execute, the run below the span it was given."""
    done = run(tmp_path, collector.environment | parent, "x = 1", "x + 1")
    assert done.code == 0, done.err
    root = collector.named("run")
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert root.parent_span_id.hex() == PARENT
    assert {one.key: one.value.string_value for one in root.attributes}["runner.status"] == "succeeded"
    for name in ("gate", "execute", "release", "expect", "convert"):
        assert collector.named(name).parent_span_id == root.span_id
    for name in ("cell 1", "cell 2"):
        assert collector.named(name).parent_span_id == collector.named("execute").span_id
    assert not [span.name for span in collector.spans if span.status.code]
    report = cli.runner("report", tmp_path / "out", env=collector.environment | parent)
    assert report.code == 0, report.err
    assert collector.named("report").parent_span_id.hex() == PARENT


def test_the_span_of_a_killed_kernel_ends_as_an_error(collector, tmp_path):
    """The cell that ran and the run; both ended, so that a reader sees when."""
    done = run(tmp_path, collector.environment, "import os, signal", "os.kill(os.getpid(), signal.SIGKILL)")
    assert done.code == 5
    for name in ("cell 2", "run"):
        span = collector.named(name)
        assert span.status.code == 2, name
        assert span.end_time_unix_nano > span.start_time_unix_nano
    assert collector.named("cell 1").status.code == 0
    assert "SIGKILL" in collector.named("run").status.message


def test_secrets_are_in_no_span(collector, tmp_path):
    """Neither in the title of a cell nor in the reason of a failure."""
    environment = collector.environment | {"API_TOKEN": "s3cr3t-value"}
    notebooks.write(tmp_path / "a.ipynb", "# s3cr3t-value\nraise ValueError('s3cr3t-value')")
    arguments = ["run", tmp_path / "a.ipynb", "--output-dir", tmp_path / "out", "--secret-env", "API_TOKEN"]
    assert cli.runner(*arguments, env=environment).code == 1
    assert collector.spans
    assert not [span.name for span in collector.spans if "s3cr3t-value" in str(span)]


def test_without_an_endpoint_nothing_is_imported(tmp_path):
    """A cold start is not slower without tracing; an unreachable collector causes no failure."""
    script = (
        "import sys\nfrom runner.core.trace import tracing\n"
        "with tracing('x', {'TRACEPARENT': 'x'}) as trace, trace.span('y'):\n    trace.start_cell('z')\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    assert cli.python(script).code == 0
    done = run(tmp_path, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "TEKTON_SPAN_CONTEXT": "{"}, "1")
    assert done.code == 0, done.err
