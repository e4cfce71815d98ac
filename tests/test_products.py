# SPDX-License-Identifier: Apache-2.0
"""A half-written file of yesterday never passes for data."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runner.errors import BrokenInputError
from runner.notebook import products
from runner.plan import Rule

PATTERNS = ["notebooks/h5/*.h5ad"]


@pytest.fixture
def world(tmp_path):
    """Give a checkout with two notebooks and an output folder."""
    return World(tmp_path)


class World:
    def __init__(self, folder: Path) -> None:
        self.checkout, self.outputs = folder / "checkout", folder / "outputs"
        (self.checkout / "notebooks" / "h5").mkdir(parents=True)
        self.outputs.mkdir()
        for name in ("01", "03"):
            (self.checkout / "notebooks" / f"{name}.ipynb").write_text(name)

    def run(self, name="01", **parameters) -> products.Run:
        source = f"notebooks/{name}.ipynb"
        digest = hashlib.sha256((self.checkout / source).read_bytes()).hexdigest()
        identity = products.identity(digest, parameters, [])
        return products.Run(name=name, source=source, source_sha256=digest, identity=identity)

    def write(self, path: str, content: str = "data") -> Path:
        target = self.checkout / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
        return target

    def set_aside(self, run, patterns=PATTERNS):
        return products.set_aside(patterns, checkout=self.checkout, output_dir=self.outputs, run=run)

    def record(self, run, patterns=PATTERNS):
        return products.record(patterns, checkout=self.checkout, output_dir=self.outputs, run=run)


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
    assert products.identity("x", {}, []) != products.identity("x", {}, [rule])


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


def test_the_notebook_is_no_product(world):
    """A pattern that wide is refused before anything moves."""
    world.write("notebooks/h5/a.h5ad")
    with pytest.raises(BrokenInputError, match=r"include the notebook notebooks/01\.ipynb itself"):
        world.set_aside(world.run(), ["notebooks/h5/*", "notebooks/*.ipynb"])
    assert (world.checkout / "notebooks/h5/a.h5ad").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"products": 3}', '{"notebook": "01"}'])
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
from runner.notebook.products import exclusive
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
