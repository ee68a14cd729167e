"""Workers side by side: start them, show how far they are, collect what failed. A failed run stops no other."""

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from memtrans.records import NAMES
from memtrans.runlog import last_error, read_progress
from memtrans.runs import Run

POLL_SECONDS = 0.5
PLAIN_SECONDS = 20.0  # between two progress lines of a run where there is no terminal


@dataclass
class Failure:
    run: Run
    reason: str


@dataclass
class Worker:
    run: Run
    process: subprocess.Popen
    slot: int
    log_start: int  # size of the log before it started, in bytes: what earlier attempts wrote
    started: float = field(default_factory=time.monotonic)


def launch(runs: Sequence[Run], places: int, gpus: int) -> list[Failure]:
    """Run all, at most `places` side by side, spread over the GPUs if there are any. Returns those that failed."""
    jobs = min(places, len(runs))
    # by the places, not by the runs that are left: on a CPU, the last digits depend on the number of threads
    threads = max(1, len(os.sched_getaffinity(0)) // places)
    waiting, working = list(runs), dict[int, Worker]()
    failures: list[Failure] = []
    # a scheduler that ends this process must not leave its workers behind
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with _display(len(runs)) as display:
        try:
            while waiting or working:
                while waiting and len(working) < jobs:
                    slot = next(i for i in range(jobs) if i not in working)
                    working[slot] = _start(waiting.pop(0), slot, jobs, gpus, threads)
                    display.started(working[slot])
                time.sleep(POLL_SECONDS)
                for slot, worker in list(working.items()):
                    if worker.process.poll() is None:
                        display.advanced(worker)
                        continue
                    del working[slot]
                    reason = _reason(worker)
                    if reason:
                        failures.append(Failure(worker.run, reason))
                    display.ended(worker, reason)
        finally:
            for worker in working.values():
                worker.process.terminate()
            for worker in working.values():
                worker.process.wait()
    return failures


def _start(run: Run, slot: int, jobs: int, gpus: int, threads: int) -> Worker:
    run.write()
    environment = os.environ | {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        "PYTHONUNBUFFERED": "1",
        "MEMTRANS_RUNS_PER_DEVICE": str(math.ceil(jobs / max(gpus, 1))),
    }
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        names = visible if visible != [""] else [str(i) for i in range(gpus)]
        environment["CUDA_VISIBLE_DEVICES"] = names[slot % gpus]
    with run.log.open("ab") as log:
        log_start = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "memtrans.worker", str(run.folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    return Worker(run, process, slot, log_start)


def _reason(worker: Worker) -> str | None:
    """Why an ended worker failed; None if it did not."""
    code = worker.process.returncode
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + ("; was the memory full?" if name == "SIGKILL" else "")
    return last_error(worker.run.log, worker.log_start) if code else None


class _Plain:
    """Lines, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.said: dict[str, float] = {}

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def started(self, worker: Worker) -> None:
        self.said[worker.run.hash] = time.monotonic()
        self.say(f"{worker.run.name}: started, log {worker.run.log}")

    def advanced(self, worker: Worker) -> None:
        if time.monotonic() - self.said[worker.run.hash] < PLAIN_SECONDS:
            return
        self.said[worker.run.hash] = time.monotonic()
        if progress := read_progress(worker.run.log, worker.run.identity["train"]):
            self.say(f"{worker.run.name}: {progress.fraction:.0%}, {progress.text}{_left(worker, progress.fraction)}")

    def ended(self, worker: Worker, reason: str | None) -> None:
        seconds = time.monotonic() - worker.started
        self.say(f"{worker.run.name}: failed: {reason}" if reason else _done(worker.run, seconds))


class _Bars:
    """One bar per running worker, for terminals."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.tasks: dict[str, TaskID] = {}

    def started(self, worker: Worker) -> None:
        self.tasks[worker.run.hash] = self.progress.add_task(worker.run.name, total=1.0, text="starting")

    def advanced(self, worker: Worker) -> None:
        if progress := read_progress(worker.run.log, worker.run.identity["train"]):
            self.progress.update(self.tasks[worker.run.hash], completed=progress.fraction, text=progress.text)

    def ended(self, worker: Worker, reason: str | None) -> None:
        self.progress.remove_task(self.tasks.pop(worker.run.hash))
        seconds = time.monotonic() - worker.started
        text = f"{worker.run.name}: failed: {reason}" if reason else _done(worker.run, seconds)
        self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _display(runs: int) -> Iterator[_Plain | _Bars]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Plain(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[text]}"), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        yield _Bars(progress)


def _left(worker: Worker, fraction: float) -> str:
    """Time left, from the speed since this worker started; too little for a run that was continued half-way."""
    if not 0 < fraction < 1:
        return ""
    seconds = (time.monotonic() - worker.started) * (1 - fraction) / fraction
    return f", {seconds / 60:.0f} min left" if seconds > 90 else f", {seconds:.0f} s left"


def _done(run: Run, seconds: float) -> str:
    record = run.record()
    assert record is not None, f"{run.hash}: the worker succeeded without a record"
    headline = record.headline
    return f"{run.name}: {NAMES[headline.metric]} {headline.value:.2f} on {headline.split}, {seconds:.0f} s"
