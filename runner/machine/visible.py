# SPDX-License-Identifier: Apache-2.0
"""GPUs visible to a process: CUDA_VISIBLE_DEVICES, interpreted as by the CUDA driver.

NVML lists every GPU of the machine, CUDA only those in this variable and in its order. Checks and
measurements must cover the notebook's GPUs, so everything is resolved to UUIDs. The rules are those of the
CUDA programming guide, "Environment Variables": reading stops at the first invalid entry, and a duplicate
hides all GPUs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_ORDINAL = re.compile(r"[+-]?\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Identity of a device.

    ``uuid`` begins with ``GPU-`` or ``MIG-``; ``pci`` is (domain, bus, device). ``parent_uuid`` is the GPU of
    a MIG slice; such a GPU has ``mig_mode`` and is not itself a CUDA device.
    """

    uuid: str
    name: str
    index: int | None
    pci: tuple[int, int, int] = (0, 0, 0)
    parent_uuid: str | None = None
    mig_mode: bool = False

    @property
    def mig(self) -> bool:
        """Whether this is a MIG slice."""
        return self.parent_uuid is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Visible:
    """The devices visible to CUDA, in its order, and why others are not."""

    uuids: tuple[str, ...]
    note: str = ""


def resolve(value: str | None, gpus: Sequence[Identity]) -> Visible:
    """Return the UUIDs made visible by a value of CUDA_VISIBLE_DEVICES.

    Parameters
    ----------
    value
        The variable; None if unset.
    gpus
        Every device of the driver: whole GPUs, those in MIG mode, and their slices.

    Notes
    -----
    Numbers count GPUs in the order of their PCI bus IDs, which is CUDA's order too because the kernel
    gets ``CUDA_DEVICE_ORDER=PCI_BUS_ID``. A number or UUID of a GPU in MIG mode selects its first slice.

    Examples
    --------
    >>> pair = [
    ...     Identity(uuid="GPU-aa", name="A", index=0, pci=(0, 9, 0)),
    ...     Identity(uuid="GPU-ab", name="B", index=1, pci=(0, 3, 0)),
    ... ]
    >>> resolve("0", pair).uuids
    ('GPU-ab',)
    >>> resolve("GPU-aa,GPU-a", pair)
    Visible(uuids=('GPU-aa',), note="'GPU-a' matches several GPUs, so CUDA stops there")
    """
    if value is None:
        devices = sorted((gpu for gpu in gpus if not gpu.mig_mode), key=lambda gpu: gpu.pci)
        return Visible(uuids=tuple(gpu.uuid for gpu in devices))
    entries = _entries(value)
    if not entries:
        shown = "is empty" if not value.strip() else f"is {value!r}"
        return Visible(uuids=(), note=f"CUDA_VISIBLE_DEVICES {shown}, which hides every GPU")
    if len(set(entries)) < len(entries):
        return _twice(value)
    find = _by_ordinal if isinstance(entries[0], int) else _by_uuid
    found, note = _until_invalid(entries, lambda entry: find(entry, gpus))
    if len(set(found)) < len(found):
        return _twice(value)
    return Visible(uuids=tuple(found), note=note)


def _entries(value: str) -> list[int] | list[str]:
    """Split the value; the first entry determines whether it lists UUIDs or numbers.

    An entry of the other kind ends the list. Numbers are parsed like C's strtol: ``1st`` is 1.
    """
    parts = [part.strip() for part in value.split(",")]
    for prefix in ("GPU-", "MIG-"):
        if parts[0].startswith(prefix):
            end = next((i for i, part in enumerate(parts) if not part.startswith(prefix)), len(parts))
            return parts[:end]
    ordinals: list[int] = []
    for part in parts:
        match = _ORDINAL.match(part)
        if not match or int(match[0]) < 0:
            break
        ordinals.append(int(match[0]))
    return ordinals


def _until_invalid(
    entries: Sequence[int | str], find: Callable[[int | str], tuple[str | None, str]]
) -> tuple[list[str], str]:
    found: list[str] = []
    for entry in entries:
        uuid, problem = find(entry)
        if uuid is None:
            return found, f"{problem}, so CUDA stops there"
        found.append(uuid)
    return found, ""


def _by_ordinal(entry: int | str, gpus: Sequence[Identity]) -> tuple[str | None, str]:
    whole = sorted((gpu for gpu in gpus if not gpu.mig), key=lambda gpu: gpu.pci)
    if int(entry) >= len(whole):
        return None, f"there is no GPU {entry}, only {len(whole)} in total"
    return _device_of(whole[int(entry)], gpus)


def _by_uuid(entry: int | str, gpus: Sequence[Identity]) -> tuple[str | None, str]:
    exact = [gpu for gpu in gpus if gpu.uuid == entry]
    matches = exact or [gpu for gpu in gpus if gpu.uuid.startswith(str(entry))]
    if len(matches) == 1:
        return _device_of(matches[0], gpus)
    return None, f"{entry!r} matches {'several GPUs' if matches else 'no GPU'}"


def _device_of(gpu: Identity, gpus: Sequence[Identity]) -> tuple[str | None, str]:
    if not gpu.mig_mode:
        return gpu.uuid, ""
    slices = [part.uuid for part in gpus if part.parent_uuid == gpu.uuid]
    return (slices[0], "") if slices else (None, f"{gpu.uuid} is in MIG mode and has no slice")


def _twice(value: str) -> Visible:
    return Visible(uuids=(), note=f"CUDA_VISIBLE_DEVICES={value!r} lists a GPU twice, which hides every GPU")
