"""Slurm's own commands: what is queued, release, cancel. A failure of theirs is told in one line."""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from memtrans.errors import UserError

FIELDS = ("%i", "%F", "%K", "%T", "%j", "%r")  # squeue's: see QueuedJob
NEVER = "DependencyNeverSatisfied"  # why a job waits that will not start: what it waits for has failed


@dataclass(frozen=True)
class QueuedJob:
    """A job, or one task of an array, that Slurm has not finished."""

    id: str  # 12, or 12_3 for task 3 of an array
    index: int  # its place in the array; 0 if it is alone
    state: str  # Slurm's word: PENDING, RUNNING, COMPLETING, ...
    name: str
    reason: str  # why it waits

    @property
    def waits(self) -> bool:
        return self.state == "PENDING"

    @property
    def held(self) -> bool:
        return self.waits and self.reason.startswith("JobHeld")


def queued() -> list[QueuedJob]:
    """This user's jobs that are waiting or running, but for those that can never start. Raises UserError."""
    lines = ask("squeue", "--me", "--noheader", "--array", f"--format={'|'.join(FIELDS)}").splitlines()
    jobs = []
    for line in lines:
        job, _, index, state, name, reason = line.split("|", 5)
        jobs.append(QueuedJob(job, int(index) if index.isdecimal() else 0, state, name, reason))
    return [job for job in jobs if job.reason != NEVER]


def release(jobs: Iterable[str]) -> None:
    """Let held jobs start."""
    ask("scontrol", "release", ",".join(jobs))


def cancel(jobs: Iterable[str]) -> None:
    """End jobs; a run among them saves itself first."""
    ask("scancel", *jobs)


def ask(*command: str) -> str:
    """Standard output of a Slurm command. Raises UserError if there is no Slurm, or it does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise UserError(f"no {command[0]} here: launcher=slurm is for the login node of a Slurm cluster") from None
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split()) or f"exit status {error.returncode}"
        raise UserError(f"Slurm does not do `{command[0]}`: {said}; the same command may be tried again") from None
    return done.stdout
