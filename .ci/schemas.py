# SPDX-License-Identifier: Apache-2.0
"""Write the published JSON schemas from the models: `python .ci/schemas.py`, with the pinned pydantic.

They are checked in because what pydantic writes differs between its versions, and a published
schema must not depend on what happens to be installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runner.core.records import metrics_schema
from runner.plan.model import Plan
from runner.plan.text import DEFAULTABLE
from runner.report import summary_schema
from runner.tekton.names import PART_OF

FOLDER = Path(__file__).resolve().parents[1] / "runner" / "core" / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def texts() -> dict[str, str]:
    """Return the text of each schema file by its name."""
    found: dict[str, Any] = {"plan": _plan(), "metrics": metrics_schema(), "summary": summary_schema()}
    named = {name: {"$schema": DIALECT, "$id": f"urn:{PART_OF}:{name}", **found[name]} for name in found}
    return {f"{name}.json": json.dumps(schema, indent=1) + "\n" for name, schema in named.items()}


def _plan() -> dict[str, Any]:
    """Return the schema of a plan as it is written: a notebook may leave to `defaults` what it can take from them."""
    schema = Plan.model_json_schema(by_alias=True)
    properties = schema["$defs"]["Notebook"]["properties"]
    defaults = {key: properties[key] for key in properties if key in DEFAULTABLE}
    schema["properties"]["defaults"] = {"type": "object", "additionalProperties": False, "properties": defaults}
    return schema


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
