# SPDX-License-Identifier: Apache-2.0
"""The files around one run: datasets served to it, products of earlier runs judged, its own recorded."""

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
    """Datasets and products of one notebook, for the time of its run.

    Parameters
    ----------
    job
        Which notebook.
    source_sha256
        Its source, to tell whose products are still good.

    Raises
    ------
    BrokenInputError
        A dataset is missing or not what it was.
    """

    def __init__(self, job: Job, source_sha256: str) -> None:
        self._job = job
        self._stack = ExitStack()
        self._run = product_records.Run(
            name=job.name,
            source=job.source_label,
            source_sha256=source_sha256,
            identity=product_records.identity(source_sha256, job.parameters, job.rules),
            takes=_identities_of_sharers(job),
        )
        self.standing: Mapping[str, product_records.Fingerprint] = {}
        """Products that were there and good before the run, by their path in the checkout."""
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
        """Move what an unfinished run left, waiting for whoever is making the same files; return what moved."""
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
        self.standing = judged.standing
        return judged.moved

    def warnings(self) -> tuple[str, ...]:
        """Return what a run that came to its end did not do with its data."""
        unasked = ", ".join(self.served.unasked)
        if not unasked:
            return ()
        why = "it had the file already, or took it from somewhere else"
        return (f"served, but the notebook never asked for it: {unasked}; {why}",)

    def record_products(self) -> tuple[str, ...]:
        """Record what the successful run made."""
        job = self._job
        if not job.products:
            return ()
        return products.record(
            job.products,
            checkout=job.checkout,
            output_dir=job.output_dir,
            run=self._run,
            standing=self.standing,
            redactor=Redactor(job.hidden),
        )

    def changes(self, moved: tuple[str, ...]) -> tuple[Change, ...]:
        """Return what was done around the notebook."""
        aside = tuple(Change(rule="product", detail=f"set aside as {path}") for path in moved)
        return (*self.served.changes, *aside)

    def close(self) -> None:
        """Stop serving and free the locks."""
        self._stack.close()


def _identities_of_sharers(job: Job) -> frozenset[str]:
    """Return what the notebooks that share files with this one would make them from now."""
    if job.plan is None or job.entry is None:
        return frozenset()
    names = {name for others in shared_with(job.plan, job.entry.name).values() for name in others}
    found = (
        product_records.identity_now(job.plan.notebook(name), job.checkout, job.options.parameters) for name in names
    )
    return frozenset(known for known in found if known)


def _in_use(job: Job) -> dict[Path, str]:
    """Return the paths that a run needs where they are, and what each is."""
    named = {job.cwd: "the working folder", job.path(".running"): "the output folder", job.path(".log"): "the log"}
    if job.options.plan is not None:
        named[job.options.plan.absolute()] = "the plan"
    if job.plan is not None and job.cache is not None:
        named |= {job.cache / data.path: f"the staged dataset {name}" for name, data in job.plan.datasets.items()}
    return named
