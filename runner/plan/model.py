# SPDX-License-Identifier: Apache-2.0
"""The model of a plan: notebooks with their requirements, dependencies and expected results.

`load` reads YAML, or a ConfigMap that contains it, and reports all faults with file, key path and allowed values.
Nothing here accesses a checkout or a machine.
"""

from __future__ import annotations

import dataclasses
import functools
import keyword
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from runner.core.errors import PlanError, UsageError, did_you_mean, did_you_mean_path
from runner.core.files import check_name
from runner.core.requirements import requirements_of
from runner.core.units import duration_seconds, gigabytes, hold_seconds
from runner.plan.faults import FaultyError, error_of, faults_of, graph_faults
from runner.plan.matrix import expanded
from runner.plan.text import read, with_defaults

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.core.requirements import Requirements

SCHEMES = ("http", "https", "s3", "hf", "file")
"""URL schemes of datasets."""


def _validator(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Raise a check's `UsageError` as the `ValueError` that pydantic reports."""

    @functools.wraps(check)
    def checked(value: Any) -> Any:
        try:
            return check(value)
        except UsageError as error:
            raise ValueError(str(error)) from error

    return checked


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not path.strip() or "\0" in path:
        raise ValueError(f"{path!r} leaves the folder; use a relative path without '..'")
    return path


def _pattern(path: str) -> str:
    if any("**" in part and part != "**" for part in PurePosixPath(path).parts):
        raise ValueError(
            f"{path!r} is not a valid pattern; `**` matches folders and must be a path component by itself"
        )
    return path


@_validator
def _seconds(value: Any) -> float:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a valid duration; write it like 90s, 15m, 2h")  # noqa: TRY004
    return duration_seconds(value)


def _gigabytes(value: Any) -> Any:
    return gigabytes(value) if isinstance(value, str) else value


@_validator
def _on_failure(value: str) -> str:
    hold_seconds(value)
    return value


def _text(value: Any) -> Any:
    """Return a number, which YAML reads from an unquoted `1` or `1.5`, as a string."""
    if isinstance(value, bool):
        raise ValueError("is a boolean to YAML; put it in quotes")  # noqa: TRY004
    return str(value) if isinstance(value, int | float) else value


def _variable(name: str) -> str:
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"{name!r} is not a valid variable name")
    return name


def _dataset_url(url: str) -> str:
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES or url != url.strip() or not url.isprintable():
        raise ValueError(
            f"{url!r} is not a valid file URL; it must start with one of {', '.join(f'{s}://' for s in SCHEMES)}"
        )
    return url


def _stageable(path: str) -> str:
    if PurePosixPath(path).parts[:1] in {(), (".staged",)} or path.endswith("/"):
        raise ValueError(f"{path!r} cannot name a staged file; use a file name such as data.h5ad")
    return path


def _versions(text: str) -> str:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        SpecifierSet(text)
    except InvalidSpecifier as error:
        raise ValueError(f"{text!r} is not a valid version range; write it like '>=0.18,<0.19'") from error
    return text


# Input formats, for the schema that editors use; the model holds seconds, GB and strings.
_DURATION = {"type": "string", "pattern": r"^\s*(\d+(\.\d+)?\s*[smhd]\s*)+$", "examples": ["90s", "15m", "1h30m"]}
_SIZE = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string"}], "examples": [24, "22.5GiB"]}
_ENV_VALUE = {"type": ["string", "number"]}

RelativePath = Annotated[str, AfterValidator(_inside)]
PathPattern = Annotated[RelativePath, AfterValidator(_pattern)]
Duration = Annotated[float, BeforeValidator(_seconds), WithJsonSchema(_DURATION)]
Gigabytes = Annotated[float, Field(gt=0), BeforeValidator(_gigabytes), WithJsonSchema(_SIZE)]
OnFailure = Annotated[str, AfterValidator(_on_failure)]
Name = Annotated[str, AfterValidator(_validator(check_name))]
EnvValue = Annotated[str, BeforeValidator(_text), WithJsonSchema(_ENV_VALUE)]
Variable = Annotated[str, AfterValidator(_variable)]
DatasetUrl = Annotated[str, AfterValidator(_dataset_url)]
Environment = dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], EnvValue]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class Requires(_Strict):
    """Resources that the notebook requires."""

    gpus: Annotated[int, Field(ge=0, le=64)] | None = None
    gpu_memory_gb: Gigabytes | None = None
    cpu_fallback: bool = False
    cpus: Annotated[float, Field(gt=0)] | None = None
    memory_gb: Gigabytes | None = None
    disk_gb: Gigabytes | None = None
    shm_gb: Gigabytes | None = None


class DropCells(_Strict):
    """Drop the code cells that contain all of these strings."""

    containing: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    times: Annotated[int, Field(ge=1)] | None = None


class Replace(_Strict):
    """Replace a string in the sources of code cells."""

    find: Annotated[str, Field(min_length=1)]
    with_: Annotated[str, Field(alias="with")]
    times: Annotated[int, Field(ge=1)] = 1


class Insert(_Strict):
    """Insert a code cell before or after the one code cell that contains a string."""

    source: Annotated[str, Field(min_length=1)]
    before: Annotated[str, Field(min_length=1)] | None = None
    after: Annotated[str, Field(min_length=1)] | None = None

    def model_post_init(self, _context: Any) -> None:
        """Check that there is exactly one place."""
        if (self.before is None) == (self.after is None):
            raise ValueError("an insert must have exactly one of before, after")


class Rule(_Strict):
    """One preparation rule, with exactly one of its keys."""

    drop_cells: DropCells | None = None
    replace: Replace | None = None
    insert: Insert | None = None

    def model_post_init(self, _context: Any) -> None:
        """Check that there is exactly one action."""
        if sum(value is not None for value in (self.drop_cells, self.replace, self.insert)) != 1:
            raise ValueError("a rule must have exactly one of drop_cells, replace, insert")


class Expect(_Strict):
    """Expected results of a successful run."""

    files: list[PathPattern] = []
    min_figures: Annotated[int, Field(ge=0)] | None = None
    drift: Literal["off", "warn", "error"] = "warn"


class Place(_Strict):
    """Where a library looks for a dataset whose URL is in no notebook.

    ``path`` is relative to the checkout; in values of ``env``, ``{checkout}`` is replaced by its absolute path.
    """

    path: RelativePath
    env: Environment = {}


class Dataset(_Strict):
    """A file to stage in the cache folder.

    ``hook``: a library builds the URL, which is in no notebook; urllib, requests and httpx in the kernel then try
    the mirror first.
    """

    url: DatasetUrl
    path: Annotated[RelativePath, AfterValidator(_stageable)]
    sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None
    md5: Annotated[str, Field(pattern="^[0-9a-fA-F]{32}$")] | None = None
    bytes: Annotated[int, Field(ge=0)] | None = None
    place: Place | None = None
    hook: bool = False

    @property
    def in_no_source(self) -> bool:
        """Whether the URL need not be in the notebook."""
        return self.hook or self.place is not None


class Notebook(_Strict):
    """One notebook of the plan, with defaults applied."""

    name: Name
    path: RelativePath
    stage: str | None = None
    optional: bool = False
    needs: list[str] = []
    requires: Requires = Requires()
    parameters: dict[Variable, Any] = {}
    matrix: dict[str, list[Any]] | None = None
    """A sweep: each combination of values becomes a notebook, see `runner.plan.matrix`."""
    env: Environment = {}
    prepare: list[Rule] = []
    datasets: list[str] = []
    products: list[PathPattern] = []
    expect: Expect = Expect()
    timeout: Duration | None = None
    cell_timeout: Duration | None = None
    start_timeout: Duration | None = None
    allow_errors: bool | None = None
    on_failure: OnFailure | None = None
    kernel: str | None = None
    cwd: RelativePath | None = None
    resume: Literal["auto", "never"] = "auto"
    retry_larger: bool = False
    """On a cluster, retry once on the next larger card if the GPU ran out of memory."""

    def model_post_init(self, _context: Any) -> None:
        """Check that the first card is known."""
        if self.retry_larger and (self.requires.gpu_memory_gb is None or self.requires.cpu_fallback):
            raise ValueError(
                "retry_larger needs requires.gpu_memory_gb, the card of the first try, and no cpu_fallback"
            )


class Plan(_Strict):
    """A whole plan."""

    version: Literal[1]
    name: Name
    defaults: dict[str, Any] = {}
    fits: dict[str, Annotated[str, AfterValidator(_versions)]] = {}
    """Package versions that the notebooks and rules were written for; `validate` checks the installed ones."""
    notebooks: Annotated[list[Notebook], Field(min_length=1)]
    datasets: dict[str, Dataset] = {}

    def notebook(self, name: str) -> Notebook:
        """Return a notebook by its name.

        Raises
        ------
        PlanError
            It does not exist; the message lists the names and suggests the nearest one.
        """
        for notebook in self.notebooks:
            if notebook.name == name:
                return notebook
        names = [notebook.name for notebook in self.notebooks]
        hint = f"{did_you_mean(name, names)}it has {', '.join(names)}"
        raise PlanError(f"the plan {self.name!r} has no notebook {name!r}", hint=hint)


def requirements(requires: Requires, free_fraction: float = 0.95) -> Requirements:
    """Return the requirements of a notebook in a plan."""
    return dataclasses.replace(
        requirements_of(requires.gpus, requires.gpu_memory_gb, free_fraction),
        cpu_fallback=requires.cpu_fallback,
        cpus=requires.cpus,
        memory_gb=requires.memory_gb,
        disk_gb=requires.disk_gb,
        shm_gb=requires.shm_gb,
    )


def load(path: Path) -> Plan:
    """Read and check a plan.

    Parameters
    ----------
    path
        YAML of a plan, or of a ConfigMap with a plan under ``data["plan.yaml"]``.

    Raises
    ------
    PlanError
        Unreadable, unknown keys or needs, cycles, invalid paths or units.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        hint = f"{did_you_mean_path(path)}give the path of a YAML file"
        raise PlanError(f"cannot read the plan {path}: {why}", hint=hint) from error
    return parse(text, str(path))


def is_config_map(path: Path) -> bool:
    """Return True if the file is a ConfigMap; paths are then relative to the current folder."""
    from runner.core import safe_yaml

    document = safe_yaml.load(path.read_text(encoding="utf-8"))
    return isinstance(document, dict) and document.get("kind") == "ConfigMap"


def parse(text: str, where: str) -> Plan:
    """Parse and check the text of a plan; ``where`` names its file in messages.

    Raises
    ------
    PlanError
        It is invalid; the message has one line per fault.
    """
    written = read(text, where)
    origins: list[int] = []
    try:
        document = with_defaults(written.document)
        if isinstance(document.get("notebooks"), list):
            notebooks, origins = expanded(document["notebooks"])
            document = {**document, "notebooks": notebooks}
        plan = Plan.model_validate(document)
    except FaultyError as error:
        raise error_of([error.fault], written) from error
    except ValidationError as error:
        raise error_of(faults_of(error), written, origins) from error
    faults = graph_faults(plan)
    if faults:
        raise error_of(faults, written, origins)
    return plan
