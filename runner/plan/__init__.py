# SPDX-License-Identifier: Apache-2.0
"""The plan: which notebooks, what each needs, and what it leaves."""

from runner.plan.model import (
    SCHEMES,
    Dataset,
    DropCells,
    Expect,
    Insert,
    Notebook,
    Place,
    Plan,
    Replace,
    Requires,
    Rule,
    is_config_map,
    load,
    parse,
    requirements,
)

__all__ = [
    "SCHEMES",
    "Dataset",
    "DropCells",
    "Expect",
    "Insert",
    "Notebook",
    "Place",
    "Plan",
    "Replace",
    "Requires",
    "Rule",
    "is_config_map",
    "load",
    "parse",
    "requirements",
]
