# SPDX-License-Identifier: Apache-2.0
"""What one `runner run` is to do: options over plan over defaults, resolved once.

A `Job` holds decisions only; nothing is read from the machine here.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runner.core import files
from runner.core.errors import UsageError, did_you_mean
from runner.core.redact import read_secrets, values_in
from runner.core.requirements import requirements_of
from runner.core.units import hold_seconds
from runner.plan.matrix import PLACEHOLDER

if TYPE_CHECKING:
    from runner.core.requirements import Requirements
    from runner.plan.model import Dataset, Expect, Notebook, Plan, Rule

EXECUTED_SUFFIX = ".executed.ipynb"
INDEX_FILE = "index.html"
"""In an output folder: the way to its newest report."""
START_SECONDS = 120.0
"""How long a kernel may take to answer."""
_FILLED_LENGTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of `runner run`; None means not given."""

    notebook: str
    source_label: str | None = None
    """What the user named, where that was not a file."""
    plan: Path | None = None
    checkout: Path | None = None
    name: str | None = None
    output_dir: Path = Path("outputs")
    cache: Path | None = None
    min_gpus: int | None = None
    min_gpu_memory_gb: float | None = None
    gpu_free_fraction: float = 0.95
    gpu_visibility: Literal["chosen", "all"] = "chosen"
    wait: float = 0.0
    timeout: float | None = None
    cell_timeout: float | None = None
    start_timeout: float | None = None
    allow_errors: bool | None = None
    on_failure: str | None = None
    report_mode: bool = False
    memory_guard: float = 0.97
    optional: bool | None = None
    skip_optional_notebooks: bool = True
    continue_on_failure: bool = True
    cleanup_between_notebooks: bool = True
    strict_release: bool = False
    kernel: str | None = None
    cwd: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Sequence[str] = ()
    secrets_dir: Path | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    run_id: str | None = None
    any_run: bool = False
    retry_count: int = 0
    resume: bool = False
    accept_repaired: bool = False
    rerun: bool = False
    twice: bool = False
    results_dir: Path | None = None
    prepare_only: bool = False
    trust_html: bool = False
    interactive: bool = False
    html: bool = True
    offline: bool = False
    allocator_probe: Literal["off", "on", "exact"] = "on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One notebook to run, with everything decided."""

    name: str
    source: Path
    source_label: str
    """The source as the plan or the user named it."""
    checkout: Path
    cwd: Path
    output_dir: Path
    cache: Path | None
    asked: Requirements
    options: Options
    optional: bool
    notebook_seconds: float | None
    cell_seconds: float | None
    start_seconds: float
    allow_errors: bool
    hold_seconds: float
    """How long a failed notebook waits for its repair; 0 ends it at once."""
    kernel: str | None
    env: Mapping[str, str]
    secrets: Mapping[str, Sequence[str]]
    parameters: Mapping[str, Any]
    run_id: str
    hidden: Sequence[str]
    """Values that no file may hold: those of the secrets, and of a mounted folder of them."""
    lone: bool
    """Not part of the run of a plan, so needs are met by a success of any run."""
    plan: Plan | None = None
    entry: Notebook | None = None

    def path(self, suffix: str) -> Path:
        """Return the path of one of the run's files, such as ``.metrics.json``."""
        return self.output_dir / f"{self.name}{suffix}"

    @property
    def standalone(self) -> bool:
        """Whether nobody but the caller waits for a record: no plan, no run of a plan, no Tekton results."""
        return self.plan is None and self.options.run_id is None and self.options.results_dir is None

    @property
    def rules(self) -> Sequence[Rule]:
        """Rules of preparation."""
        return self.entry.prepare if self.entry else ()

    @property
    def needs(self) -> Sequence[str]:
        """Notebooks that must have succeeded."""
        return self.entry.needs if self.entry else ()

    @property
    def products(self) -> Sequence[str]:
        """Patterns of files the notebook makes in the checkout."""
        return self.entry.products if self.entry else ()

    @property
    def datasets(self) -> Mapping[str, Dataset]:
        """Datasets the notebook reads, by name."""
        if self.plan is None or self.entry is None:
            return {}
        return {name: self.plan.datasets[name] for name in self.entry.datasets}

    @property
    def expect(self) -> Expect | None:
        """What a success leaves."""
        return self.entry.expect if self.entry else None

    @property
    def earlier(self) -> Sequence[str]:
        """Names that stand before this one in the plan."""
        if self.plan is None or self.entry is None:
            return ()
        names = [notebook.name for notebook in self.plan.notebooks]
        return names[: names.index(self.entry.name)]


def resolve(options: Options, environ: Mapping[str, str] | None = None) -> Job:
    """Return the job that these options ask for.

    Raises
    ------
    UsageError
        A name, plan, secret or number that cannot work.
    """
    environ = os.environ if environ is None else environ
    plan, entry = _from_plan(options)
    checkout = checkout_of(options.plan, options.checkout)
    source = _source(options, entry, checkout)
    parameters = {**(entry.parameters if entry else {}), **options.parameters}
    allow_errors = _first(options.allow_errors, entry.allow_errors if entry else None) or False
    held = hold_seconds(_first(options.on_failure, entry.on_failure if entry else None, "end"))
    if allow_errors and held:
        raise UsageError(
            "--allow-errors and --on-failure hold exclude each other: one runs on after a cell that raised, one stops",
            hint="choose one: --no-allow-errors or --on-failure end",
        )
    name = files.check_name(_filled(options.name or (entry.name if entry else source.stem), parameters, "--name"))
    env = {**(entry.env if entry else {}), **options.env}
    secrets = read_secrets(options.secret_env, (environ, env))
    return Job(
        name=name,
        source=source,
        source_label=entry.path if entry else options.source_label or options.notebook,
        checkout=checkout if entry else source.parent,
        cwd=_cwd(options, entry, checkout, source),
        output_dir=Path(_filled(str(options.output_dir), parameters, "--output-dir")).absolute(),
        cache=options.cache.absolute() if options.cache else None,
        asked=_asked(options, entry),
        options=options,
        optional=_first(options.optional, entry.optional if entry else None) or False,
        notebook_seconds=_first(options.timeout, entry.timeout if entry else None),
        cell_seconds=_first(options.cell_timeout, entry.cell_timeout if entry else None),
        start_seconds=_first(options.start_timeout, entry.start_timeout if entry else None, START_SECONDS),
        allow_errors=allow_errors,
        hold_seconds=held,
        kernel=options.kernel or (entry.kernel if entry else None),
        env=env,
        secrets=secrets,
        hidden=(*(value for values in secrets.values() for value in values), *values_in(options.secrets_dir)),
        parameters=parameters,
        run_id=options.run_id or _new_run_id(),
        lone=options.run_id is None or options.any_run,
        plan=plan,
        entry=entry,
    )


def _filled(template: str, parameters: Mapping[str, Any], option: str) -> str:
    """Return a name or folder with the value of a parameter for each ``{parameter}``."""

    def value(match: re.Match[str]) -> str:
        key = match[1]
        if key not in parameters:
            known = ", ".join(parameters) or "none is set"
            hint = f"{did_you_mean(key, list(parameters))}parameters of this run: {known}"
            raise UsageError(f"{option} {template!r}: no parameter {key!r}", hint=hint)
        text = str(parameters[key])
        if not text.strip() or text in {".", ".."} or set(text) & {"/", "\0", "\n"} or len(text) > _FILLED_LENGTH:
            raise UsageError(
                f"{option} {template!r}: {key} = {text[:80]!r} cannot be part of a file name",
                hint=f"use a parameter without slashes, of at most {_FILLED_LENGTH} characters",
            )
        return text

    return PLACEHOLDER.sub(value, template)


def _new_run_id() -> str:
    import uuid  # brings `platform`; the gate, which starts cold, needs neither

    return str(uuid.uuid4())


def checkout_of(plan: Path | None, checkout: Path | None) -> Path:
    """Return the folder that a plan's paths start from: given, else the plan's, else the current one."""
    if checkout is not None:
        return checkout.absolute()
    if plan is None:
        return Path.cwd()
    from runner.plan.model import is_config_map

    return Path.cwd() if is_config_map(plan) else plan.absolute().parent


@functools.lru_cache(maxsize=1)
def _loaded(path: Path, _modified_ns: int, _size: int) -> Plan:
    """Load a plan once for all of its notebooks."""
    from runner.plan import model as plans

    return plans.load(path)


def _from_plan(options: Options) -> tuple[Plan | None, Notebook | None]:
    if options.plan is None:
        return None, None
    from runner.plan import model as plans

    try:
        status = options.plan.stat()
    except OSError:
        plan = plans.load(options.plan)  # which says what is wrong
    else:
        plan = _loaded(options.plan, status.st_mtime_ns, status.st_size)
    return plan, plan.notebook(options.notebook)


def _source(options: Options, entry: Notebook | None, checkout: Path) -> Path:
    if entry is not None:
        return checkout / entry.path
    if not options.notebook:
        raise UsageError("no notebook given", hint="give a path, or a name with --plan")
    return Path(options.notebook).absolute()


def _cwd(options: Options, entry: Notebook | None, checkout: Path, source: Path) -> Path:
    """Option, else plan, else the notebook's own folder, as Jupyter does."""
    if options.cwd is not None:
        return options.cwd.absolute()
    if entry is not None and entry.cwd is not None:
        return checkout / entry.cwd
    return source.parent


def _asked(options: Options, entry: Notebook | None) -> Requirements:
    requires = entry.requires if entry else None
    demanded = options.min_gpus is not None or options.min_gpu_memory_gb is not None  # not a wish of the plan's
    return dataclasses.replace(
        requirements_of(
            _first(options.min_gpus, requires.gpus if requires else None),
            _first(options.min_gpu_memory_gb, requires.gpu_memory_gb if requires else None),
            options.gpu_free_fraction,
        ),
        cpu_fallback=bool(requires and requires.cpu_fallback and not demanded),
        cpus=requires.cpus if requires else None,
        memory_gb=requires.memory_gb if requires else None,
        disk_gb=requires.disk_gb if requires else None,
        shm_gb=requires.shm_gb if requires else None,
    )


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
