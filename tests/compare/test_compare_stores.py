# SPDX-License-Identifier: Apache-2.0
"""Comparison of AnnData: changes are found, equivalent data are equal, damage gives a verdict."""

from __future__ import annotations

import json
import shutil
import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from support import cli

from runner.compare import matrices, stores
from runner.compare.folders import compare
from runner.compare.verdict import Outcome, Tolerance

CELLS, GENES = 240, 60


def made() -> ad.AnnData:
    """Return a small analysis; the same each time."""
    random = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "leiden": pd.Categorical(random.integers(0, 5, CELLS).astype(str)),
            "cell_type": pd.Categorical(random.choice(["B", "NK", "T"], CELLS)),
            "n_counts": random.random(CELLS) * 1e4,
            "n_genes": random.integers(0, 5000, CELLS),
            "barcode": [f"AAC{i}" for i in range(CELLS)],
            "doublet": random.random(CELLS) > 0.9,
        },
        index=[f"cell-{i}" for i in range(CELLS)],
    )
    var = pd.DataFrame({"highly_variable": random.random(GENES) > 0.5}, index=[f"gene-{i}" for i in range(GENES)])
    counts = sp.random(CELLS, GENES, 0.2, format="csr", random_state=0, dtype="float32")
    data = ad.AnnData(counts, obs, var)
    data.raw = data.copy()
    data.layers["counts"] = counts.copy()
    data.layers["scaled"] = random.normal(size=(CELLS, GENES)).astype("float32")
    data.obsm["X_pca"] = (random.normal(size=(CELLS, 8)) * np.linspace(8, 1, 8)).astype("float32")
    data.obsm["X_umap"] = data.obsm["X_pca"][:, :2].copy()
    data.varm["PCs"] = random.normal(size=(GENES, 8))
    data.obsp["distances"] = sp.random(CELLS, CELLS, 0.05, format="csr", random_state=1)
    records = np.array([("gene-1", 3.0), ("gene-2", 2.0)], dtype=[("names", "O"), ("scores", "f8")])
    data.uns = {"pca": {"variance_ratio": np.linspace(1, 0, 8)}, "method": "t-test", "rank": records}
    return data


def moved(data, count=40):
    labels = data.obs["leiden"].astype(str).to_numpy(copy=True)
    labels[:count] = "0"
    data.obs["leiden"] = pd.Categorical(labels)


def swapped_names(data):
    data.obs["cell_type"] = data.obs["cell_type"].cat.rename_categories({"B": "T", "T": "B"})


def split(data):
    labels = data.obs["leiden"].astype(str).to_numpy(copy=True)
    labels[np.flatnonzero(labels == "4")[::2]] = "5"
    data.obs["leiden"] = pd.Categorical(labels)


def missing_labels(data):
    data.obs.loc[data.obs_names[:3], "cell_type"] = None


def one_value(data):
    data.X[7, data.X[7].indices[0]] *= 1.01


def new_entry(data):
    dense = data.X.toarray()
    dense[np.nonzero(dense == 0)[0][0], np.nonzero(dense == 0)[1][0]] = 0.5
    data.X = sp.csr_matrix(dense)


def undefined(data):
    data.layers["scaled"][3, 3] = np.nan


def infinite(data):
    data.layers["scaled"][3, 3] = np.inf


def layer_value(data):
    data.layers["counts"].data[5] += 1


def other_umap(data):
    data.obsm["X_umap"] = np.random.default_rng(5).normal(size=(CELLS, 2))


def fewer_components(data):
    data.obsm["X_pca"] = data.obsm["X_pca"][:, :4]


def shifted_cluster(data):
    data.obsm["X_umap"][data.obs["leiden"] == "2"] += 30


def other_loadings(data):
    data.varm["PCs"] = data.varm["PCs"][::-1].copy()


def other_distance(data):
    data.obsp["distances"].data[0] += 0.1


def other_ratio(data):
    data.uns["pca"]["variance_ratio"][1] *= 1.001


def other_method(data):
    data.uns["method"] = "wilcoxon"


def other_gene(data):
    data.uns["rank"]["names"][1] = "gene-3"


def other_score(data):
    data.uns["rank"]["scores"][1] = 2.1


def column_gone(data):
    del data.obs["doublet"]


def column_new(data):
    data.obs["phase"] = "G1"


def other_counts(data):
    data.obs["n_genes"] += (np.arange(CELLS) == 9).astype(int)


def other_flag(data):
    data.var["highly_variable"] = ~data.var["highly_variable"]


def other_barcode(data):
    data.obs["barcode"] = ["changed", *data.obs["barcode"][1:]]


def text_for_number(data):
    data.obs["n_genes"] = ["many"] * CELLS


PLANTED = {
    moved: "obs/leiden",
    swapped_names: "obs/cell_type",
    split: "obs/leiden",
    missing_labels: "obs/cell_type",
    one_value: "X",
    new_entry: "X",
    undefined: "layers/scaled",
    infinite: "layers/scaled",
    layer_value: "layers/counts",
    other_umap: "obsm/X_umap",
    fewer_components: "obsm/X_pca",
    shifted_cluster: "obsm/X_umap",
    other_loadings: "varm/PCs",
    other_distance: "obsp/distances",
    other_ratio: "uns/pca/variance_ratio",
    other_method: "uns/method",
    other_gene: "uns/rank/names",
    other_score: "uns/rank/scores",
    column_gone: "obs/doublet",
    column_new: "obs/phase",
    other_counts: "obs/n_genes",
    other_flag: "var/highly_variable",
    other_barcode: "obs/barcode",
    text_for_number: "obs/n_genes",
}


def write(data: ad.AnnData, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (data.write_zarr if path.suffix == ".zarr" else data.write_h5ad)(path)
    return path


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    return {suffix: write(made(), folder / f"result{suffix}") for suffix in (".h5ad", ".zarr")}


def verdicts(old, new, **tolerance):
    [file] = compare(old, new, Tolerance(**tolerance)).files
    return {one.part: one for one in file.verdicts}


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("change", PLANTED, ids=lambda change: change.__name__)
def test_a_planted_change_is_found_where_it_is_and_nowhere_else(old, tmp_path, change, suffix):
    """One thing of an analysis changes: its part is different, and no other is."""
    data = made()
    change(data)
    found = verdicts(old[suffix], write(data, tmp_path / f"new{suffix}"))
    different = {part for part, one in found.items() if one.outcome is Outcome.DIFFERENT}
    assert different == {PLANTED[change]}, [str(one) for one in found.values()]
    assert Outcome.UNKNOWN not in {one.outcome for one in found.values()}


def renumbered(data):
    data.obs["leiden"] = pd.Categorical([str((int(label) + 1) % 5) for label in data.obs["leiden"]])


def turned(data):
    angle = np.array([[0.0, -1.0], [1.0, 0.0]], dtype="float32")
    data.obsm["X_umap"] = data.obsm["X_umap"] @ angle
    data.obsm["X_pca"] *= np.array([1, -1] * 4, dtype="float32")


def other_storage(data):
    data.X = data.X.tocsc()
    data.layers["counts"] = data.layers["counts"].toarray()
    data.layers["scaled"] = data.layers["scaled"].astype("float64")


def within_tolerance(data):
    data.layers["scaled"] *= np.float32(1 + 1e-6)
    data.obs["n_counts"] *= 1 + 1e-9


def explicit_zeros(data):
    data.X.data[:5] = 0
    kept = data.X.copy()
    kept.eliminate_zeros()
    assert kept.nnz < data.X.nnz


SAME = [renumbered, turned, other_storage, within_tolerance]


@pytest.mark.parametrize("change", SAME, ids=lambda change: change.__name__)
def test_what_means_the_same_is_equal_within_tolerance(old, tmp_path, change):
    """Clusters have other numbers, axes other signs, matrices another storage or type, numbers rounding."""
    data = made()
    change(data)
    found = verdicts(old[".h5ad"], write(data, tmp_path / "new.h5ad"))
    outcomes = {one.outcome for one in found.values()}
    assert outcomes == {Outcome.EQUAL, Outcome.TOLERATED}, [str(one) for one in found.values()]


def test_a_zero_that_is_stored_is_the_same_as_one_that_is_not(tmp_path):
    """Sparse matrices are compared by value."""
    data, other = made(), made()
    explicit_zeros(data)
    explicit_zeros(other)
    other.X.eliminate_zeros()
    found = verdicts(write(data, tmp_path / "a.h5ad"), write(other, tmp_path / "b.h5ad"))
    assert found["X"].outcome is Outcome.EQUAL


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_cells_and_genes_in_another_order_are_matched_by_name(old, tmp_path, suffix):
    """All parts follow; with a planted change as well."""
    random = np.random.default_rng(3)
    data = made()[random.permutation(CELLS), random.permutation(GENES)].copy()
    found = verdicts(old[suffix], write(data, tmp_path / f"new{suffix}"))
    assert found["obs names"].detail == f"the same {CELLS} in a different order"
    assert {one.outcome for one in found.values()} == {Outcome.EQUAL, Outcome.TOLERATED}
    data.X.data[17] += 5
    found = verdicts(old[suffix], write(data, tmp_path / f"changed{suffix}"))
    assert {part for part, one in found.items() if one.outcome is Outcome.DIFFERENT} == {"X"}


def test_cells_that_are_gone_leave_the_others_to_be_compared(old, tmp_path):
    """The names are reported; the rest is compared by common names."""
    found = verdicts(old[".h5ad"], write(made()[5:].copy(), tmp_path / "new.h5ad"))
    different = {part: one.detail for part, one in found.items() if one.outcome is Outcome.DIFFERENT}
    assert different == {"obs names": f"{CELLS} → {CELLS - 5}, {CELLS - 5} in common"}


def test_one_store_in_both_formats_is_equal(old):
    """The format is no part of the meaning."""
    assert {one.outcome for one in verdicts(old[".h5ad"], old[".zarr"]).values()} == {Outcome.EQUAL}


def test_the_tolerances_decide(old, tmp_path):
    """Each has its name."""
    data = made()
    moved(data, 10)
    other_ratio(data)
    new = write(data, tmp_path / "new.h5ad")
    strict = verdicts(old[".h5ad"], new)
    assert strict["obs/leiden"].detail.startswith("ARI 0.9")
    assert strict["obs/leiden"].crossing.old == ("0", "1", "2", "3", "4")
    loose = verdicts(old[".h5ad"], new, ari=0.8, relative=0.01)
    assert Outcome.DIFFERENT not in {one.outcome for one in loose.values()}


def test_no_rows_are_compared_as_no_rows(tmp_path):
    """Everything was filtered out in both, or in one."""
    empty = write(made()[:0].copy(), tmp_path / "a.h5ad")
    shutil.copy(empty, tmp_path / "b.h5ad")
    with h5py.File(tmp_path / "b.h5ad", "a") as file:
        file.attrs["note"] = "other bytes"
    found = verdicts(empty, tmp_path / "b.h5ad")
    assert {one.outcome for one in found.values()} == {Outcome.EQUAL}
    full = write(made(), tmp_path / "c.h5ad")
    assert verdicts(empty, full)["obs names"].outcome is Outcome.DIFFERENT


def test_many_labels_are_compared_one_by_one(tmp_path):
    """A label for each cell is no grouping, and makes no table."""
    data, other = made(), made()
    data.obs["id"] = pd.Categorical([f"a{i}" for i in range(CELLS)])
    other.obs["id"] = pd.Categorical([f"a{i}" for i in range(1, CELLS + 1)])
    found = verdicts(write(data, tmp_path / "a.h5ad"), write(other, tmp_path / "b.h5ad"))["obs/id"]
    assert found.detail == f"{CELLS} of {CELLS} differ, first 'a0' → 'a1'"
    assert found.crossing is None


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


def linked_elsewhere(path):
    with h5py.File(path, "a") as file:
        del file["uns/method"]
        file["uns/method"] = h5py.ExternalLink("/etc/hosts", "/")


def outside_of_the_shape(path):
    with h5py.File(path, "a") as file:
        file["X/indices"][3] = 10**6


def rows_that_go_back(path):
    with h5py.File(path, "a") as file:
        file["X/indptr"][3] = -4


def larger_than_memory(path):
    with h5py.File(path, "a") as file:
        made_up = file["obs"].create_dataset("huge", shape=(10**12,), dtype="f8", chunks=(1000,))
        made_up.attrs["encoding-type"], made_up.attrs["encoding-version"] = "array", "0.2.0"


HOSTILE = {
    cut: "",
    emptied: "",
    linked_elsewhere: "uns/method",
    outside_of_the_shape: "X",
    rows_that_go_back: "X",
    larger_than_memory: "obs/huge",
}


@pytest.mark.parametrize("damage", HOSTILE, ids=lambda damage: damage.__name__)
def test_damage_is_a_verdict_and_ends_nothing(old, tmp_path, damage):
    """The part that cannot be trusted is named; others are still compared."""
    data = made()
    data.X.data[0] += 1
    new = write(data, tmp_path / "new.h5ad")
    damage(new)
    found = verdicts(old[".h5ad"], new)
    bad = {part for part, one in found.items() if one.outcome in {Outcome.UNKNOWN, Outcome.DIFFERENT}}
    assert HOSTILE[damage] in bad
    if HOSTILE[damage]:
        assert found["obs/leiden"].outcome is Outcome.EQUAL


def test_groups_that_hold_each_other_come_to_an_end(tmp_path, monkeypatch):
    """HDF5 allows it, and two of them make ways without number."""
    monkeypatch.setattr(stores, "_MOST_PARTS", 1_000)
    paths = []
    for name in ("a", "b"):
        paths.append(write(made(), tmp_path / f"{name}.h5ad"))
        with h5py.File(paths[-1], "a") as file:
            file["uns/loop"] = file["uns/twin"] = file["uns"]
            file.attrs["note"] = name
    found = verdicts(*paths)
    assert any("groups may contain each other" in one.detail for one in found.values())
    assert found["X"].outcome is Outcome.EQUAL


def test_links_in_a_zarr_folder_are_not_followed(old, tmp_path):
    """Nothing outside of the folder is read."""
    new = tmp_path / "new.zarr"
    shutil.copytree(old[".zarr"], new)
    shutil.rmtree(new / "uns")
    (new / "uns").symlink_to(old[".zarr"] / "uns")
    [found] = verdicts(old[".zarr"], new).values()
    assert (found.outcome, "symbolic links" in found.detail) == (Outcome.UNKNOWN, True)


@pytest.mark.parametrize("kinds", [("csr", "csr"), ("csc", "csc"), ("csr", "csc"), ("csc", "csr")])
def test_matrices_are_read_in_small_blocks(tmp_path, monkeypatch, kinds):
    """However small the block: one planted value is found, whichever way the matrices are stored."""
    monkeypatch.setattr(matrices, "_BLOCK_BYTES", 900)
    monkeypatch.setattr(matrices, "_SCANNED_BLOCK_BYTES", 900)
    counts = sp.random(CELLS, GENES, 0.1, format="csr", random_state=0)
    changed = counts.copy()
    changed.data[100] += 1
    paths = []
    for name, matrix, kind in (("a", counts, kinds[0]), ("b", changed, kinds[1])):
        paths.append(write(ad.AnnData(matrix.asformat(kind)), tmp_path / f"{name}.h5ad"))
    found = verdicts(*paths)["X"]
    assert found.detail.startswith(f"1 of {CELLS * GENES:,} numbers")


PEAKS = """
import resource, sys
from pathlib import Path
from runner.compare.folders import compare
from runner.compare.verdict import Tolerance
peaks = []
for folder in map(Path, sys.argv[1:]):
    [file] = compare(folder / "old.h5ad", folder / "new.h5ad", Tolerance()).files
    print(next(one for one in file.verdicts if one.part == "X").detail)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
print(peaks[1] - peaks[0])
"""


@pytest.mark.parametrize("sparse", [False, True])
def test_a_store_is_not_read_into_memory(tmp_path, sparse):
    """Of two matrices of 200 MB one value differs; comparing them takes less memory than one of them has."""
    genes, step = 2_000, 8
    for name, cells in (("small", 10), ("large", 25_000 * (4 if sparse else 1))):
        (tmp_path / name).mkdir()
        if sparse:
            columns = np.tile(np.arange(0, genes, step, dtype="int32"), cells)
            starts = np.arange(cells + 1) * (genes // step)
            matrix = sp.csr_matrix((np.ones(len(columns), "float32"), columns, starts), (cells, genes))
        else:
            matrix = np.ones((cells, genes), "float32")
        for side in ("old", "new"):
            matrix[cells - 1, 0] += side == "new"
            write(ad.AnnData(matrix), tmp_path / name / f"{side}.h5ad")
    ended = cli.python(PEAKS, tmp_path / "small", tmp_path / "large")
    *details, growth = ended.out.splitlines()
    assert [detail.startswith("1 of ") for detail in details] == [True, True], ended.err
    assert int(growth) < (tmp_path / "large" / "new.h5ad").stat().st_size
    shutil.rmtree(tmp_path / "large")


def test_the_command_answers_in_lines_json_page_and_exit_code(old, tmp_path):
    """What a user types."""
    data = made()
    moved(data)
    new = write(data, tmp_path / "new.h5ad")
    ended = cli.runner("compare", old[".h5ad"], new, "--fail-on-difference", "--html", tmp_path / "page.html")
    assert ended.code == 7, ended.err
    first, *rest = ended.out.splitlines()
    assert first.startswith("new.h5ad: different (")
    assert any(line.startswith("  obs/leiden: different: ARI 0.") for line in rest)
    assert "Old labels" in (tmp_path / "page.html").read_text()
    ended = cli.runner("compare", old[".h5ad"], new, "--json", "--tolerance", "ari=0.1", "--fail-on-difference")
    assert ended.code == 0, ended.err
    answer = json.loads(ended.out)
    leiden = next(one for one in answer["files"][0]["verdicts"] if one["part"] == "obs/leiden")
    assert sum(map(sum, leiden["crossing"]["counts"])) == CELLS
    wrong = cli.runner("compare", old[".h5ad"], new, "--tolerance", "arri=0.1")
    assert (wrong.code, "did you mean 'ari'?" in wrong.err) == (2, True)
    assert cli.runner("compare", old[".h5ad"], tmp_path).code == 2


WITHOUT = """
import sys
sys.modules["anndata"] = None
sys.argv = ["runner", *sys.argv[1:]]
from runner.cli import main
main()
"""


def test_a_missing_library_is_told_with_the_command_that_installs_it(old, tmp_path):
    """The extra is optional."""
    data = made()
    moved(data)
    ended = cli.python(WITHOUT, "compare", old[".h5ad"], write(data, tmp_path / "new.h5ad"))
    assert ended.code == 2
    assert "anndata, which is not installed" in ended.err
    assert "pip install 'rapids-notebook-runner[compare]'" in ended.err
