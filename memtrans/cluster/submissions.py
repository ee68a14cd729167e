"""What was submitted, in `runs/slurm/<submission>/`, so that no command that is killed loses track of its jobs.

A submission is some arrays and their table job. Its list of tasks is written before Slurm hears of it, its name is part
of the jobs' names, and the jobs are held until all of them are there: `submitted` is written then. So a submission
without that file has never run, and is taken back. One without the file `released` may still be held by us. The folder
of one that has come to its end is removed by a later submission.
"""

import contextlib
import json
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memtrans import processes
from memtrans.cluster import slurm
from memtrans.cluster.slurm import QueuedJob
from memtrans.errors import UserError
from memtrans.files import write_json, write_text
from memtrans.progress import say
from memtrans.runs import Run

PREFIX = "memtrans"


@dataclass(frozen=True)
class Submission:
    """Jobs by the name of their step, each with the hashes of the runs that its tasks do, in order."""

    folder: Path
    tasks: Mapping[str, Sequence[str]]

    @classmethod
    def create(
        cls, runs: Path, tasks: Mapping[str, Sequence[str]], name: str | None = None, command: str = ""
    ) -> "Submission":
        """A new one, whose tasks are known from now on. `command`: of the job that prepares."""
        submission = cls(runs / "slurm" / (name or secrets.token_hex(4)), tasks)
        for mark in ("submitted", "released"):
            (submission.folder / mark).unlink(missing_ok=True)
        if command:
            write_text(submission.folder / "command.txt", f"{command}\n")
        write_json(submission.folder / "tasks.json", tasks)
        return submission

    @property
    def begun(self) -> float:
        """When, in seconds since 1970; 0 if another command has removed it."""
        try:
            return (self.folder / "tasks.json").stat().st_mtime
        except FileNotFoundError:
            return 0.0

    @property
    def whole(self) -> bool:
        return (self.folder / "submitted").exists()

    def start(self, jobs: Iterable[str]) -> None:
        """All its jobs are there: from now on it counts, and those that were held may start."""
        (self.folder / "submitted").touch()
        self.release(jobs)

    def release(self, jobs: Iterable[str]) -> None:
        slurm.release(jobs)
        (self.folder / "released").touch()

    def name(self, step: str) -> str:
        """Of the job or array that does a step."""
        return f"{PREFIX}-{self.folder.name}-{step}"

    def has_ended(self, queue: Sequence[QueuedJob]) -> bool:
        """Whether its jobs are gone, its runs have records or are gone too, and no preparation failed."""
        if self.jobs(queue) or ("prepare" in self.tasks and processes.failure(self.folder)):
            return False
        folders = (self.folder.parent.parent / run for tasks in self.tasks.values() for run in tasks)
        try:
            return all(Run.read(run).record_path.exists() for run in folders if (run / "run.json").exists())
        except (UserError, OSError):  # a run that cannot be read has not come to its end
            return False

    def remove(self) -> None:
        (self.folder / "tasks.json").unlink(missing_ok=True)  # first what others find it by
        shutil.rmtree(self.folder, ignore_errors=True)

    def jobs(self, queue: Sequence[QueuedJob]) -> list[tuple[QueuedJob, str]]:
        """Its jobs in the queue, each with its step; the steps in their order."""
        return [(job, step) for step in self.tasks for job in queue if job.name == self.name(step)]


def submissions(runs: Path) -> list[Submission]:
    """All that were begun and not taken back."""
    found = []
    for path in sorted(runs.glob("slurm/*/tasks.json")):
        with contextlib.suppress(FileNotFoundError):  # another command removes it just now
            found.append(Submission(path.parent, json.loads(path.read_text())))
    return found


def last_table(found: Iterable[Submission]) -> Submission | None:
    """The latest that writes a table, which has all that earlier ones have."""
    tables = (submission for submission in found if "table" in submission.tasks)
    return max(tables, key=lambda each: each.begun, default=None)


def live(runs: Path, queue: Sequence[QueuedJob]) -> dict[str, tuple[QueuedJob, str]]:
    """The job that each run is waiting for or running in, and its step, by the run's hash."""
    found: dict[str, tuple[QueuedJob, str]] = {}
    for submission in submissions(runs):
        for job, step in submission.jobs(queue):
            if not (tasks := submission.tasks[step]):
                continue
            run = tasks[job.index]
            if run not in found or not job.waits:  # while it trains, its evaluation waits
                found[run] = (job, step)
    return found


def mend(runs: Path, queue: Sequence[QueuedJob]) -> list[QueuedJob]:
    """Take back what a killed command had begun to submit, and start what it had not; returns the queue after that.

    What has come to its end is removed, but for the last table, which may have failed. Only for the holder of the lock
    for submitting.
    """
    gone: set[str] = set()
    found = submissions(runs)
    last = last_table(found)
    for submission in found:
        jobs = [job for job, _ in submission.jobs(queue)]
        if not submission.whole:
            if jobs:
                slurm.cancel(job.id for job in jobs)
                gone.update(job.id for job in jobs)
            submission.remove()
        elif submission != last and submission.has_ended(queue):
            submission.remove()
        elif not (submission.folder / "released").exists() and (held := [job.id for job in jobs if job.held]):
            try:
                submission.release(held)
            except UserError as error:
                say(f"jobs stay held: {error}")
    return [job for job in queue if job.id not in gone]


def jobs_of(runs: Path, queue: Sequence[QueuedJob], sweep: str | None, hashes: set[str]) -> list[str]:
    """All jobs of the folder `runs`; or those of a sweep, whose runs have these hashes."""
    found: list[str] = []
    for submission in submissions(runs):
        tasks = submission.tasks
        jobs = {job.id: tasks[step][job.index] if tasks[step] else None for job, step in submission.jobs(queue)}
        mine = [job for job, run in jobs.items() if run in hashes]
        others = [job for job, run in jobs.items() if run and run not in hashes]
        prepares = "prepare" in tasks and f" sweep={sweep} " in (submission.folder / "command.txt").read_text()
        if sweep is None or prepares or (mine and not others):
            found += jobs  # with the job that writes the table
        else:
            found += mine
    return found
