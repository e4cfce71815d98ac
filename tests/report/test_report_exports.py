# SPDX-License-Identifier: Apache-2.0
"""What machines read of a report, each read here by a program that is not ours."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from xml.etree import ElementTree as ET

import jsonschema
import junitparser
import pytest
from markdown_it import MarkdownIt
from prometheus_client import parser as prometheus_parser
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as plain_families
from rocrate.rocrate import ROCrate
from support import cli
from support import records as made
from support.cli import PATIENCE
from support.tekton import ROOT

from runner.core.records import Failure, Status
from runner.report import build, summary_schema

VALIDATORS = ROOT / ".build" / "validators"
HOSTILE = (
    '<b>x</b> | `code` [link](http://evil) @user #1 "q" \\ \n\x1b[31m \u202e $a$ ~s~'
    " https://evil.example www.evil.example"
)


@pytest.fixture
def every(tmp_path):
    """Give the result of a report on one notebook of each status."""
    plan = made.every_status(tmp_path)
    return build(tmp_path, plan=plan, watch=lambda paths, seconds: dict.fromkeys(paths, False))


@pytest.fixture
def hostile(tmp_path):
    """Give the result of a report whose every text is hostile."""
    record = made.metrics("n | <i> `x`", status=Status.FAILED, failed_cell=1, reason=HOSTILE)
    failure = Failure(message=HOSTILE, hint=HOSTILE, traceback_tail=HOSTILE, cell_index=1)
    made.leave(tmp_path, dataclasses.replace(record, failure=failure, run_id=HOSTILE), with_samples=False)
    return build(tmp_path)


def beside(result, name):
    return result.html_path.with_name(name)


def need(program):
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed (Debian: prometheus, prometheus-pushgateway)")
    return program


def validator(program):
    if not (path := VALIDATORS / "bin" / program).exists():
        pytest.skip(f"{program} is not installed; make {VALIDATORS.relative_to(ROOT)}/.installed")
    return path


@pytest.mark.parametrize("kind", ["every", "hostile"])
def test_summary_is_valid_against_its_published_schema(kind, request):
    """`summary.json` is valid by `summary_schema`, which rejects invalid data."""
    result = request.getfixturevalue(kind)
    schema = summary_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    summary = json.loads(result.summary_path.read_text())
    jsonschema.validate(summary, schema)
    summary["notebooks"][0]["status"] = "splendid"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(summary, schema)


def test_junit_has_one_case_a_notebook(every):
    """CI reads one test case a notebook, and as many bad ones as the verdict has."""
    xml = junitparser.JUnitXml.fromfile(str(beside(every, "junit.xml")))
    suite = next(iter(xml))
    cases = {case.name: case for case in suite}
    assert len(cases) == 13
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (13, 4, 7, 1)
    assert cases["01_succeeded"].is_passed
    assert cases["02_skipped"].is_skipped
    kinds = {name: type(case.result[0]).__name__ for name, case in cases.items() if case.result}
    assert kinds["03_failed"] == "Failure"
    assert kinds["06_kernel_died"] == "Error"
    assert kinds["12_not_run"] == "Error"
    assert cases["03_failed"].result[0].type == "failed"
    assert "OutOfMemoryError" in cases["03_failed"].result[0].text
    assert cases["01_succeeded"].time == 240


@pytest.mark.parametrize("kind", ["every", "hostile"])
def test_junit_is_valid_for_jenkins(kind, request):
    """The schema of Jenkins' xUnit plugin has nothing against `junit.xml`."""
    program = validator("xmlschema-validate")
    command = [program, "--schema", VALIDATORS / "junit-10.xsd", beside(request.getfixturevalue(kind), "junit.xml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_junit_is_readable(every):
    """Class names are plan and stage; figures have units."""
    root = ET.parse(beside(every, "junit.xml")).getroot()
    cases = {case.get("name"): case for case in root.iter("testcase")}
    assert cases["02_skipped"].find("skipped") is not None
    assert {case.get("classname").partition(".")[0] for case in cases.values()} == {"rapids-single-cell"}
    said = cases["01_succeeded"].findtext("system-out").splitlines()
    assert said[0] == "status: succeeded"
    assert any(line.startswith("GPU memory peak: ") and line.endswith(" GB") for line in said)


def test_junit_holds_hostile_text(hostile):
    """Control characters and tags reach CI as text."""
    case = next(iter(next(iter(junitparser.JUnitXml.fromfile(str(beside(hostile, "junit.xml")))))))
    assert case.name == "n | <i> `x`"
    assert "<b>x</b>" in case.result[0].text


@pytest.mark.parametrize("kind", ["every", "hostile"])
def test_figures_are_read_by_both_parsers_of_prometheus(kind, request):
    """`metrics.prom` is OpenMetrics and the older text format at once."""
    text = beside(request.getfixturevalue(kind), "metrics.prom").read_text()
    strict = {f.name: f for f in text_string_to_metric_families(text)}
    plain = {f.name: f for f in plain_families(text)}
    assert strict.keys() == plain.keys()
    assert strict["notebook_run_success"].samples[0].value == 0
    assert all(family.documentation for family in strict.values())


def test_figures_are_those_of_the_run(every):
    """Values and labels are those of the run; unmeasured figures are absent."""
    families = {f.name: f for f in plain_families(beside(every, "metrics.prom").read_text())}
    walls = {s.labels["notebook"]: s.value for s in families["notebook_wall_seconds"].samples}
    assert walls["01_succeeded"] == 240
    assert "12_not_run" not in walls
    statuses = {s.labels["notebook"]: s.labels["status"] for s in families["notebook_status"].samples}
    assert statuses["13_lost"] == "lost"
    released = {s.labels["notebook"]: s.value for s in families["notebook_gpu_released"].samples}
    assert (released["01_succeeded"], released["09_not_released"]) == (1, 0)


@pytest.mark.parametrize("kind", ["every", "hostile"])
def test_promtool_finds_nothing_to_say(kind, request):
    """`promtool check metrics` is silent."""
    with beside(request.getfixturevalue(kind), "metrics.prom").open() as stream:
        done = subprocess.run(
            [need("promtool"), "check", "metrics"], stdin=stream, capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_markdown_is_a_table_and_nothing_comes_alive(hostile):
    """GitHub's summary shows names and messages as text: no tag, link, code or mention."""
    markdown = beside(hostile, "github-summary.md").read_text()
    tokens = MarkdownIt("gfm-like", {"linkify": False}).enable("table").parse(markdown)
    inline = [child for token in tokens for child in token.children or []]
    assert {child.type for child in inline} == {"text"} | {"text_special"} & {child.type for child in inline}
    cells = ["".join(child.content for child in token.children) for token in tokens if token.type == "inline"]
    assert "n | <i> `x`" in cells
    assert any("<b>x</b> | `code` [link](http://evil) @user" in cell for cell in cells)
    assert not [token for token in tokens if token.type.startswith("html")]
    assert "@user" not in markdown
    assert "https://" not in markdown


def test_markdown_is_appended_to_githubs_file(tmp_path):
    """What other steps wrote to the summary of the job stays."""
    step = tmp_path / "step.md"
    step.write_text("before\n")
    made.leave(tmp_path / "out", made.metrics("a"), with_samples=False)
    result = build(tmp_path / "out", environ={"GITHUB_STEP_SUMMARY": str(step)})
    assert step.read_text() == "before\n" + beside(result, "github-summary.md").read_text()


def test_unwritable_github_file_is_a_problem_and_no_failure(tmp_path):
    """A summary that cannot be appended to is named; the report is there."""
    made.leave(tmp_path, made.metrics("a"), with_samples=False)
    result = build(tmp_path, environ={"GITHUB_STEP_SUMMARY": str(tmp_path / "no" / "file")})
    assert result.verdict == "succeeded"
    assert any("GITHUB_STEP_SUMMARY" in problem for problem in result.problems)


def test_markdown_stays_below_githubs_limit(tmp_path):
    """Of very many notebooks the last ones are counted instead of listed."""
    for number in range(30):
        record = made.metrics(f"n{number}", status=Status.FAILED, cells=0, reason="|" * 200)
        made.leave(tmp_path, record, with_samples=False)
    from runner.report.exports import github as markdown

    limit, markdown.LARGEST_BYTES = markdown.LARGEST_BYTES, 5_000
    try:
        text = beside(build(tmp_path), "github-summary.md").read_text()
    finally:
        markdown.LARGEST_BYTES = limit
    assert len(text.encode()) < 5_300
    assert "more |" in text


def test_crate_is_read_by_the_rocrate_library(every):
    """The folder loads as an RO-Crate with the plan as its workflow and a run of it."""
    folder = every.html_path.parents[1]
    crate = ROCrate(str(folder))
    assert crate.mainEntity.id == "reports/plan.json"
    assert "ComputationalWorkflow" in crate.mainEntity.type
    profiles = {profile.id for profile in crate.root_dataset["conformsTo"]}
    assert "https://w3id.org/ro/wfrun/workflow/0.5" in profiles
    actions = {action.id: action for action in crate.get_by_type("CreateAction")}
    assert len(actions) == 12
    whole = actions["#run"]
    assert whole["instrument"].id == "reports/plan.json"
    assert whole["agent"]["name"] == "rapids-notebook-runner"
    assert whole["actionStatus"].endswith("FailedActionStatus")
    first = actions["#notebook-1-run"]
    assert first["actionStatus"].endswith("CompletedActionStatus")
    assert first["startTime"] == "2026-11-20T09:00:00.000+00:00"
    assert any(value.get("name") == "n_top_genes" and value.get("value") == 2000 for value in first["object"])
    assert {result.id for result in first["result"]} >= {"01_succeeded.executed.ipynb", "01_succeeded.html"}
    assert actions["#notebook-3-run"]["error"] == "cell 10 raised OutOfMemoryError"


def test_hashes_in_the_crate_are_those_of_the_files(every):
    """Each file of the crate is in the folder, with this size and this hash."""
    folder = every.html_path.parents[1]
    files = [e for e in ROCrate(str(folder)).get_entities() if "sha256" in e.properties() and not e.id.startswith("#")]
    assert len(files) > 30
    for entity in files:
        content = (folder / urllib.parse.unquote(entity.id)).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entity["sha256"], entity.id
        assert str(len(content)) == entity["contentSize"]


def test_crate_defines_the_terms_that_its_version_lacks(every):
    """A key that no context defines makes a crate invalid: those of the run profiles are defined in the crate."""
    document = json.loads((every.html_path.parents[1] / "ro-crate-metadata.json").read_text())
    base, own = document["@context"]
    assert base == "https://w3id.org/ro/crate/1.1/context"
    used = {key for entity in document["@graph"] for key in entity}
    assert own.keys() == {"environment", "sha256"} <= used
    environment = {e["@id"]: e for e in document["@graph"] if e["@id"].startswith("#machine-")}
    assert {entity["@type"] for entity in environment.values()} == {"PropertyValue"}


UNKNOWN_TO_A_RUN = {
    "The Application SHOULD have a url",
    "The SoftwareApplication id SHOULD be an absolute URI",
    "The Action SHOULD have an agent that is a Person or Organization",
    "The Root Data Entity SHOULD have a link to a Contextual Entity representing the `author` of the RO-Crate",
    "The `publisher` property of a `Root Data Entity` SHOULD be an `Organization`",
    "The Main Workflow SHOULD comply with Bioschemas ComputationalWorkflow profile version 1.0 or later",
    "The README.md SHOULD be about the crate",
    "The README.md SHOULD have text/markdown as its encodingFormat",
}
"""Author, publisher and download location are unknown for an output folder, and must not be claimed."""


@pytest.mark.parametrize("kind", ["every", "hostile"])
def test_crate_is_valid_for_the_public_validator(kind, request, tmp_path):
    """`rocrate-validator` finds no violation of requirements, nor of recommendations a run can meet."""
    assert crate_faults(request.getfixturevalue(kind).html_path.parents[1], tmp_path) <= UNKNOWN_TO_A_RUN


def test_validator_finds_what_no_context_defines(every, tmp_path):
    """The context that the validator reads is that of RO-Crate 1.1: it lacks the terms that a crate must define."""
    metadata = every.html_path.parents[1] / "ro-crate-metadata.json"
    document = json.loads(metadata.read_text())
    document["@context"] = document["@context"][0]
    metadata.write_text(json.dumps(document))
    assert any("sha256" in fault for fault in crate_faults(metadata.parent, tmp_path))


def crate_faults(folder, place):
    """Return the validator's findings on a crate, with a local copy of the context."""
    program = validator("rocrate-validator")
    shutil.copy(VALIDATORS / "http-cache.sqlite", place / "cache.sqlite")
    profile = "workflow-run-crate-0.5" if (folder / "reports" / "plan.json").exists() else "process-run-crate-0.5"
    command = [program, "-y", "validate", "--offline", "--cache-path", place / "cache", "-p", profile]
    command += ["-l", "recommended", "-f", "json", "-o", place / "faults.json", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=cli.environment())
    found = json.loads((place / "faults.json").read_text())
    assert found["statistics"]["total_checks"] > 80, done.stdout + done.stderr
    assert not found["skipped_checks"]
    unread = {"./#notebook-12-source", "./#notebook-13-source"}  # not run and lost: nobody knows their version
    return {issue["message"] for issue in found["issues"] if issue["violatingEntity"] not in unread}


def test_crate_without_a_plan_is_a_run_of_processes(tmp_path):
    """Notebooks run one by one have no workflow, and the crate does not claim one."""
    made.leave(tmp_path, made.metrics("a b é"), with_samples=False)
    build(tmp_path)
    crate = ROCrate(str(tmp_path))
    assert crate.mainEntity is None
    assert crate.root_dataset["conformsTo"].id == "https://w3id.org/ro/wfrun/process/0.5"


def test_no_secret_name_has_a_value_anywhere(every):
    """Files of a report name secrets at most; a record holds no value of one."""
    for path in every.html_path.parent.iterdir():
        assert "HF_TOKEN=" not in path.read_text()


class Gateway(http.server.BaseHTTPRequestHandler):
    """Stores requests and answers with a given status."""

    answer = 200
    seen: list[tuple[str, str, str | None, bytes]]

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((self.command, self.path, self.headers.get("Authorization"), body))
        self.send_response(self.answer)
        self.end_headers()
        self.wfile.write(b"no thanks" if self.answer >= 400 else b"")

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def gateway(answer=200):
    handler = type("Handler", (Gateway,), {"answer": answer, "seen": []})
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", handler.seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_figures_are_pushed_as_one_group_a_plan(tmp_path):
    """A push replaces the figures of this plan, with the user of the address and not in the address."""
    made.leave(tmp_path, made.metrics("a"), with_samples=False)
    with gateway() as (address, seen):
        result = build(tmp_path, plan=made.plan_of("a"), pushgateway=f"http://me:s%2Fcret@{address}/prefix")
    assert result.problems == ()
    method, path, authorization, body = seen[0]
    assert method == "PUT"
    assert path == "/prefix/metrics/job/notebook_runner/plan/rapids-single-cell"
    assert authorization == "Basic bWU6cy9jcmV0"
    assert figures_of(body) == figures_of(beside(result, "metrics.prom").read_bytes())


def figures_of(text: bytes):
    families = prometheus_parser.text_string_to_metric_families(text.decode())
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def test_command_pushes_what_it_writes(tmp_path):
    """`--pushgateway` sends the figures in `metrics.prom`; a rejection does not fail the command."""
    made.leave(tmp_path, made.metrics("a"), with_samples=False)
    with gateway() as (address, seen):
        ended = cli.runner("report", tmp_path, "--pushgateway", f"http://{address}")
    assert ended.code == 0, ended.err
    [(method, path, _, body)] = seen
    assert (method, path) == ("PUT", "/metrics/job/notebook_runner/plan@base64/=")
    assert figures_of(body) == figures_of((tmp_path / "reports" / "metrics.prom").read_bytes())
    with gateway(answer=400) as (address, _):
        ended = cli.runner("report", tmp_path, env={"RUNNER_REPORT_PUSHGATEWAY": f"http://{address}"})
    assert ended.code == 0
    assert "400 no thanks" in ended.err


def test_refused_push_is_a_problem_that_hides_the_password(tmp_path):
    """The gateway's answer is in the report, the password is not."""
    made.leave(tmp_path, made.metrics("a"), with_samples=False)
    with gateway(answer=400) as (address, _):
        result = build(tmp_path, pushgateway=f"http://me:s3cret@{address}")
    assert result.verdict == "succeeded"
    assert "400 no thanks" in result.problems[0]
    assert "no thanks" in result.html_path.read_text()
    assert not [p for p in result.html_path.parent.iterdir() if "s3cret" in p.read_text()]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "file:///etc/passwd", "nonsense", "http://", "http://[::1", "https://127.0.0.1:x"]
)
def test_unreachable_gateway_is_a_problem_and_no_failure(tmp_path, url):
    """A failed push is in the report, for any URL."""
    made.leave(tmp_path, made.metrics("a"), with_samples=False)
    result = build(tmp_path, pushgateway=url)
    assert result.verdict == "succeeded"
    assert any("Pushgateway" in problem for problem in result.problems)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def fetched(url, deadline_seconds=PATIENCE):
    """Poll an address until it answers."""
    deadline = time.monotonic() + deadline_seconds
    while True:
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
                return answer.read()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@contextlib.contextmanager
def started(*command):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_pushed_figures_can_be_queried_in_prometheus(tmp_path):
    """A real Pushgateway takes the figures, a real Prometheus scrapes them and answers a query."""
    push, query = need("prometheus-pushgateway"), need("prometheus")
    push_port, query_port = free_port(), free_port()
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\nscrape_configs:\n"
        f"- {{job_name: push, honor_labels: true, static_configs: [{{targets: ['127.0.0.1:{push_port}']}}]}}\n"
    )
    made.leave(tmp_path / "out", made.metrics("a é/b".replace("/", "_")), with_samples=False)
    listen = f"--web.listen-address=127.0.0.1:{query_port}"
    with (
        started(push, f"--web.listen-address=127.0.0.1:{push_port}"),
        started(query, f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}", listen),
    ):
        fetched(f"http://127.0.0.1:{push_port}/-/ready")
        plan = made.plan_of("a é_b", "missing")
        result = build(tmp_path / "out", plan=plan, pushgateway=f"http://127.0.0.1:{push_port}")
        assert result.problems == ()
        expression = urllib.parse.quote('notebook_wall_seconds{notebook="a é_b"}')
        deadline = time.monotonic() + 90
        found = []
        while not found and time.monotonic() < deadline:
            answer = json.loads(fetched(f"http://127.0.0.1:{query_port}/api/v1/query?query={expression}"))
            found = answer["data"]["result"]
            time.sleep(0.2)
    assert found[0]["value"][1] == "240"
    assert found[0]["metric"]["plan"] == "rapids-single-cell"
