# SPDX-License-Identifier: Apache-2.0
"""Verdicts on disk, so that a part of the table can be measured again: the peers are pinned, we are not.

Only which questions were answered wrongly is kept; the reasons name paths of the machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from conformance.judge import Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from conformance.truths import Case


def read(path: Path, cases: Iterable[Case]) -> dict[tuple[str, str], Verdict]:
    """Return the verdicts in a file, without those on cases that have changed since."""
    if not path.exists():
        return {}
    prints = {case.name: fingerprint(case) for case in cases}
    entries = json.loads(path.read_text())
    return {
        (entry["case"], entry["engine"]): Verdict(wrong=dict.fromkeys(entry["wrong"], ""), hangs=entry["hangs"])
        for entry in entries
        if prints.get(entry["case"]) == entry["fingerprint"]
    }


def write(path: Path, cases: Iterable[Case], verdicts: Mapping[tuple[str, str], Verdict]) -> None:
    """Write all verdicts, in the order of their names."""
    prints = {case.name: fingerprint(case) for case in cases}
    entries = [
        {"case": case, "engine": engine, "fingerprint": prints[case], "hangs": verdict.hangs, "wrong": [*verdict.wrong]}
        for (case, engine), verdict in sorted(verdicts.items())
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")


def fingerprint(case: Case) -> str:
    """Return a hash of everything that a case says."""
    return hashlib.sha256(repr(case).encode()).hexdigest()[:16]
