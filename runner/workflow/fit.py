# SPDX-License-Identifier: Apache-2.0
"""Smallest card on which a notebook runs, found by running it with the memory of smaller cards."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from runner.core import log
from runner.core.endings import final_success
from runner.core.errors import RefusedError, UsageError
from runner.core.records import Cause, Metrics, Status
from runner.core.trials import FIT, Attempt, Fit, keep
from runner.core.units import format_bytes
from runner.machine.ballast import TOLERANCE_BYTES, Ballast
from runner.machine.card_size import CARDS_GB
from runner.run.trial import run_trial, scratch

if TYPE_CHECKING:
    from runner.machine.gpus import Gpu
    from runner.plan.job import Options


def bisect(cards: Sequence[int], runs: int, attempt: Callable[[int], Attempt]) -> tuple[Attempt, ...]:
    """Find the smallest sufficient card by bisection, with a limit on the number of runs."""
    found: list[Attempt] = []
    low, high = 0, len(cards)
    while low < high and len(found) < runs:
        middle = (low + high) // 2
        found.append(attempt(cards[middle]))
        low, high = (low, middle) if found[-1].fits else (middle + 1, high)
    return tuple(found)


def fit(options: Options, *, cards: Sequence[int], runs: int) -> Fit:
    """Run a notebook with the memory of smaller cards, and store the result.

    Parameters
    ----------
    cards
        Sizes in decimal GB; if empty, all common sizes that this GPU can emulate.

    Raises
    ------
    RefusedError
        There is no GPU, or it is smaller than all cards.
    UsageError
        The notebook fails for another reason than memory.
    """
    from runner.machine.gpus import open_driver
    from runner.plan.job import resolve

    job = resolve(options)
    if (job.asked.gpus or 1) > 1:
        raise UsageError(f"{job.name} requires {job.asked.gpus} GPUs", hint="fit supports notebooks with one GPU")
    with open_driver() as driver:
        gpu = _largest([one for one in driver.visible(os.environ) if not one.mig])
        free = gpu.memory().free_bytes or 0
        sizes = {card: _available_bytes(card, options) for card in sorted(set(cards or CARDS_GB))}
        possible = [card for card, size in sizes.items() if size + TOLERANCE_BYTES < free]
        if not possible:
            raise RefusedError(
                f"GPU {gpu.index} has {format_bytes(free)} free, not enough to emulate "
                f"{', '.join(map(str, cards)) or 'any'} GB",
                hint="free it, or give smaller --cards",
            )
        for card in sorted(set(cards) - set(possible)):
            log.warning("fit", card_gb=card, reason=f"skipped: GPU {gpu.index} has {format_bytes(free)} free")

        records: list[Metrics] = []

        def attempt(card_gb: int) -> Attempt:
            with Ballast(gpu, sizes[card_gb]), _only_visible(gpu), scratch(job) as trial:
                log.info("fit", nb=job.name, card_gb=card_gb, left=format_bytes(sizes[card_gb]))
                needed = dataclasses.replace(trial, min_gpus=1, min_gpu_memory_gb=card_gb)
                records.append(run_trial(needed))
                return judged(card_gb, sizes[card_gb], records[-1])

        full = final_success(job.path(".metrics.json"))
        found = Fit(
            notebook=job.name,
            gpu=gpu.name,
            attempts=bisect(possible, runs, attempt),
            full_seconds=full.wall_seconds if full else None,
            source_sha256=records[0].source.sha256,
            parameters=records[0].environment.parameters,
        )
        keep(job.path(FIT), found)
        return found


def _available_bytes(card_gb: int, options: Options) -> int:
    """Return the memory that a card of this size has for a notebook, as required by the gate."""
    return int(card_gb * 1e9 * options.gpu_free_fraction) + TOLERANCE_BYTES


def _largest(gpus: Sequence[Gpu]) -> Gpu:
    if not gpus:
        raise RefusedError(
            "no full GPU is visible", hint="check CUDA_VISIBLE_DEVICES; MIG slices cannot be used for fit"
        )
    return max(gpus, key=lambda gpu: gpu.memory().free_bytes or 0)


def judged(card_gb: int, left_bytes: int, metrics: Metrics) -> Attempt:
    """Return the result of a run for a card.

    Raises
    ------
    UsageError
        It failed for another reason than memory.
    """
    failure = metrics.failure
    short = failure.device_memory if failure else None
    if metrics.status is not Status.SUCCEEDED and (failure is None or failure.cause is not Cause.DEVICE_MEMORY):
        raise UsageError(
            f"{metrics.notebook} ended {metrics.status.value} with {card_gb} GB, but not for lack of GPU memory: "
            f"{metrics.reason}",
            hint="make it succeed with `runner run` first",
        )
    return Attempt(
        card_gb=card_gb,
        left_bytes=left_bytes,
        status=metrics.status.value,
        wall_seconds=metrics.wall_seconds,
        need_bytes=max((gpu.need_bytes for gpu in metrics.gpus if gpu.need_bytes is not None), default=None),
        cell=failure.cell_index + 1 if failure and failure.cell_index is not None else None,
        asked_bytes=short.asked_bytes if short else None,
        reason=metrics.reason,
    )


@contextlib.contextmanager
def _only_visible(gpu: Gpu) -> Iterator[None]:
    """Make only this GPU visible."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu.uuid
    try:
        yield
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES")
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
