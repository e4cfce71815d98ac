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
from runner.plan import Plan
from runner.report import summary_schema

FOLDER = Path(__file__).resolve().parents[1] / "runner" / "core" / "schemas"


def texts() -> dict[str, str]:
    """Return the text of each schema file by its name."""
    found: dict[str, Any] = {
        "plan": Plan.model_json_schema(by_alias=True),
        "metrics": metrics_schema(),
        "summary": summary_schema(),
    }
    return {f"{name}.json": json.dumps(schema, indent=1) + "\n" for name, schema in found.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
