# SPDX-License-Identifier: Apache-2.0
"""The visible GPUs are those that CUDA would show."""

from __future__ import annotations

import pytest

from runner.machine.visible import Identity, resolve

# NVML's order differs from that of the PCI bus: CUDA's 0 is GPU-bb.
AA = Identity(uuid="GPU-aa11", name="A", index=0, pci=(0, 0x3B, 0))
BB = Identity(uuid="GPU-bb11", name="B", index=1, pci=(0, 0x1B, 0))
BC = Identity(uuid="GPU-bc22", name="C", index=2, pci=(1, 0x01, 0))
THREE = (AA, BB, BC)

CUT = Identity(uuid="GPU-cc00", name="A100", index=1, pci=(0, 0x5B, 0), mig_mode=True)
FIRST = Identity(uuid="MIG-1111", name="1g", index=1, pci=CUT.pci, parent_uuid=CUT.uuid)
SECOND = Identity(uuid="MIG-2222", name="1g", index=1, pci=CUT.pci, parent_uuid=CUT.uuid)
MIXED = (AA, CUT, FIRST, SECOND)


@pytest.mark.parametrize(
    ("value", "uuids"),
    [
        (None, ["GPU-bb11", "GPU-aa11", "GPU-bc22"]),
        ("0", ["GPU-bb11"]),
        ("2,0", ["GPU-bc22", "GPU-bb11"]),
        (" 1 , 2 ", ["GPU-aa11", "GPU-bc22"]),
        ("1st,2nd", ["GPU-aa11", "GPU-bc22"]),
        ("+1", ["GPU-aa11"]),
        ("0,2,-1,1", ["GPU-bb11", "GPU-bc22"]),
        ("0,7,1", ["GPU-bb11"]),
        ("7", []),
        ("0,,1", ["GPU-bb11"]),
        ("", []),
        ("   ", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("none", []),
        ("0,0", []),
        ("0,1,0", []),
        ("GPU-aa11", ["GPU-aa11"]),
        ("GPU-bc,GPU-a", ["GPU-bc22", "GPU-aa11"]),
        ("GPU-aa,GPU-b,GPU-bc", ["GPU-aa11"]),
        ("GPU-", []),
        ("GPU-zz,GPU-aa", []),
        ("GPU-aa,GPU-aa11", []),
        ("GPU-aa,GPU-aa", []),
        ("GPU-aa,0", ["GPU-aa11"]),
        ("0,GPU-aa", ["GPU-bb11"]),
        ("gpu-aa11", []),
        ("aa11", []),
    ],
)
def test_a_value_shows_what_cuda_shows(value, uuids):
    """Numbers follow the PCI bus, UUIDs may be short, reading stops at the first that is invalid."""
    assert list(resolve(value, THREE).uuids) == uuids


@pytest.mark.parametrize(
    ("value", "uuids"),
    [
        (None, ["GPU-aa11", "MIG-1111", "MIG-2222"]),
        ("MIG-2222", ["MIG-2222"]),
        ("MIG-2", ["MIG-2222"]),
        ("MIG-", []),
        ("MIG-3", []),
        ("0", ["GPU-aa11"]),
        ("1", ["MIG-1111"]),
        ("GPU-cc", ["MIG-1111"]),
        ("2", []),
    ],
)
def test_a_gpu_in_mig_mode_stands_for_its_first_slice(value, uuids):
    """A GPU in MIG mode is no CUDA device; its slices are, and its number means the first."""
    assert list(resolve(value, MIXED).uuids) == uuids


def test_a_gpu_in_mig_mode_without_slices_is_no_device():
    """A GPU whose slices are not ours is not visible, and the note says why."""
    shown = resolve("1", (AA, CUT))
    assert shown.uuids == ()
    assert "MIG mode" in shown.note
    assert resolve(None, (AA, CUT)).uuids == ("GPU-aa11",)


@pytest.mark.parametrize(
    ("value", "note"),
    [
        ("", "is empty"),
        ("-1", "hides every GPU"),
        ("0,9", "no GPU 9, only 3"),
        ("GPU-b", "several"),
        ("GPU-zz", "no GPU"),
        ("0,0", "twice"),
    ],
)
def test_the_note_says_why_there_are_no_more(value, note):
    """Whoever misses a GPU is told which part of the variable hid it."""
    assert note in resolve(value, THREE).note


def test_an_exact_uuid_wins_over_a_longer_one():
    """A whole UUID that is also the beginning of another one names its own GPU."""
    longer = Identity(uuid="GPU-aa1199", name="L", index=3, pci=(0, 0x7B, 0))
    assert resolve("GPU-aa11", (AA, longer)).uuids == ("GPU-aa11",)


def test_without_gpus_nothing_is_visible():
    """No value makes a GPU out of nothing."""
    for value in (None, "", "0", "GPU-aa"):
        assert resolve(value, ()).uuids == ()
