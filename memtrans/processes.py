"""A run's process: how it is started, why it ended, and the note that a failure leaves in the run's folder.

Used by whoever starts workers: `launch` on this machine, `cluster` in a job. No torch is imported here.
"""

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from memtrans.files import write_text
from memtrans.runlog import last_error
from memtrans.stops import STOPPED

MODULE = ("-m", "memtrans.worker")


def start(
    arguments: Sequence[str], log: Path, environment: Mapping[str, str], python: Sequence[str] = (sys.executable,)
) -> tuple[subprocess.Popen, int]:
    """Start Python with these arguments; returns the process, and the byte of the log from which on it writes."""
    with log.open("ab") as file:
        begin = file.tell()
        process = subprocess.Popen(
            [*python, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**environment, "PYTHONUNBUFFERED": "1"},
        )
    return process, begin


def why(code: int, log: Path, begin: int) -> str | None:
    """Why a process with this exit status, which wrote the log from byte `begin` on, failed; None if it did not."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + ("; was the memory full?" if name == "SIGKILL" else "")
    if code == STOPPED:
        return "stopped by a signal; the same command continues"
    return last_error(log, begin) if code else None


def failure(folder: Path) -> str | None:
    """Why the last attempt of the run in this folder failed, if it did."""
    try:
        return (folder / "failed").read_text()
    except FileNotFoundError:
        return None


def note_failure(folder: Path, reason: str) -> None:
    """Keep why a run failed; of several processes that fail one after the other, the first knows best."""
    if failure(folder) is None:
        write_text(folder / "failed", reason)


def forget_failure(folder: Path) -> None:
    """A new attempt begins."""
    (folder / "failed").unlink(missing_ok=True)
