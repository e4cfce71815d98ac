# SPDX-License-Identifier: Apache-2.0
"""The shipped plans say of every notebook what it needs, and their rules do what they are for.

The notebooks themselves belong to others; here stand only the lines that the rules are about.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from support import cli, notebooks

from runner.core.notebook_document import read_notebook
from runner.plan.model import Notebook, Plan, load
from runner.plan.sharing import shared_products
from runner.stages.execute.diagnose import lacks_cuda
from runner.stages.prepare.plan_check import check_plan
from runner.stages.prepare.prepare import prepare

CONFIGS = Path(__file__).parents[2] / "tekton" / "configs"
SEVEN = [
    "01_scRNA_analysis_preprocessing",
    "02_scRNA_analysis_extended",
    "03_scRNA_analysis_with_pearson_residuals",
    "04_scRNA_analysis_dask_out_of_core",
    "05_scRNA_analysis_multi_GPU",
    "06_scRNA_analysis_90k_brain_example",
    "07_scRNA_analysis_1.3M_brain_example",
]
CENSUS = 'url = "https://exampledata.scverse.org/rapids-singlecell/dli_census.h5ad"'
BRAIN = "url = 'https://exampledata.scverse.org/rapids-singlecell/1M_brain_cells_10X.sparse.h5ad'"
HUB = "https://huggingface.co/datasets/perturbai/wholebrain_crispr_atlas/resolve/main/analysis/"
LINES = {
    "gpu-resource-config": {
        "01": [CENSUS],
        "03": [CENSUS],
        "04": ['cluster = LocalCUDACluster(CUDA_VISIBLE_DEVICES="0", threads_per_worker=30)', BRAIN],
        "05": [
            'preprocessing_gpus="0,1,2,3,4,5,6,7"\ncluster = LocalCUDACluster(CUDA_VISIBLE_DEVICES=preprocessing_gpus)',
            BRAIN,
            "cols_per_worker = (n_rows +8-1 )//8\nadata.X = adata.X.rechunk((cols_per_worker, n_cols)).persist()",
        ],
        "06": ["url = 'https://figshare.com/ndownloader/files/45788454'"],
        "07": [BRAIN],
    },
    "upstream-notebooks-plan": {
        "01": [CENSUS],
        "03": [CENSUS],
        "04": [
            (
                f"if 24 <= gpu0_memory_gb < 95:\n    {BRAIN}\n    dataset = '1.3M'\n"
                "elif gpu0_memory_gb >= 95:\n    url, dataset = 'https://x.org', '11M'"
            )
        ],
        "05": ["rmm.reinitialize(\n    devices=[0,1],  # GPU device IDs\n)"],
        "06": [
            BRAIN,
            "adata = adata[:1_000_000, :].copy()",
            "rsc.pp.pca(adata, n_comps=100, use_highly_variable=False)",
        ],
        "07": [
            (
                'A = "/data/nvcell/datasets/perturbai/WB8588_screen_gex_filtered_reassigned_final.zarr" # own path\n'
                'OUT_DIR = "/data/nvcell/datasets/perturbai/training_data/rapids_edist_results" # own directory'
            ),
            f'url = "{HUB}preprocessed_gex.zarr.tar.gz?download=true"',
            'CUDA_VISIBLE_DEVICES = "0" #keep 1 GPU for this tutorial',
            'edist = distance.pairwise(adata_ct, groupby="x", multi_gpu=[0,1])',
            f'url = "{HUB}genes_of_interest_blomen.csv?download=true"',
        ],
    },
}


def load_shipped(name: str) -> Plan:
    return load(CONFIGS / f"{name}.yaml")


@pytest.fixture(params=sorted(LINES))
def shipped(request, tmp_path) -> tuple[str, Plan, Path]:
    """Give a plan with a checkout of notebooks that have the lines its rules are about."""
    plan = load_shipped(request.param)
    for notebook in plan.notebooks:
        cells = ["import os", *LINES[request.param].get(notebook.name[:2], ["1"]), notebooks.SHUTDOWN, ""]
        notebooks.write(tmp_path / notebook.path, *cells)
    return request.param, plan, tmp_path


def named(plan: Plan, start: str) -> Notebook:
    """Return the notebook whose name starts so."""
    return next(item for item in plan.notebooks if item.name.startswith(start))


def prepared(plan: Plan, checkout: Path, start: str) -> str:
    """Return the Python of one prepared notebook."""
    notebook = named(plan, start)
    source = read_notebook(checkout / notebook.path)
    result = prepare(source, rules=notebook.prepare, parameters=notebook.parameters)
    return "\n".join(cell.source for cell in result.notebook.cells if "dropped" not in cell.metadata.runner)


def test_every_rule_fits_and_leaves_python(shipped):
    """The only findings are datasets without an upstream checksum."""
    _name, plan, checkout = shipped
    assert [str(problem) for problem in check_plan(plan, checkout) if "has no checksum" not in problem.message] == []
    for notebook in plan.notebooks:
        ast.parse(prepared(plan, checkout, notebook.name))


def test_they_are_config_maps_of_their_file_names(shipped):
    """So that a Task can mount them."""
    name = shipped[0]
    document = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert (document["kind"], document["metadata"]["name"]) == ("ConfigMap", name)
    assert list(document["data"]) == ["plan.yaml"]


def test_the_seven_notebooks_are_there_and_three_are_optional():
    """04, 05 and 07 need more than the smallest card; 02 needs the product of 01."""
    plan = load_shipped("gpu-resource-config")
    seven = [plan.notebook(name) for name in SEVEN]
    assert len(plan.notebooks) == len(SEVEN)
    assert [notebook.name[:2] for notebook in seven if notebook.optional] == ["04", "05", "07"]
    assert seven[1].needs == [SEVEN[0]]
    assert [notebook.requires.gpu_memory_gb for notebook in seven] == [24, 24, 24, 48, 48, 24, 80]
    assert [notebook.requires.gpus for notebook in seven] == [1, 1, 1, 1, 2, 1, 1]


def test_every_notebook_says_what_it_needs(shipped):
    """GPU, memory, shared memory, a deadline, the folder, and the binding that drivers from 580 on need."""
    for notebook in shipped[1].notebooks:
        wanted = notebook.requires
        assert wanted.gpus
        assert wanted.gpu_memory_gb
        assert wanted.cpus
        assert wanted.memory_gb
        assert (wanted.shm_gb or 0) >= 1
        assert notebook.timeout
        assert notebook.stage
        assert notebook.cwd == "notebooks"
        assert notebook.env["NUMBA_CUDA_USE_NVIDIA_BINDING"] == "1"


def test_dask_notebooks_get_the_ucx_variables(shipped):
    """Those that start a cluster, in both generations."""
    name, plan, _checkout = shipped
    dask = {"gpu-resource-config": {"04", "05"}, "upstream-notebooks-plan": {"04", "07"}}[name]
    assert {nb.name[:2] for nb in plan.notebooks if nb.env.get("UCX_TLS") == "tcp,cuda_copy,cuda_ipc"} == dask
    assert not any(lacks_cuda(nb.env.get("UCX_TLS")) for nb in plan.notebooks)
    assert {nb.name[:2] for nb in plan.notebooks if nb.env.get("UCX_MEMTYPE_CACHE") == "n"} == dask


def test_what_is_shared_is_known(shipped):
    """Notebooks that download into one file must not do so at once."""
    name, plan, _checkout = shipped
    groups = {"".join(sorted(item[1] for item in names)) for names in shared_products(plan).values()}
    assert groups == {"13", {"gpu-resource-config": "457", "upstream-notebooks-plan": "46"}[name]}


def test_a_staged_file_never_lies_where_the_notebook_would_take_it_for_done(shipped):
    """The notebooks 01 and 03 filter after their own download only."""
    _name, plan, _checkout = shipped
    products = {product for notebook in plan.notebooks for product in notebook.products}
    for dataset in plan.datasets.values():
        if dataset.place:
            assert dataset.place.path not in products


@pytest.mark.parametrize("workers", [2, 3, 5, 8])
@pytest.mark.parametrize("rows", [1, 7, 8, 1000, 1001])
def test_the_multi_gpu_notebook_runs_on_any_number(tmp_path, workers, rows):
    """Every row is in a part, no more parts than workers, and no GPU number is left in the code."""
    plan = load_shipped("gpu-resource-config")
    notebooks.write(tmp_path / named(plan, "05").path, "import os", *LINES["gpu-resource-config"]["05"])
    source = prepared(plan, tmp_path, "05")
    assert "0,1,2" not in source
    made = {}

    class Cluster:
        def __init__(self, **options):
            made.update(options)

    class Client:
        def nthreads(self):
            return dict.fromkeys(range(workers), 1)

    class Data:
        def rechunk(self, shape):
            made["rows"] = shape[0]
            return self

        def persist(self):
            return self

    adata = type("AnnData", (), {"X": Data()})
    exec(source, {"LocalCUDACluster": Cluster, "client": Client(), "adata": adata, "n_rows": rows, "n_cols": 3})
    assert made["CUDA_VISIBLE_DEVICES"] is None
    parts = -(-rows // made["rows"])
    assert parts <= workers
    assert made["rows"] * workers >= rows


@pytest.mark.parametrize(("memory", "dataset"), [(24, "1.3M"), (80, "1.3M"), (140, "1.3M")])
def test_the_out_of_core_notebook_does_not_change_its_data_with_the_card(tmp_path, memory, dataset):
    """A larger card would download 43 GB unasked."""
    plan = load_shipped("upstream-notebooks-plan")
    notebooks.write(tmp_path / named(plan, "04").path, *LINES["upstream-notebooks-plan"]["04"])
    names = {"gpu0_memory_gb": memory}
    exec(prepared(plan, tmp_path, "04"), names)
    assert names["dataset"] == dataset


def test_no_path_of_another_machine_is_left(tmp_path):
    """The folders of 07 lie in the checkout."""
    plan = load_shipped("upstream-notebooks-plan")
    notebooks.write(tmp_path / named(plan, "07").path, "import os", *LINES["upstream-notebooks-plan"]["07"])
    source = prepared(plan, tmp_path, "07")
    assert "/data/nvcell" not in source
    assert "[0,1]" not in source


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("git"), reason="no git on PATH")
def test_the_readmes_plan_runs_somebody_elses_repository(tmp_path):
    """Its plan and its commands, word for word but for the address and the GPU."""
    readme = (CONFIGS.parents[1] / "README.md").read_text().split("## Your own notebooks")[1].split("\n## ")[0]
    plan, commands = re.findall(r"```\w+\n(.*?)```", readme, re.DOTALL)
    plan, removed = re.subn(r"\n    requires: .*", "", plan)
    assert removed == 1
    (tmp_path / "plan.yaml").write_text(plan)
    repository = tmp_path / "upstream"
    cells = ["n_clusters = 8", "open('clusters.csv', 'w').write(f'n {n_clusters}')", FIGURE, notebooks.SHUTDOWN, ""]
    notebooks.write(repository / "analysis" / "clusters.ipynb", *cells)
    git = ["git", "-C", str(repository), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"], ["tag", "v1.2"]):
        subprocess.run([*git, *arguments], check=True)

    for line in commands.strip().splitlines():
        _runner, *words = shlex.split(line, comments=True)
        words = [repository.as_uri() if word.startswith("https://") else word for word in words]
        ended = cli.runner(*words, cwd=tmp_path)
        assert ended.code == 0, ended.err + ended.out

    assert (tmp_path / "theirs" / "analysis" / "clusters.csv").read_text() == "n 12"
    assert cli.metrics(tmp_path / "outputs", "clusters")["status"] == "succeeded"


FIGURE = f"""import base64
from IPython.display import Image
Image(base64.b64decode("{notebooks.PNG}"))"""


ALL_AT_ONCE = "".join(
    f"download('{url}')\n"
    for url in (
        "https://exampledata.scverse.org/rapids-singlecell/dli_census.h5ad",
        "https://exampledata.scverse.org/rapids-singlecell/1M_brain_cells_10X.sparse.h5ad",
        "https://figshare.com/ndownloader/files/45788454",
        "https://datasets.cellxgene.cziscience.com/3817734b-0f82-433b-8c38-55b214200fff.h5ad",
    )
)


def test_the_current_plan_fits_its_notebooks_and_says_for_which_versions(tmp_path):
    """One notebook downloads for all, with no GPU; each other asks for its GPUs and has a deadline."""
    plan = load_shipped("current-notebooks-plan")
    for notebook in plan.notebooks:
        notebooks.write(tmp_path / notebook.path, ALL_AT_ONCE if notebook.datasets else "1", notebooks.SHUTDOWN)
    assert [str(one) for one in check_plan(plan, tmp_path) if "has no checksum" not in one.message] == []
    assert set(plan.fits) >= {"rapids-singlecell", "cudf", "anndata", "pandas"}
    first, *rest = plan.notebooks
    assert not first.requires.gpus
    assert all(nb.requires.gpus and nb.requires.gpu_memory_gb and nb.timeout and nb.stage for nb in rest)
    dask = {nb.name[:2] for nb in rest if nb.env.get("UCX_TLS") == "tcp,cuda_copy,cuda_ipc"}
    assert dask == {"05", "06"}
    document = yaml.safe_load((CONFIGS / "current-notebooks-plan.yaml").read_text())
    assert document["metadata"]["name"] == "current-notebooks-plan"
