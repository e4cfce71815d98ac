# SPDX-License-Identifier: Apache-2.0
"""Manifests against Tekton's own schemas, closed so that no unknown field passes."""

from __future__ import annotations

import copy
from functools import cache

import jsonschema
import pytest
from support import tekton

MANIFESTS = tekton.of_kind("Task", "StepAction", "Pipeline", "PipelineRun", "TaskRun")


@cache
def schemas():
    return tekton.crd_schemas()


def problems(document):
    found, reason = schemas()
    if not found:
        pytest.skip(reason)
    validator = jsonschema.Draft202012Validator(found[document["kind"]])
    return [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in validator.iter_errors(document)
    ]


@pytest.mark.parametrize(("name", "document"), MANIFESTS, ids=[name for name, _ in MANIFESTS])
def test_a_manifest_is_what_tekton_knows(name, document):
    """Every field is one of Tekton's, of the right type."""
    assert problems(document) == []


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("gpu-notebook-executor-task.yaml", ("spec", "timeout"), "1h"),
        ("gpu-notebook-executor-task.yaml", ("spec", "steps", 0, "commands"), ["x"]),
        ("complete-scrna-analysis-workflow.yaml", ("spec", "tasks", 0, "runAfter"), "validate"),
        ("complete-analysis-pipelinerun.yaml", ("spec", "serviceAccountName"), "x"),
    ],
)
def test_the_closed_schemas_find_planted_faults(name, path, value):
    """The check can fail: unknown fields, wrong types and fields of v1beta1 are found."""
    document = copy.deepcopy(dict(MANIFESTS)[name])
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert problems(document)
