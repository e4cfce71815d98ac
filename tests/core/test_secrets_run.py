# SPDX-License-Identifier: Apache-2.0
"""No file that a run and its report leave holds a secret, wherever a notebook puts it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from support import cli, notebooks

TOKEN = "hf_S3cretT0kenOfTheHub"
MOUNTED = "Mounted-Passw0rd\nsecond Line0fIt"
SHOW = """
import base64, json, os, sys
token, mounted = os.environ["TOKEN"], os.environ["MOUNTED"]
print("Authorization: Basic", base64.b64encode(f"me:{token}".encode()).decode())
print(json.dumps({"config": json.dumps({"password": mounted})}), repr(repr(mounted)), file=sys.stderr)
open(f"made-{token}.txt", "w").write("x")
{token: mounted.splitlines()}
"""
FAIL = "raise ValueError(os.environ['MOUNTED'].replace('\\n', '\\r\\n    '))"


def test_no_file_of_a_run_and_its_report_holds_a_secret(tmp_path: Path) -> None:
    """In text, errors, names of products, the plan; also all values in a mounted folder."""
    notebooks.write(tmp_path / "good.ipynb", SHOW)
    notebooks.write(tmp_path / "bad.ipynb", SHOW, FAIL)
    plan = {
        "version": 1,
        "name": "p",
        "notebooks": [
            {"name": "good", "path": "good.ipynb", "env": {"TOKEN": TOKEN}, "products": ["made-*"]},
            {"name": "bad", "path": "bad.ipynb", "env": {"TOKEN": TOKEN}},
        ],
    }
    (tmp_path / "plan.yaml").write_text(json.dumps(plan))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "password").write_text(MOUNTED)
    out = tmp_path / "out"

    ended = cli.runner(
        *("run-all", tmp_path / "plan.yaml", "--output-dir", out),
        *("--secret-env", "TOKEN", "--secrets-dir", tmp_path / "secrets"),
        env={"MOUNTED": MOUNTED},
    )

    assert ended.code == 1, ended.err
    assert {name: cli.metrics(out, name)["status"] for name in ("good", "bad")} == {
        "good": "succeeded",
        "bad": "failed",
    }
    assert (out / "reports" / "plan.json").exists()
    parts = [TOKEN, *MOUNTED.split("\n"), base64.b64encode(f"me:{TOKEN}".encode()).decode()[6:20]]
    texts = {path: path.read_text(errors="replace") for path in out.rglob("*") if path.is_file()}
    texts[Path("stderr")] = ended.err + ended.out
    leaks = [(path.name, part) for path, text in texts.items() for part in parts if part in text]
    assert leaks == []
    assert "[secret]" in texts[out / "good.log"]
