# SPDX-License-Identifier: Apache-2.0
"""A half-written file of yesterday never passes for data."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support import cli, notebooks

from runner.core.errors import BrokenInputError
from runner.core.redact import Redactor
from runner.plan.model import Rule, parse
from runner.plan.sources import Sources
from runner.stages.prepare import product_records, products

PATTERNS = ["notebooks/h5/*.h5ad"]


@pytest.fixture
def world(tmp_path):
    """Give a checkout with two notebooks and an output folder."""
    return World(tmp_path)


class World:
    """01 and 03 are in the plan, whose products are shared; every run is of one of them."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.outputs = folder / "checkout", folder / "outputs"
        (self.checkout / "notebooks" / "h5").mkdir(parents=True)
        self.outputs.mkdir()
        for name in ("01", "03"):
            (self.checkout / "notebooks" / f"{name}.ipynb").write_text(f"{name} sets n")
        entries = [{"name": name, "path": f"notebooks/{name}.ipynb", "products": PATTERNS} for name in ("01", "03")]
        self.plan = parse(yaml.safe_dump({"version": 1, "name": "p", "notebooks": entries}), "plan.yaml")
        self.reused: dict[str, product_records.Fingerprint] = {}

    def run(self, name="01", **parameters) -> product_records.Run:
        source = f"notebooks/{name}.ipynb"
        digest = hashlib.sha256((self.checkout / source).read_bytes()).hexdigest()
        identity = product_records.identity(digest, parameters, [])
        others = [entry for entry in self.plan.notebooks if entry.name != name]
        takes = frozenset(product_records.identity_now(entry, self.checkout, {}) for entry in others)
        return product_records.Run(name=name, source=source, source_sha256=digest, identity=identity, takes=takes)

    def write(self, path: str, content: str = "data") -> Path:
        target = self.checkout / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
        return target

    def set_aside(self, run, patterns=PATTERNS):
        sources = Sources.of(self.plan, self.checkout)
        judged = products.set_aside(patterns, checkout=self.checkout, output_dir=self.outputs, run=run, sources=sources)
        self.reused = dict(judged.reused)
        return judged.moved

    def record(self, run, patterns=PATTERNS):
        return products.record(patterns, checkout=self.checkout, output_dir=self.outputs, run=run, reused=self.reused)


@pytest.mark.parametrize("pattern", ["notebooks/h5/*.h5ad", "notebooks/h5/a.h5ad", "**/*.h5ad", "notebooks/*/a.h5ad"])
def test_what_lies_outside_the_checkout_is_never_moved(world, tmp_path, pattern) -> None:
    """A folder of products may be a link: what is behind it is refused, unless a succeeded run made it so."""
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (world.checkout / "notebooks" / "h5").rmdir()
    (world.checkout / "notebooks" / "h5").symlink_to(outside)
    (outside / "a.h5ad").write_text("somebody's")
    inside = world.write("notebooks/b/a.h5ad")
    patterns = [pattern, "notebooks/b/*", "notebooks/h5/a*"]

    with pytest.raises(BrokenInputError, match=f"outside the checkout, in {outside}"):
        world.set_aside(world.run(), patterns)

    assert (outside / "a.h5ad").read_text() == "somebody's"
    assert inside.exists()
    world.record(world.run(), patterns)
    assert world.set_aside(world.run(), patterns) == ()
    (outside / "a.h5ad").unlink()
    assert world.set_aside(world.run(), patterns) == ()


def test_a_product_whose_name_holds_a_secret_is_not_recorded(world) -> None:
    """The memory of makers is a file like any other: such a product is made again instead."""
    world.write("notebooks/h5/hunter2.h5ad")
    world.write("notebooks/h5/b.h5ad")

    products.record(
        PATTERNS,
        checkout=world.checkout,
        output_dir=world.outputs,
        run=world.run(),
        reused={},
        redactor=Redactor(["hunter2"]),
    )

    assert "hunter2" not in "".join(path.read_text() for path in world.outputs.iterdir())
    assert world.set_aside(world.run()) == (".set-aside/01/1/notebooks/h5/hunter2.h5ad",)
    assert [*world.reused] == ["notebooks/h5/b.h5ad"]


def test_a_leftover_is_moved_and_listed(world):
    """It is not lost, and the notebook does not find it."""
    world.write("notebooks/h5/a.h5ad", "half")
    world.write("notebooks/h5/other.csv")
    assert world.set_aside(world.run()) == (".set-aside/01/1/notebooks/h5/a.h5ad",)
    assert (world.checkout / ".set-aside/01/1/notebooks/h5/a.h5ad").read_text() == "half"
    assert [path.name for path in (world.checkout / "notebooks/h5").iterdir()] == ["other.csv"]
    world.write("notebooks/h5/a.h5ad", "half again")
    assert world.set_aside(world.run()) == (".set-aside/01/2/notebooks/h5/a.h5ad",)


def test_what_a_succeeded_run_recorded_stands(world):
    """A second run of the same source and parameters takes it."""
    path = world.write("notebooks/h5/a.h5ad")
    assert world.record(world.run()) == ("notebooks/h5/a.h5ad",)
    assert world.set_aside(world.run()) == ()
    assert path.exists()


def test_other_parameters_rules_or_source_do_not(world):
    """The file is of another computation then."""
    world.write("notebooks/h5/a.h5ad")
    world.record(world.run())
    assert len(world.set_aside(world.run(n_top_genes=5))) == 1
    world.write("notebooks/h5/a.h5ad")
    world.record(world.run())
    world.write("notebooks/01.ipynb", "changed")
    assert len(world.set_aside(world.run())) == 1
    rule = Rule(replace={"find": "a", "with": "b"})
    assert product_records.identity("x", {}, []) != product_records.identity("x", {}, [rule])


def test_a_file_written_since_it_was_recorded_does_not(world):
    """An unfinished run over a finished one: same size, other time."""
    path = world.write("notebooks/h5/a.h5ad")
    world.record(world.run())
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert len(world.set_aside(world.run())) == 1


def test_notebooks_share_what_one_of_them_finished(world):
    """03 takes the download of 01, unless 01 is another notebook by now."""
    world.write("notebooks/h5/census.h5ad")
    world.record(world.run("01"))
    assert world.set_aside(world.run("03")) == ()
    world.write("notebooks/01.ipynb", "changed")
    assert len(world.set_aside(world.run("03"))) == 1


def test_who_only_found_a_file_does_not_vouch_for_it(world):
    """01 made it with n=5 and 03 took it: with n=9 it is not what 01 makes."""
    world.write("notebooks/h5/census.h5ad", "filtered with 5")
    world.plan = with_parameters(world.plan, "01", n=5)
    world.record(world.run("01", n=5))
    assert world.set_aside(world.run("03")) == ()
    world.record(world.run("03"))
    world.plan = with_parameters(world.plan, "01", n=9)
    assert len(world.set_aside(world.run("01", n=9))) == 1


def test_a_stale_record_of_another_does_not_outdo_the_fresh_one(world):
    """03 made it once and 01 anew: it stands for both, again and again."""
    world.write("notebooks/h5/census.h5ad", "by 03")
    world.record(world.run("03"))
    world.write("notebooks/h5/census.h5ad", "by 01 and longer")
    world.set_aside(world.run("01"))
    world.write("notebooks/h5/census.h5ad", "by 01, once more")
    world.record(world.run("01"))
    for name in ("01", "03", "01"):
        assert world.set_aside(world.run(name)) == ()
        world.record(world.run(name))


def test_a_file_of_other_parameters_is_not_taken_from_a_sharer_either(world):
    """The plan now says n=9 for 03, whose file is of n=5: it is neither 01's nor 03's."""
    world.write("notebooks/h5/census.h5ad")
    world.plan = with_parameters(world.plan, "03", n=5)
    world.record(world.run("03", n=5))
    assert world.set_aside(world.run("01")) == ()
    world.plan = with_parameters(world.plan, "03", n=9)
    assert len(world.set_aside(world.run("01"))) == 1


def test_a_parameter_of_the_command_line_counts_where_its_name_stands(world):
    """One that another notebook does not know changes nothing of its products."""
    entry = world.plan.notebook("01")
    plain = product_records.identity_now(entry, world.checkout, {})
    assert product_records.identity_now(entry, world.checkout, {"n": 1}) != plain
    assert product_records.identity_now(entry, world.checkout, {"unknown": 1}) == plain
    (world.checkout / entry.path).unlink()
    assert product_records.identity_now(entry, world.checkout, {}) is None


def test_any_parameter_of_yaml_has_an_identity(world):
    """Keys of several kinds, dates and NaN; the order in which they are written does not count."""
    value = yaml.safe_load("{1: a, b: {2: .nan, c: [2026-01-01]}}")
    turned = yaml.safe_load("{b: {c: [2026-01-01], 2: .nan}, 1: a}")
    assert product_records.identity("x", {"n": value}, []) == product_records.identity("x", {"n": turned}, [])
    assert product_records.identity("x", {"n": value}, []) != product_records.identity(
        "x", {"n": {**value, "1": "a"}}, []
    )


def with_parameters(plan, name, **parameters):
    """Return the plan with the parameters of one notebook replaced."""
    changed = [nb.model_copy(update={"parameters": parameters}) if nb.name == name else nb for nb in plan.notebooks]
    return plan.model_copy(update={"notebooks": changed})


def test_folders_count_as_a_whole(world):
    """A zarr with one chunk more, less or newer is another one; it is moved in one piece."""
    patterns = ["notebooks/zarr/a.zarr"]
    world.write("notebooks/zarr/a.zarr/.zgroup")
    chunk = world.write("notebooks/zarr/a.zarr/X/0.0")
    world.record(world.run(), patterns)
    assert world.set_aside(world.run(), patterns) == ()
    chunk.unlink()
    assert world.set_aside(world.run(), patterns) == (".set-aside/01/1/notebooks/zarr/a.zarr",)
    assert (world.checkout / ".set-aside/01/1/notebooks/zarr/a.zarr/.zgroup").exists()


def test_patterns_that_reach_far_do_not_find_what_was_set_aside(world):
    """Nor git's own files; a folder that is matched together with its files is moved once."""
    world.write("notebooks/h5/a.h5ad")
    world.write(".git/a.h5ad")
    assert len(world.set_aside(world.run(), ["**/*.h5ad"])) == 1
    assert world.set_aside(world.run(), ["**/*.h5ad"]) == ()
    world.write("notebooks/out/x/a.h5ad")
    assert world.set_aside(world.run(), ["notebooks/out", "notebooks/out/**/*.h5ad"]) == (
        ".set-aside/01/1/notebooks/out",
    )


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("notebooks", "notebooks"),
        ("notebooks/**", "notebooks"),
        ("notebooks/*", "notebooks/01.ipynb"),
        ("notebooks/03.ipynb", "notebooks/03.ipynb"),
        ("*", "notebooks"),
        ("**/*", "notebooks"),
        (".", "."),
        ("link/0*", "link/01.ipynb"),
    ],
)
def test_a_pattern_that_reaches_a_notebook_is_refused(world, pattern, found):
    """Also one of the plan's other notebooks, through a folder or a link; nothing moves, the pattern is named."""
    kept = world.write("notebooks/h5/a.h5ad")
    (world.checkout / "link").symlink_to("notebooks")
    with pytest.raises(BrokenInputError) as caught:
        world.set_aside(world.run(), [*PATTERNS, pattern])
    assert f"the pattern {pattern!r} matches {found}: the notebook notebooks/0" in str(caught.value)
    assert kept.exists()
    assert not (world.checkout / ".set-aside").exists()


def test_what_a_run_needs_where_it_is_is_refused(world):
    """The plan, the output folder within the checkout, and the link over which a notebook is reached."""
    (world.checkout / "link").symlink_to("notebooks")
    world.write("conf/plan.yaml")
    world.write("outputs/01.running")
    world.write("outputs/made.csv")
    used = {Path("conf/plan.yaml"): "the plan", Path("outputs/01.running"): "the output folder", Path("link/x"): "x"}
    sources = Sources(world.checkout, used)
    for pattern in ("conf", "outputs/*", "link"):
        assert [clash.pattern for clash in products.clashes([pattern], world.checkout, sources)] == [pattern]
    assert list(products.clashes(["outputs/*.csv"], world.checkout, sources)) == []


@pytest.mark.skipif(not shutil.which("git"), reason="no git on PATH")
def test_a_pattern_that_reaches_a_file_of_the_repository_is_refused(world):
    """Its own files stand in git's index; a file beside them is a product."""
    world.write("notebooks/nets/net.parquet")
    world.write("notebooks/made.parquet")
    subprocess.run(["git", "init", "-q"], cwd=world.checkout, check=True)
    subprocess.run(["git", "add", "notebooks/nets"], cwd=world.checkout, check=True)
    message = "'notebooks/n.*' matches notebooks/nets: notebooks/nets/net.parquet, a file of the repository"
    with pytest.raises(BrokenInputError, match=message):
        world.set_aside(world.run(), ["notebooks/n*"])
    assert world.set_aside(world.run(), ["notebooks/*.parquet"]) == (".set-aside/01/1/notebooks/made.parquet",)


LOOK = '{"files": 1, "bytes": 4, "modified_ns": [1]}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"products": 3}',
        '{"notebook": "01"}',
        '{"schema_version": 2, "products": {"notebooks/h5/a.h5ad": [3]}}',
        f'{{"schema_version": 2, "products": {{"notebooks/h5/a.h5ad": [{{"fingerprint": {LOOK}}}]}}}}',
    ],
)
def test_a_damaged_record_vouches_for_nothing(world, text):
    """The product is moved, the run goes on."""
    world.write("notebooks/h5/a.h5ad")
    (world.outputs / ".01.products.json").write_text(text)
    assert len(world.set_aside(world.run())) == 1


def test_completeness_needs_every_pattern(world):
    """Warm is a checkout in which nothing is left to be made."""
    patterns = ["notebooks/h5/a.h5ad", "notebooks/h5/b.h5ad"]
    places = {"checkout": world.checkout, "output_dir": world.outputs, "run": world.run()}
    world.write("notebooks/h5/a.h5ad")
    world.record(world.run(), patterns)
    assert not products.are_complete(patterns, **places)
    world.write("notebooks/h5/b.h5ad")
    assert not products.are_complete(patterns, **places)
    world.record(world.run(), patterns)
    assert products.are_complete(patterns, **places)


@pytest.mark.parametrize(
    ("pattern", "what"), [("b.*", "the notebook b.ipynb"), ("p*.yaml", "the plan"), ("o/*", "the ")]
)
def test_a_run_refuses_products_that_reach_what_it_needs(tmp_path, pattern, what):
    """Broken input before the kernel starts, with pattern and file; everything is where it was."""
    for name in ("a", "b"):
        notebooks.write(tmp_path / f"{name}.ipynb", "1")
    entries = [{"name": "b", "path": "b.ipynb"}, {"name": "a", "path": "a.ipynb", "products": [pattern]}]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"version": 1, "name": "p", "notebooks": entries}))

    ended = cli.runner("run", "a", "--plan", "plan.yaml", "--output-dir", "o", "--no-html", cwd=tmp_path)

    record = cli.metrics(tmp_path / "o", "a")
    assert (ended.code, record["status"]) == (9, "broken-input"), ended.err
    assert f"the pattern {pattern!r} matches " in record["reason"]
    assert f": {what}" in record["reason"]
    assert {path.name for path in tmp_path.iterdir()} == {"a.ipynb", "b.ipynb", "plan.yaml", "o"}


WRITER = """
import sys, time
import h5py, numpy as np
with h5py.File(sys.argv[1], "w") as file:
    for name in ("obs", "var"):
        file.create_group(name)["_index"] = np.arange(3)
    data = file.create_dataset("X", shape=(3, 3))
    file.flush()
    print("half", flush=True)
    if len(sys.argv) > 2:
        time.sleep(600)
    data[:] = 1
"""


def test_a_run_killed_while_it_writes_leaves_nothing_for_the_next(world):
    """The first is killed in the middle of its .h5ad; the second does not take it for data and makes its own."""
    pytest.importorskip("h5py")
    path = world.checkout / "notebooks/h5/out.h5ad"
    first = subprocess.Popen([sys.executable, "-c", WRITER, path, "stop"], stdout=subprocess.PIPE)
    assert first.stdout.readline() == b"half\n"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert path.stat().st_size > 0
    assert len(world.set_aside(world.run())) == 1
    assert not path.exists()
    subprocess.run([sys.executable, "-c", WRITER, path], check=True, stdout=subprocess.DEVNULL)
    world.record(world.run())
    assert world.set_aside(world.run()) == ()


HOLDER = """
import sys, time
from pathlib import Path
from runner.stages.prepare.products import exclusive
checkout, name, warm = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "warm"
with exclusive(["h5/*.h5ad", "zarr"], checkout=checkout, warm=warm, name=name):
    print("in", flush=True)
    sys.stdin.readline()
"""


def holder(world, name, temperature):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLDER, str(world.checkout), name, temperature]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, text=True)


def test_notebooks_that_share_a_file_take_turns_while_it_is_cold(world):
    """The second says for what it waits, and goes on when the first is done or dead."""
    first = holder(world, "01", "cold")
    assert first.stdout.readline() == "in\n"
    second = holder(world, "03", "cold")
    assert "another notebook is making h5/*.h5ad" in second.stderr.readline()
    first.kill()
    assert second.stdout.readline() == "in\n"
    second.communicate("\n")
    first.communicate()


def test_notebooks_that_share_a_warm_file_run_at_once(world):
    """Readers do not wait for readers."""
    both = [holder(world, name, "warm") for name in ("01", "03")]
    assert [child.stdout.readline() for child in both] == ["in\n", "in\n"]
    for child in both:
        child.communicate("\n")
