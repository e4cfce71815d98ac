# SPDX-License-Identifier: Apache-2.0
"""Datasets and products of a run: serve datasets, set aside old products, record new ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core.records import Change
from runner.core.redact import Redactor
from runner.data.serve import Served, serving
from runner.plan.sharing import shared_with
from runner.plan.sources import Sources
from runner.stages.prepare import product_records, products

if TYPE_CHECKING:
    from runner.plan.job import Job


class Staging:
    """Datasets and products of a notebook during its run.

    Parameters
    ----------
    job
        The notebook's job.
    source_sha256
        Hash of its source, which decides whether existing products are valid.

    Raises
    ------
    BrokenInputError
        A dataset is missing or has changed.
    """

    def __init__(self, job: Job, source_sha256: str) -> None:
        self._job = job
        self._stack = ExitStack()
        self._run = product_records.Run(
            name=job.name,
            source=job.source_label,
            source_sha256=source_sha256,
            identity=product_records.identity(source_sha256, job.parameters, job.rules),
            takes=_shared_identities(job),
        )
        self.reused: Mapping[str, product_records.Fingerprint] = {}
        """Products that were valid before the run, by their path in the checkout."""
        self.served: Served = self._stack.enter_context(
            serving(
                job.plan,
                list(job.datasets),
                cache=job.cache,
                checkout=job.checkout,
                offline=job.options.offline,
                environment={**os.environ, **job.env},
            )
        )

    def set_products_aside(self, sleep: Callable[[float], None]) -> tuple[str, ...]:
        """Move products of unfinished runs and return their paths; wait for notebooks that make the same files."""
        job = self._job
        if job.plan is None or not job.products:
            return ()
        where = {"checkout": job.checkout, "output_dir": job.output_dir}
        warm = products.are_complete(job.products, run=self._run, **where)
        shared = list(shared_with(job.plan, job.entry.name if job.entry else job.name))
        self._stack.enter_context(
            products.exclusive(shared, checkout=job.checkout, warm=warm, name=job.name, sleep=sleep)
        )
        sources = Sources.of(job.plan, job.checkout, _in_use(job))
        judged = products.set_aside(job.products, run=self._run, sources=sources, **where)
        self.reused = judged.reused
        return judged.moved

    def warnings(self) -> tuple[str, ...]:
        """Return warnings about served datasets that the run did not request."""
        unasked = ", ".join(self.served.unasked)
        if not unasked:
            return ()
        why = "it had the file already, or got it from elsewhere"
        return (f"served, but never requested by the notebook: {unasked}; {why}",)

    def record_products(self) -> tuple[str, ...]:
        """Record the products of a successful run."""
        job = self._job
        if not job.products:
            return ()
        return products.record(
            job.products,
            checkout=job.checkout,
            output_dir=job.output_dir,
            run=self._run,
            reused=self.reused,
            redactor=Redactor(job.hidden),
        )

    def changes(self, moved: tuple[str, ...]) -> tuple[Change, ...]:
        """Return the changes to files around the notebook."""
        aside = tuple(Change(rule="product", detail=f"set aside as {path}") for path in moved)
        return (*self.served.changes, *aside)

    def close(self) -> None:
        """Stop serving and release the locks."""
        self._stack.close()


def _shared_identities(job: Job) -> frozenset[str]:
    """Return the current identities of the notebooks that share files with this one."""
    if job.plan is None or job.entry is None:
        return frozenset()
    names = {name for others in shared_with(job.plan, job.entry.name).values() for name in others}
    found = (
        product_records.identity_now(job.plan.notebook(name), job.checkout, job.options.parameters) for name in names
    )
    return frozenset(known for known in found if known)


def _in_use(job: Job) -> dict[Path, str]:
    """Return the paths that a run needs in place, with a description of each."""
    named = {job.cwd: "the working folder", job.path(".running"): "the output folder", job.path(".log"): "the log"}
    if job.options.plan is not None:
        named[job.options.plan.absolute()] = "the plan"
    if job.plan is not None and job.cache is not None:
        named |= {job.cache / data.path: f"the staged dataset {name}" for name, data in job.plan.datasets.items()}
    return named
