# SPDX-License-Identifier: Apache-2.0
"""The demo runs anywhere without a download, uses a GPU where one can be used, and says which it was."""

from __future__ import annotations

import ast
import csv
import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from support import cli

import runner.demo
from runner.plan.model import load

FOLDER = Path(runner.demo.__file__).parent
PLAN = load(FOLDER / "plan.yaml")
NAMES = [notebook.name for notebook in PLAN.notebooks]
NO_NETWORK = ("unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")

needs_scanpy = pytest.mark.skipif(find_spec("scanpy") is None, reason="scanpy is not installed: make setup")


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / PLAN.notebook(name).path, as_version=nbformat.NO_CONVERT)


def printed(notebook: nbformat.NotebookNode, kind: str = "stdout") -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == kind)


def test_the_plan_names_every_notebook_of_the_folder():
    """No notebook is shipped that the demo does not run, and none is run that is not shipped."""
    assert sorted(notebook.path for notebook in PLAN.notebooks) == sorted(path.name for path in FOLDER.glob("*.ipynb"))


def test_the_second_notebook_needs_the_first_and_the_third_none():
    """The demo shows a chain and an independent notebook."""
    assert [notebook.needs for notebook in PLAN.notebooks] == [[], [NAMES[0]], []]


def test_the_demo_takes_a_gpu_if_there_is_one():
    """A laptop passes the gate, and a GPU that is used is gated and measured."""
    assert {(notebook.requires.gpus, notebook.requires.cpu_fallback) for notebook in PLAN.notebooks} == {(1, True)}
    assert max(notebook.requires.memory_gb for notebook in PLAN.notebooks) <= 4


@pytest.mark.parametrize("name", NAMES)
def test_a_demo_notebook_is_valid_clean_and_has_readable_cell_ids(name):
    """A notebook is nbformat 4.5, has no saved output, and its cells can be spoken of by name."""
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", cell_id) for cell_id in ids)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.parametrize("name", NAMES)
def test_a_demo_notebook_says_what_its_data_is_and_holds_a_formula(name):
    """The first cell tells the reader what the data is; headings and a formula try the page."""
    texts = [cell.source for cell in read(name).cells if cell.cell_type == "markdown"]
    assert texts[0].startswith("# ")
    assert "**The data**" in texts[0]
    assert sum(text.startswith("## ") for text in texts) >= 4
    assert any(text.count("$$") == 2 for text in texts)


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_of_the_plan_are_assigned_in_the_notebook_to_another_value(name):
    """A parameter of the plan changes something."""
    assigned = {}
    for cell in read(name).cells:
        if cell.cell_type == "code":
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                    assigned |= {target.id: node.value.value for target in node.targets if isinstance(target, ast.Name)}
    for parameter, value in PLAN.notebook(name).parameters.items():
        assert parameter in assigned
        assert assigned[parameter] != value


def test_one_notebook_of_the_demo_has_a_parameter_from_the_plan():
    """The demo shows that parameters work."""
    assert any(notebook.parameters for notebook in PLAN.notebooks)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run the demo once, with the network cut, and give its JSON and its output folder."""
    folder = tmp_path_factory.mktemp("demo")
    tools = shutil.which("unshare") and shutil.which("ip")
    isolated = tools and subprocess.run([*NO_NETWORK, "true"], check=False, capture_output=True).returncode == 0
    command = [*cli.RUNNER, "demo", "--output-dir", str(folder / "out"), "--json"]
    # Where a network namespace cannot be had, whatever honours a proxy runs into a closed port.
    closed = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [*(NO_NETWORK if isolated else ()), *command],
        env={**cli.environment(), **({} if isolated else closed), "CUDA_VISIBLE_DEVICES": ""},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder / "out"


@needs_scanpy
@pytest.mark.slow
def test_the_demo_succeeds_without_a_network_and_leaves_what_its_plan_promises(finished):
    """`runner demo` runs all three notebooks with the network cut, and each says on what it ran."""
    _, out = finished
    for notebook in PLAN.notebooks:
        metrics = cli.metrics(out, notebook.name)
        assert (metrics["status"], metrics["failure"]) == ("succeeded", None)
        executed = cli.executed(out, notebook.name)
        assert printed(executed, "stderr") == ""
        assert "backend: scanpy on CPU\n" in printed(executed)
        figures = sum("image/png" in o.get("data", {}) for c in executed.cells for o in c.get("outputs", []))
        assert figures >= notebook.expect.min_figures
    first, _, third = (printed(cli.executed(out, name)) for name in NAMES)
    assert "400 of 765 genes are selected" in first
    assert "removed 1003 of 1003 damaged cells and 0 intact ones" in third

    markers = next(out.rglob("pbmc_markers.csv"))
    with markers.open() as stream:
        best = {row["names"] for row in csv.DictReader(stream) if float(row["pvals_adj"]) < 1e-10}
    assert {"CD79A", "NKG7", "LYZ", "CD3D"} <= best


@needs_scanpy
@pytest.mark.slow
def test_the_demo_ends_with_three_successes_and_a_report(finished):
    """Each notebook has its record and page, and the report says on what they ran."""
    summary, out = finished
    assert [(notebook["name"], notebook["status"]) for notebook in summary["notebooks"]] == [
        (name, "succeeded") for name in NAMES
    ]
    for name in NAMES:
        record = cli.metrics(out, name)
        assert {cell["status"] for cell in record["cells"]} <= {"succeeded", "dropped"}
        assert all(expectation["met"] for expectation in record["expectations"])
        assert (out / f"{name}.html").stat().st_size > 10_000
    assert cli.metrics(out, NAMES[0])["outputs"]["figures"] >= 5
    (page,) = (out / "reports").glob("complete_analysis_report_*.html")
    text = page.read_text()
    assert all(name in text for name in NAMES)
    assert "scanpy" in text or "rapids" in text


RAPIDS = '''
"""Stands in for rapids_singlecell: its own signatures in front of scanpy, and a record of what was called."""

import sys
from types import SimpleNamespace

import scanpy as sc

sys.modules[__name__].called = called = []


def noted(function):
    def call(*args, **kwargs):
        called.append(function.__name__)
        return function(*args, **kwargs)

    return call


@noted
def highly_variable_genes(adata, *, n_top_genes=None, flavor="seurat", theta=100):
    if flavor == "pearson_residuals":
        sc.experimental.pp.highly_variable_genes(adata, n_top_genes=n_top_genes, theta=theta)
    else:
        sc.pp.highly_variable_genes(adata, n_top_genes=n_top_genes, flavor=flavor)


@noted
def calculate_qc_metrics(adata, *, expr_type="counts", var_type="genes", qc_vars=None, log1p=True, layer=None):
    sc.pp.calculate_qc_metrics(adata, qc_vars=qc_vars, percent_top=None, inplace=True)


@noted
def normalize_pearson_residuals(adata, *, theta=100, clip=None, check_values=True, layer=None, inplace=True):
    sc.experimental.pp.normalize_pearson_residuals(adata, theta=theta)


@noted
def anndata_to_GPU(adata, layer=None, *, convert_all=False, copy=False):
    pass


@noted
def anndata_to_CPU(adata, layer=None, *, convert_all=False, copy=False):
    pass


pp = SimpleNamespace(
    highly_variable_genes=highly_variable_genes,
    calculate_qc_metrics=calculate_qc_metrics,
    normalize_pearson_residuals=normalize_pearson_residuals,
    normalize_total=noted(sc.pp.normalize_total),
    log1p=noted(sc.pp.log1p),
    scale=noted(sc.pp.scale),
    pca=noted(sc.pp.pca),
    neighbors=noted(sc.pp.neighbors),
)
tl = SimpleNamespace(umap=noted(sc.tl.umap), leiden=noted(sc.tl.leiden))
get = SimpleNamespace(anndata_to_GPU=anndata_to_GPU, anndata_to_CPU=anndata_to_CPU)
'''

CUPY = """
from types import SimpleNamespace

def properties(device):
    {properties}

cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceProperties=properties))
"""


def run_with_stand_ins(name: str, folder: Path, monkeypatch, properties: str, **parameters) -> nbformat.NotebookNode:
    import papermill

    modules = folder / "modules"  # not the kernel's own folder, which is on its path from the start
    modules.mkdir()
    (modules / "rapids_singlecell.py").write_text(RAPIDS)
    (modules / "cupy.py").write_text(CUPY.format(properties=properties))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    source = read(name)
    # After scanpy, which would take the stand-in for a whole cupy.
    place = [cell.id for cell in source.cells].index("backend")
    source.cells.insert(place, nbformat.v4.new_code_cell(f"import sys\nsys.path.insert(0, {str(modules)!r})"))
    source.cells.append(
        nbformat.v4.new_code_cell("import rapids_singlecell\nprint('called:', rapids_singlecell.called)")
    )
    nbformat.write(source, folder / "source.ipynb")
    return papermill.execute_notebook(
        str(folder / "source.ipynb"),
        str(folder / "executed.ipynb"),
        parameters=parameters,
        cwd=str(folder),
        kernel_name="python3",
        engine_name="nbclient",
        progress_bar=False,
    )


GPU_CALLS = {
    NAMES[0]: {"anndata_to_GPU", "highly_variable_genes", "scale", "pca", "anndata_to_CPU"},
    NAMES[2]: {
        "anndata_to_GPU",
        "calculate_qc_metrics",
        "highly_variable_genes",
        "normalize_total",
        "log1p",
        "normalize_pearson_residuals",
        "pca",
        "anndata_to_CPU",
    },
}


@needs_scanpy
@pytest.mark.slow
@pytest.mark.parametrize("name", GPU_CALLS)
def test_with_a_gpu_the_demo_calls_rapids_singlecell_and_names_the_gpu(name, tmp_path, monkeypatch):
    """Where cupy sees a GPU the work goes through rapids-singlecell and the output names the device."""
    parameters = {"n_cells": 2_000} if name == NAMES[2] else {}
    seen = 'return {"name": b"NVIDIA Test GPU"}'
    executed = run_with_stand_ins(name, tmp_path, monkeypatch, seen, **parameters)
    assert "backend: rapids-singlecell on NVIDIA Test GPU\n" in printed(executed)
    called = ast.literal_eval(printed(executed).rpartition("called: ")[2])
    assert set(called) == GPU_CALLS[name]
    assert called.index("anndata_to_GPU") < called.index("pca") < called.index("anndata_to_CPU")


@needs_scanpy
@pytest.mark.slow
def test_a_gpu_that_cannot_be_used_means_the_cpu_and_the_reason_is_said(tmp_path, monkeypatch):
    """A driver that fails does not fail the demo: it says why it runs on the CPU."""
    broken = 'raise RuntimeError("cudaErrorInsufficientDriver")'
    executed = run_with_stand_ins(NAMES[0], tmp_path, monkeypatch, broken)
    assert "backend: scanpy on CPU\nno GPU is used: RuntimeError: cudaErrorInsufficientDriver\n" in printed(executed)
    assert "called: []" in printed(executed)


@pytest.mark.gpu
def test_on_a_real_gpu_the_demo_runs_there(tmp_path):
    """With RAPIDS installed and a GPU at hand every notebook of the demo ran on it."""
    pytest.importorskip("cupy")
    pytest.importorskip("rapids_singlecell")
    command = [sys.executable, "-m", "runner", "demo", "--output-dir", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        executed = nbformat.read(tmp_path / "out" / f"{name}.executed.ipynb", as_version=4)
        assert "backend: rapids-singlecell on NVIDIA" in printed(executed)
