"""How far each run is, on the cluster or on this machine: for `scripts.status` and `scripts.cancel`."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memtrans import processes
from memtrans.cluster.slurm import QueuedJob, queued
from memtrans.cluster.submissions import last_table, live, submissions
from memtrans.errors import UserError
from memtrans.locks import held
from memtrans.progress import say
from memtrans.records import NAMES
from memtrans.runlog import Progress, read_progress
from memtrans.runs import Run

HINT = "the same command continues it"


@dataclass(frozen=True)
class State:
    """Of a run: done, running, waiting, failed, stopped or new; its job if it has one; and what there is to say."""

    run: Run
    word: str
    job: str
    text: str


def queue_if_any(runs: Path) -> list[QueuedJob]:
    """The queue, if anything of this folder of runs was ever submitted; a line says so if Slurm does not answer."""
    if not submissions(runs):
        return []
    try:
        return queued()
    except UserError as error:
        say(f"jobs are not shown: {error}")
        return []


def states(runs: Iterable[Run], queue: Sequence[QueuedJob]) -> list[State]:
    """The state of each run. `queue` are the jobs that Slurm has, none where there is no Slurm."""
    jobs: dict[Path, Mapping[str, tuple[QueuedJob, str]]] = {}
    found = []
    for run in runs:
        if run.runs not in jobs:
            jobs[run.runs] = live(run.runs, queue)
        found.append(_state(run, jobs[run.runs].get(run.hash)))
    return found


def _state(run: Run, at_work: tuple[QueuedJob, str] | None) -> State:
    try:
        record = run.record()
    except UserError as error:
        return State(run, "failed", "", str(error))
    if record:
        headline = record.headline
        return State(run, "done", "", f"{NAMES[headline.metric]} {headline.value:.2f} on {headline.split}")
    progress = read_progress(run.log, run.identity["train"])
    if at_work:
        job, step = at_work
        if job.waits:
            return State(run, "waiting", job.id, ", ".join([f"to {_verb(step)} ({job.reason})", *_reached(progress)]))
        return State(run, "running", job.id, _running(progress))
    if held(run.folder / "lock"):  # by a process of this machine, or of one that shares its locks
        return State(run, "running", "", _running(progress))
    if reason := processes.failure(run.folder):
        return State(run, "failed", "", f"{reason} (log: {run.log})")
    if progress:
        return State(run, "stopped", "", ", ".join([*_reached(progress), HINT]))
    return State(run, "new", "", "")


def distinct(runs: Sequence[Run]) -> list[str]:
    """The runs' names; where several have the same, with size and hash."""
    often = Counter(run.name for run in runs)
    return [f"{run.name}, {run.identity['size']}, {run.hash}" if often[run.name] > 1 else run.name for run in runs]


def _verb(step: str) -> str:
    return "train" if step == "train" else "be scored"


def _reached(progress: Progress | None) -> list[str]:
    return [f"at {progress.text}"] if progress else []


def _running(progress: Progress | None) -> str:
    if progress is None:
        return "starting"
    return progress.with_time_left


def commands(runs: Path, queue: Sequence[QueuedJob]) -> list[str]:
    """A line for each job that prepares and submits, if it waits, runs or has failed, and for a table that failed."""
    lines = []
    found = submissions(runs)
    last = last_table(found)
    for submission in found:
        reason = processes.failure(submission.folder)
        log = submission.folder / "log.txt"
        if "prepare" not in submission.tasks:
            if reason and submission == last:
                lines.append(f"a job that was to write the table failed: {reason} (log: {log})")
            continue
        jobs = [job for job, _ in submission.jobs(queue)]
        if jobs:
            lines.append(f"job {jobs[0].id}, which prepares and submits: {jobs[0].state.lower()} (log: {log})")
        elif reason:
            lines.append(f"a job that was to prepare and submit failed: {reason} (log: {log})")
    return lines
