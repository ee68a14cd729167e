"""A place for the commands of one test: its folders, real processes, and what they leave behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent

# A shell that runs the tests in the background ignores SIGINT, and commands would inherit that; not so a handler.
signal.signal(signal.SIGINT, signal.default_int_handler)

# of a record, what a kill must not change
LASTING = ("run", "setting", "label", "config", "corpus", "parameters", "updates", "epochs", "tokens", "checkpoint")
LASTING += ("scores", "hypotheses")


@dataclass(frozen=True)
class Place:
    """Folders of data, runs and results for the commands of one test, and the settings that make its runs short."""

    settings: tuple[str, ...]
    data: Path
    folder: Path

    @property
    def overrides(self) -> list[str]:
        return [
            *self.settings,
            f"paths.data={self.data}",
            *(f"paths.{n}={self.folder / n}" for n in ("runs", "results")),
        ]

    def start(self, script: str, *overrides: str, **environment: str) -> subprocess.Popen:
        """A command as the leader of a process group of its own, as a shell starts it."""
        left_out = [
            o for o in self.overrides if o.partition("=")[0] in {given.partition("=")[0] for given in overrides}
        ]
        command = [
            sys.executable,
            "-m",
            f"scripts.{script}",
            *overrides,
            *(o for o in self.overrides if o not in left_out),
        ]
        return subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=os.environ | {"OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, script: str, *overrides: str, **environment: str) -> subprocess.CompletedProcess:
        process = self.start(script, *overrides, **environment)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def train(self, *overrides: str, **environment: str) -> str:
        """Train to the end; returns what it printed."""
        done = self.run("train", *overrides, **environment)
        assert done.returncode == 0, done.stderr + "".join(log.read_text()[-2000:] for log in self.logs())
        return done.stdout

    def logs(self) -> list[Path]:
        return list(self.folder.glob("runs/*/log.txt"))

    def log(self) -> str:
        return "".join(log.read_text(errors="replace") for log in self.logs())

    def records(self) -> dict[str, dict[str, Any]]:
        paths = self.folder.glob("results/records/*.json")
        return {path.stem: json.loads(path.read_text()) for path in paths}

    def outcome(self) -> tuple[dict[str, Any], bytes | None]:
        """What must be the same of the only run, however often it was killed: its record and its translations."""
        ((_, record),) = self.records().items()
        kept = record.get("hypotheses")
        hypotheses = (self.folder / "results" / kept["file"]).read_bytes() if kept else None
        return {key: record.get(key) for key in LASTING}, hypotheses

    def files(self) -> dict[str, int]:
        """Modification times of all files."""
        return {str(p): p.stat().st_mtime_ns for top in (self.folder, self.data) for p in top.rglob("*") if p.is_file()}


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments, from wherever the tests are run."""
    environment = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path]), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)


def group(leader: int) -> list[int]:
    """The processes of the group that `leader` leads or led."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has just ended
            continue
        if int(pgrp) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_for(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 120) -> None:
    """Return as soon as `condition` holds or the process has ended."""
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.001)


def kill_group(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
