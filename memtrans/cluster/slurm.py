"""Slurm's own commands: what is queued, release, cancel. A failure of theirs is told in one line."""

import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from memtrans.errors import UserError
from memtrans.ranks import VARIABLES

# what Slurm, submitit and torchrun say of a job to its processes, and with which variables users change the commands
OF_JOBS = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SQUEUE_", "SCANCEL_", "SCONTROL_", "SUBMITIT_")
FIELDS = ("%i", "%K", "%T", "%e", "%j", "%r")  # squeue's: see QueuedJob
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
        return self.waits and self.reason == "JobHeldUser"  # not by an administrator


def queued() -> list[QueuedJob]:
    """This user's jobs that are waiting or running, or will again. Raises UserError."""
    lines = ask("squeue", "--me", "--noheader", "--array", f"--format={'|'.join(FIELDS)}").splitlines()
    jobs, now = [], datetime.now().isoformat(timespec="seconds")
    for line in lines:
        job, index, state, end, name, reason = line.split("|", 5)
        # one that is being ended for good has an end; one that is requeued meanwhile has none
        if reason == NEVER or (state == "COMPLETING" and end <= now):
            continue
        jobs.append(QueuedJob(job, int(index) if index.isdecimal() else 0, state, name, reason))
    return jobs


def details(job: str) -> dict[str, str]:
    """What scontrol shows of a job or one task of an array, such as JobState and PreemptTime. Raises UserError."""
    return dict(word.partition("=")[::2] for word in ask("scontrol", "--oneliner", "show", "job", job).split())


def release(jobs: Iterable[str]) -> None:
    """Let held jobs start."""
    ask("scontrol", "release", ",".join(jobs))


def cancel(jobs: Iterable[str]) -> None:
    """End jobs; a run among them saves itself first."""
    ask("scancel", *jobs)


def outside(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what a job is told: what is started with it is no part of that job, nor named by it."""
    return {
        name: value
        for name, value in environment.items()
        if name == "SLURM_CONF" or not (name.startswith(OF_JOBS) or name in VARIABLES)
    }


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
