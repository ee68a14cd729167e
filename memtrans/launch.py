"""Workers side by side: start them, show how far they are, collect what failed. A failed run stops no other."""

import contextlib
import ctypes
import math
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from memtrans import processes
from memtrans.errors import told
from memtrans.locks import WAITING, held
from memtrans.records import NAMES
from memtrans.runlog import read_progress
from memtrans.runs import Run
from memtrans.stops import SIGNALS, STOPPED

POLL_SECONDS = 0.5
NO_GPU = 100  # CUDA_ERROR_NO_DEVICE
PLAIN_SECONDS = 20.0  # between two progress lines of a run where there is no terminal


@dataclass
class Failure:
    run: Run
    reason: str


@dataclass
class Worker:
    run: Run
    process: subprocess.Popen
    log_start: int  # size of the log before it started, in bytes: what earlier attempts wrote
    waits: bool  # another process is at work on the run, maybe the worker of a command that was killed
    started: float = field(default_factory=time.monotonic)


class _Asked(BaseException):
    """A signal asks this process to end."""


def count_gpus() -> int:
    """The GPUs that torch would see. It takes seconds to import: NVIDIA's driver is asked, and torch only in doubt."""
    found = _gpus_of_the_driver()
    if found is not None:
        return found
    import torch

    return torch.cuda.device_count()


def runs_per_device(side_by_side: int, gpus: int, gpus_per_run: int) -> int:
    """How many of the runs side by side share a GPU; without GPUs, how many processes share the CPU."""
    return math.ceil(side_by_side / (gpus // gpus_per_run)) if gpus else side_by_side * gpus_per_run


def _gpus_of_the_driver() -> int | None:
    """0 without a driver or CUDA in torch's build; None where torch must be asked: a build for AMD, other errors."""
    package = find_spec("torch")
    assert package is not None
    build = runpy.run_path(str(Path(str(package.origin)).with_name("version.py")))
    if build.get("hip"):
        return None
    if not build["cuda"]:
        return 0
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    found = ctypes.c_int(0)
    error = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(found))
    if error == NO_GPU:
        return 0
    return None if error else found.value


def launch(runs: Sequence[Run], places: int, gpus: int) -> list[Failure]:
    """Run all, at most `places` side by side, spread over the GPUs if there are any. Returns those that failed."""
    team = _Team(min(places, len(runs)), gpus, max(1, len(os.sched_getaffinity(0)) // places))
    asked: _Asked | None = None
    # a scheduler that ends this process must not leave its workers behind
    handlers = {number: signal.signal(number, _ask) for number in SIGNALS}
    with _display(len(runs)) as display, ThreadPoolExecutor(team.jobs) as pool:
        try:
            return _follow({pool.submit(team.work, run): run for run in runs}, team, display)
        except _Asked as error:
            asked = error
        finally:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # they are saving themselves
            team.close()
            pool.shutdown(cancel_futures=True)
            for number, handler in handlers.items():
                signal.signal(number, handler)
    number = asked.args[0]
    if callable(handler := handlers[number]):
        handler(number, None)  # in a job of Hydra's -m, submitit's, which asks for another attempt
    sys.exit(128 + number)


def _ask(number: int, _: object) -> None:
    raise _Asked(number)


def _follow(runs: "dict[Future[Worker], Run]", team: "_Team", display: "_Plain | _Bars") -> list[Failure]:
    """Show the workers until the last has ended."""
    failures, shown, pending = [], set[str](), set(runs)
    while pending:
        done, pending = wait(pending, POLL_SECONDS, FIRST_COMPLETED)
        ended = []
        for future in done:
            try:
                ended.append(future.result())
            except OSError as error:  # of its folder; the others go on
                failures.append(Failure(runs[future], told(error)))
        for worker in [*ended, *team.working()]:
            if worker.run.hash not in shown:
                shown.add(worker.run.hash)
                display.started(worker)
            elif worker.process.poll() is None:
                display.advanced(worker)
        for worker in ended:
            reason = processes.why(worker.process.returncode, worker.run.log, worker.log_start)
            if reason:
                if worker.process.returncode != STOPPED:
                    processes.note_failure(worker.run.folder, reason)
                failures.append(Failure(worker.run, reason))
            display.ended(worker, reason)
    return failures


class _Team:
    """The workers at work, each in one of `jobs` slots, which are spread over the GPUs."""

    def __init__(self, jobs: int, gpus: int, threads: int) -> None:
        self.jobs, self.gpus, self.threads = jobs, gpus, threads
        self._slots: SimpleQueue[int] = SimpleQueue()
        for slot in range(jobs):
            self._slots.put(slot)
        self._working: dict[int, Worker] = {}
        self._lock = threading.Lock()
        self._closed = False

    def work(self, run: Run) -> Worker:
        """Do a run from start to end, in a thread of the pool."""
        slot = self._slots.get()
        try:
            with self._lock:
                if self._closed:
                    raise CancelledError
                worker = self._working[slot] = self._start(run, slot)
            worker.process.wait()
            with self._lock:
                del self._working[slot]
            return worker
        finally:
            self._slots.put(slot)

    def working(self) -> list[Worker]:
        with self._lock:
            return list(self._working.values())

    def close(self) -> None:
        """End the workers, and start no other."""
        with self._lock:
            self._closed = True
        for worker in self.working():
            worker.process.terminate()

    def _start(self, run: Run, slot: int) -> Worker:
        run.write()
        processes.forget_failure(run.folder)
        environment = os.environ | {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, self.threads // run.gpus))),
            "MEMTRANS_RUNS_PER_DEVICE": str(runs_per_device(self.jobs, self.gpus, run.gpus)),
        }
        if self.gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            names = visible if visible != [""] else [str(i) for i in range(self.gpus)]
            first = slot % (self.gpus // run.gpus) * run.gpus
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(names[first : first + run.gpus])
        waits = held(run.folder / "lock")
        return Worker(run, *processes.start([*processes.MODULE, str(run.folder)], run.log, environment), waits)


class _Plain:
    """Lines, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.said: dict[str, float] = {}

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def started(self, worker: Worker) -> None:
        self.said[worker.run.hash] = time.monotonic()
        word = WAITING.format("it") if worker.waits else "started"
        self.say(f"{worker.run.name}: {word}, log {worker.run.log}")

    def advanced(self, worker: Worker) -> None:
        if time.monotonic() - self.said[worker.run.hash] < PLAIN_SECONDS:
            return
        self.said[worker.run.hash] = time.monotonic()
        if progress := read_progress(worker.run.log, worker.run.identity["train"]):
            self.say(f"{worker.run.name}: {progress.fraction:.0%}, {progress.with_time_left}")

    def ended(self, worker: Worker, reason: str | None) -> None:
        seconds = time.monotonic() - worker.started
        self.say(f"{worker.run.name}: failed: {reason}" if reason else _done(worker.run, seconds))


class _Bars:
    """One bar per running worker, for terminals."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.tasks: dict[str, TaskID] = {}

    def started(self, worker: Worker) -> None:
        self.tasks[worker.run.hash] = self.progress.add_task(
            worker.run.name, total=1.0, text=WAITING.format("it") if worker.waits else "starting"
        )

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


def _done(run: Run, seconds: float) -> str:
    record = run.record()
    assert record is not None, f"{run.hash}: the worker succeeded without a record"
    headline = record.headline
    return f"{run.name}: {NAMES[headline.metric]} {headline.value:.2f} on {headline.split}, {seconds:.0f} s"
