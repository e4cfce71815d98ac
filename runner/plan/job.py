# SPDX-License-Identifier: Apache-2.0
"""The job of one `runner run`: options override the plan, which overrides the defaults.

Nothing is read from the machine here.
"""

from __future__ import annotations

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
"""Links to the newest report of an output folder."""
START_SECONDS = 120.0
"""Default time limit for the start of a kernel."""
_FILLED_LENGTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of `runner run`; None means not given."""

    notebook: str
    source_label: str | None = None
    """The notebook as given by the user, if that was not a file."""
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
    """One notebook to run, with all settings resolved."""

    name: str
    source: Path
    source_label: str
    """The source as given in the plan or by the user."""
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
    """How long a failed notebook waits for its repair; 0: not at all."""
    kernel: str | None
    env: Mapping[str, str]
    secrets: Mapping[str, Sequence[str]]
    parameters: Mapping[str, Any]
    run_id: str
    hidden: Sequence[str]
    """Values to redact: those of the secret variables and of a mounted Secret."""
    lone: bool
    """Not part of the run of a plan, so a success of any run satisfies its needs."""
    plan: Plan | None = None
    entry: Notebook | None = None

    def path(self, suffix: str) -> Path:
        """Return the path of one of the run's files, such as ``.metrics.json``."""
        return self.output_dir / f"{self.name}{suffix}"

    @property
    def standalone(self) -> bool:
        """Whether only the caller needs a record: no plan, no run of a plan, no Tekton results."""
        return self.plan is None and self.options.run_id is None and self.options.results_dir is None

    @property
    def rules(self) -> Sequence[Rule]:
        """Preparation rules."""
        return self.entry.prepare if self.entry else ()

    @property
    def needs(self) -> Sequence[str]:
        """Notebooks that must have succeeded."""
        return self.entry.needs if self.entry else ()

    @property
    def products(self) -> Sequence[str]:
        """Patterns of the files that the notebook writes in the checkout."""
        return self.entry.products if self.entry else ()

    @property
    def datasets(self) -> Mapping[str, Dataset]:
        """Datasets the notebook reads, by name."""
        if self.plan is None or self.entry is None:
            return {}
        return {name: self.plan.datasets[name] for name in self.entry.datasets}

    @property
    def expect(self) -> Expect | None:
        """Expected results."""
        return self.entry.expect if self.entry else None

    @property
    def earlier(self) -> Sequence[str]:
        """Names of the preceding notebooks in the plan."""
        if self.plan is None or self.entry is None:
            return ()
        names = [notebook.name for notebook in self.plan.notebooks]
        return names[: names.index(self.entry.name)]


def resolve(options: Options, environ: Mapping[str, str] | None = None) -> Job:
    """Return the job for these options.

    Raises
    ------
    UsageError
        A name, plan, secret or number is invalid.
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
            "--allow-errors and --on-failure hold are mutually exclusive: one continues after a failed cell, one waits",
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
        asked=_requirements(options, entry),
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
    """Return a name or folder with each ``{parameter}`` replaced by its value."""

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
    import uuid  # imports `platform`; the gate, which must start fast, needs neither

    return str(uuid.uuid4())


def checkout_of(plan: Path | None, checkout: Path | None) -> Path:
    """Return the base folder of a plan's paths: as given, else the plan's folder, else the current one."""
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
        plan = plans.load(options.plan)  # raises with a message
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
    """Return the option, else the plan's value, else the notebook's folder, as in Jupyter."""
    if options.cwd is not None:
        return options.cwd.absolute()
    if entry is not None and entry.cwd is not None:
        return checkout / entry.cwd
    return source.parent


def _requirements(options: Options, entry: Notebook | None) -> Requirements:
    if entry is None:
        return requirements_of(options.min_gpus, options.min_gpu_memory_gb, options.gpu_free_fraction)
    from runner.plan.model import requirements

    options_given = {"gpus": options.min_gpus, "gpu_memory_gb": options.min_gpu_memory_gb}
    overrides: dict[str, Any] = {key: value for key, value in options_given.items() if value is not None}
    if overrides:  # an option is strict, whatever the plan allows
        overrides["cpu_fallback"] = False
    return requirements(entry.requires.model_copy(update=overrides), options.gpu_free_fraction)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
