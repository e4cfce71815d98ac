# SPDX-License-Identifier: Apache-2.0
"""Record a real run of the laptop example: a terminal recording as SVG, and a screenshot of its report.

`python .ci/recording.py` writes docs/images/run.svg and, where Chromium is on the PATH, docs/images/report.png. The
SVG plays once in CSS, each line at the moment it was printed, and holds no script.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
COMMAND = "runner run-all examples/laptop/plan.yaml --output-dir outputs -v"
COLUMNS, LINE, WIDTH, MARGIN = 116, 18, 7.3, 14
LONGEST_SECONDS = 12.0
STYLE = """\
.back { fill: #16161e; } .bar { fill: #2a2a37; }
text { font: 12px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: #c8c8d4; white-space: pre; }
.prompt { fill: #7ee787; font-weight: bold; } .answer { fill: #ffffff; font-weight: bold; }
.l { opacity: 0; animation: show 0.05s linear forwards; }
@keyframes show { to { opacity: 1; } }
@media (prefers-reduced-motion: reduce) { .l { opacity: 1; animation: none; } }
"""


def record(folder: Path) -> list[tuple[float, str, str]]:
    """Run the command and return when each line came, its kind and its text."""
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("work"))
    started = time.monotonic()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RUNNER_")}
    program = [sys.executable, "-m", *COMMAND.split()]
    lines = [(0.0, "prompt", f"$ {COMMAND}")]
    with subprocess.Popen(
        program, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            logged = re.match(r"\d{4}-\d\d-\d\dT([\d:]{8})\.\d+Z (.*)", line)
            text = f"{logged[1]} {logged[2]}" if logged else line.rstrip()
            text = re.sub(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}\b", "…", text.replace(str(folder), "/…"))
            kind = "log" if logged else "answer"
            lines.append(
                (time.monotonic() - started, kind, text if len(text) <= COLUMNS else f"{text[: COLUMNS - 1]}…")
            )
    if process.returncode:
        sys.exit(f"the run ended with {process.returncode}:\n" + "\n".join(text for _, _, text in lines))
    return lines


def svg(lines: list[tuple[float, str, str]]) -> str:
    """Return the recording, not longer than it is pleasant to look at."""
    pace = min(1.0, LONGEST_SECONDS / max(lines[-1][0], 0.001))
    height, width = len(lines) * LINE + 2 * MARGIN + 22, round(COLUMNS * WIDTH + 2 * MARGIN)
    rows = [
        f'<text class="l {kind}" x="{MARGIN}" y="{22 + MARGIN + (number + 1) * LINE - 5}" '
        f'style="animation-delay: {seconds * pace + 0.6 * (number > 0):.2f}s">{html.escape(text)}</text>'
        for number, (seconds, kind, text) in enumerate(lines)
    ]
    title = f"<title>{html.escape(COMMAND)}</title>"
    size = f'width="{width}" height="{height}"'
    frame = f'<rect class="back" {size} rx="8"/><rect class="bar" width="{width}" height="22" rx="8"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {size} role="img">'
    return "\n".join([head, title, f"<style>\n{STYLE}</style>", frame, *rows, "</svg>\n"])


def screenshot(page: Path, target: Path) -> None:
    """Take a picture of the report's first screen."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        print("no Chromium on the PATH: the screenshot stays as it is")
        return
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        view = browser.new_page(viewport={"width": 1100, "height": 700}, color_scheme="light")
        view.goto(page.as_uri())
        view.screenshot(path=target)
        browser.close()


def main() -> None:
    """Write both files."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        lines = record(Path(name))
        (IMAGES / "run.svg").write_text(svg(lines), encoding="utf-8")
        reports = sorted(Path(name).glob("outputs/reports/complete_analysis_report_*.html"))
        screenshot(reports[-1], IMAGES / "report.png")


main()
