# SPDX-License-Identifier: Apache-2.0
"""Processes that a notebook leaves behind, however it starts them."""

from __future__ import annotations

from pathlib import Path

CHILD = "import os, time; open({pid_file!r}, 'w').write(str(os.getpid())); time.sleep(600)"
WAIT = """
import os, time
while not os.path.exists({pid_file!r}) or not open({pid_file!r}).read():
    time.sleep(0.01)
"""
HOW = {
    "a child": "import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])",
    "a session of its own": (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)"
    ),
    "a double fork": (
        "import os, sys\n"
        "first = os.fork()\n"
        "if first == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.execv(sys.executable, [sys.executable, '-c', {child!r}])\n"
        "    os._exit(0)\n"
        "os.waitpid(first, 0)"
    ),
    "a double fork of which nothing is left to know it by": (
        "import os, sys\n"
        "first = os.fork()\n"
        "if first == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.execve(sys.executable, [sys.executable, '-c', {child!r}], {{}})\n"
        "    os._exit(0)\n"
        "os.waitpid(first, 0)"
    ),
    "deaf to SIGTERM": (
        "import subprocess, sys; "
        "subprocess.Popen([sys.executable, '-c', 'import signal; signal.signal(15, signal.SIG_IGN); ' + {child!r}], "
        "start_new_session=True)"
    ),
}


def gone(pid: int) -> bool:
    """Return True if a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in {"Z", "X"}
    except OSError:
        return True
