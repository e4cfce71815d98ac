# SPDX-License-Identifier: Apache-2.0
"""`ro-crate-metadata.json`: the output folder as a Workflow Run RO-Crate.

Provenance in the vocabulary of schema.org: notebooks, inputs, software, times, and output files with their hashes.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from runner import __version__
from runner.core.hash_cache import sha256_of
from runner.core.records import Source, Status

if TYPE_CHECKING:
    from pathlib import Path

    from rocrate.model.entity import Entity
    from rocrate.rocrate import ROCrate

    from runner.core.records import Metrics
    from runner.plan.model import Plan
    from runner.report.assemble import Entry, Report

VERSION = "1.1"
"""Version of RO-Crate, on which the run profiles 0.5 are based."""
_PROFILES = {
    "process": ("https://w3id.org/ro/wfrun/process/0.5", "Process Run Crate", "0.5"),
    "workflow": ("https://w3id.org/ro/wfrun/workflow/0.5", "Workflow Run Crate", "0.5"),
    "crate": ("https://w3id.org/workflowhub/workflow-ro-crate/1.0", "Workflow RO-Crate", "1.0"),
}
_MEDIA = {
    "notebook": "application/x-ipynb+json",
    "html": "text/html",
    "log": "text/plain",
    "samples": "text/csv",
    "metrics": "application/json",
}
PLAN_FILE = "reports/plan.json"
_TERMS = {term: f"https://w3id.org/ro/terms/workflow-run#{term}" for term in ("environment", "sha256")}
"""Terms of the run profiles that are not in RO-Crate, so that a crate must define them."""


def crate_json(report: Report, folder: Path, reports: list[str], plan: Plan | None) -> str:
    """Return the metadata of the folder.

    Parameters
    ----------
    folder
        The output folder; its files are hashed.
    reports
        Files of the report, relative to the folder.
    plan
        The plan, which is `reports/plan.json` in the folder.
    """
    from rocrate.rocrate import ROCrate

    crate = ROCrate(version=VERSION)
    crate.metadata.extra_terms = _TERMS
    crate.name = f"Run of {report.plan_name or 'notebooks'}"
    crate.description = f"{report.counts.get('succeeded', 0)} of {len(report.entries)} notebooks succeeded"
    crate.datePublished = report.generated_at
    crate.root_dataset["license"] = _entity(
        crate,
        "#license",
        "CreativeWork",
        name="Not stated",
        description="No license was stated for this run.",
    )
    crate.root_dataset["conformsTo"] = _single(
        [
            _entity(crate, url, "CreativeWork", name=title, version=version)
            for name, (url, title, version) in _PROFILES.items()
            if plan or name == "process"
        ]
    )
    software = "rapids-notebook-runner"
    engine = _entity(crate, f"#{software}", "SoftwareApplication", name=software, softwareVersion=__version__)
    planned = {notebook.name: notebook.path for notebook in plan.notebooks} if plan else {}
    sources = {
        entry.name: _source(crate, entry.anchor, m.source if (m := entry.metrics) else Source(path=planned[entry.name]))
        for entry in report.entries
        if entry.metrics or entry.name in planned
    }
    parts = [source for name, source in sources.items() if name in planned]
    workflow = _workflow(crate, plan, folder, engine, parts) if plan else None
    ended = [(entry, entry.metrics) for entry in report.entries if entry.metrics and not entry.flight]  # held: not yet
    actions = [_action(crate, entry, m, folder, engine, sources[entry.name]) for entry, m in ended]
    results = [_file(crate, folder, path, _media(path)) for path in reports]
    if workflow is not None:
        crate.mainEntity = workflow
        crate.metadata["conformsTo"] = [{"@id": f"https://w3id.org/ro/crate/{VERSION}"}, {"@id": _PROFILES["crate"][0]}]
        actions.append(_whole_run(crate, report, engine, actions, results))
    crate.root_dataset["mentions"] = _single(actions)
    return crate_text(crate.metadata.generate())


def crate_text(document: Any) -> str:
    """Serialize the metadata."""
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _entity(crate: ROCrate, key: str, kind: str | list[str], **properties: Any) -> Entity:
    from rocrate.model.contextentity import ContextEntity

    known = {name: _single(value) for name, value in properties.items() if value not in (None, "", [])}
    return crate.add(ContextEntity(crate, key, properties={"@type": kind, **known}))


def _single(value: Any) -> Any:
    """Return the item of a list of one, as RO-Crate requires."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _source(crate: ROCrate, anchor: str, source: Source) -> Entity:
    return _entity(
        crate,
        f"#{anchor}-source",
        ["SoftwareSourceCode", "SoftwareApplication"],
        name=source.path,
        sha256=source.sha256,
        url=source.repository,
        version=source.commit or (source.sha256 and f"sha256:{source.sha256}"),
        description=f"No commit: {reason}" if (reason := source.unavailable.get("commit")) else None,
        encodingFormat=_MEDIA["notebook"],
    )


def _workflow(crate: ROCrate, plan: Plan, folder: Path, engine: Entity, notebooks: list[Entity]) -> Entity:
    language = _entity(crate, "#plan-language", "ComputerLanguage", name="Notebook plan", version=str(plan.version))
    kinds = {"@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"]}
    workflow = _file(crate, folder, PLAN_FILE, "application/json", **kinds)
    workflow["name"] = plan.name
    workflow["programmingLanguage"] = language
    workflow["version"] = f"sha256:{workflow['sha256']}"
    workflow["hasPart"] = _single(notebooks)
    workflow["softwareRequirements"] = engine
    return workflow


def _action(crate: ROCrate, entry: Entry, m: Metrics, folder: Path, engine: Entity, source: Entity) -> Entity:
    """Describe one run of one notebook: source, inputs, engine and results."""
    results = [_file(crate, folder, path, _MEDIA[kind]) for kind, path in entry.files.items() if kind in _MEDIA]
    products = [
        _entity(crate, f"#{entry.anchor}-product-{n}", "CreativeWork", name=path)
        for n, path in enumerate(m.outputs.products, 1)
    ]
    failed = m.status not in (Status.SUCCEEDED, Status.SKIPPED)
    return _entity(
        crate,
        f"#{entry.anchor}-run",
        "CreateAction",
        name=f"Run of {entry.name}",
        instrument=source,
        object=_inputs(crate, entry, m),
        result=[*results, *products],
        agent=engine,
        startTime=_time(m.started_at),
        endTime=_time(m.ended_at),
        actionStatus="http://schema.org/FailedActionStatus" if failed else "http://schema.org/CompletedActionStatus",
        error=m.reason if failed else None,
        description=f"{m.status.value}: {m.reason}",
        environment=_machine(crate, m),
    )


def _inputs(crate: ROCrate, entry: Entry, m: Metrics) -> list[Entity]:
    parameters = [
        _entity(
            crate,
            f"#{entry.anchor}-parameter-{n}",
            "PropertyValue",
            name=name,
            value=value if isinstance(value, str | int | float | bool) else json.dumps(value, default=str),
        )
        for n, (name, value) in enumerate(m.environment.parameters.items(), 1)
    ]
    datasets = [
        _entity(crate, f"#{entry.anchor}-dataset-{n}", "CreativeWork", name=change.detail)
        for n, change in enumerate((c for c in m.preparation if c.rule in {"dataset", "place"}), 1)
    ]
    return [*parameters, *datasets]


def _machine(crate: ROCrate, m: Metrics) -> list[Entity]:
    """Describe the container image and the GPUs, without duplicates in the crate."""
    image = m.environment.image
    known: list[tuple[str, str, str | None]] = [("container image", image, None)] if image else []
    known += [("GPU", gpu.name, gpu.uuid) for gpu in m.gpus]
    return [
        _entity(crate, f"#machine-{_digest(key or value)}", "PropertyValue", name=name, value=value, identifier=key)
        for name, value, key in known
    ]


def _whole_run(crate: ROCrate, report: Report, engine: Entity, actions: list[Entity], results: list[Entity]) -> Entity:
    """Describe the run of the plan, which consists of the runs of its notebooks."""
    failed = report.verdict == "failed"
    return _entity(
        crate,
        "#run",
        "CreateAction",
        name=f"Run {report.run_id or ''} of {report.plan_name}",
        description=crate.description,
        identifier=report.run_id,
        instrument=crate.mainEntity,
        agent=engine,
        startTime=_time(report.started_at),
        endTime=_time(report.ended_at),
        object=[source for action in actions for source in _as_list(action.get("object"))],
        result=[*results, *(file for action in actions for file in _as_list(action.get("result")))],
        actionStatus=f"http://schema.org/{'Failed' if failed else 'Completed'}ActionStatus",
    )


def _time(text: str | None) -> str | None:
    """Write the UTC offset as the run profiles do."""
    return text and text.replace("Z", "+00:00")


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def _file(crate: ROCrate, folder: Path, path: str, media: str, **more: Any) -> Entity:
    """Describe one file of the folder, with its size and hash."""
    properties: dict[str, Any] = {"encodingFormat": media, **more}
    place = folder / path
    if place.is_file():
        properties |= {"sha256": sha256_of(place), "contentSize": str(place.stat().st_size)}
    return crate.add_file(place, dest_path=path, properties=properties)


def _media(path: str) -> str:
    endings = {".html": "text/html", ".json": "application/json", ".xml": "application/xml", ".md": "text/markdown"}
    return next((media for ending, media in endings.items() if path.endswith(ending)), "text/plain")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:12]
