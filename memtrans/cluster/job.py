"""What a job of the cluster does: it starts a process, hands on Slurm's signals, and asks for another attempt.

submitit pickles these objects, and calls them in the job, once a task of srun. Slurm sends SIGUSR2 shortly before a
time limit, and SIGTERM when it takes the job away. Of scancel and requeue it knows what becomes of the job; one that is
preempted with a time of grace has to ask for its other attempt itself, as after a time limit.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from submitit import JobEnvironment
from submitit.core.utils import DelayedSubmission
from submitit.helpers import TorchDistributedEnvironment

from memtrans import processes
from memtrans.cluster import slurm
from memtrans.errors import UserError
from memtrans.ranks import VARIABLES
from memtrans.stops import SIGNALS, STOPPED

AGAIN = (signal.SIGUSR1, signal.SIGUSR2)  # after these, the job itself asks for another attempt
PORTS = range(12000, 32000)  # where the processes of a run meet; above, Linux gives ports to whoever asks
LATE_SECONDS = 5.0  # that a signal may come to this process after it came to another one of the run


@dataclass(frozen=True)
class Step:
    """A run's worker, or a half of it; of a run on several GPUs every task is a rank, told so as by torchrun."""

    folder: Path  # of the run
    half: str  # train or evaluate
    gpus: bool = False  # it must see one
    python: Sequence[str] = (sys.executable,)  # starts the worker's Python, perhaps in a container

    def __call__(self) -> None:
        rank = int(os.environ["SLURM_PROCID"])
        if not rank:
            processes.forget_failure(self.folder)  # of the attempt before
        # a file for each: several nodes cannot append to the same one
        log = self.folder / (f"log.{rank}.txt" if rank else "log.txt")
        module = ("-m", "memtrans.cluster.worker") if self.gpus else processes.MODULE
        reason = supervise([*module, str(self.folder), self.half], log, environment(), self.python)
        if reason:
            _fail(self.folder, reason + (f" (process {rank})" if rank else ""))

    def checkpoint(self) -> DelayedSubmission:
        """What the next attempt does: the same."""
        return DelayedSubmission(self)


@dataclass(frozen=True)
class Command:
    """One of this project's commands, such as `scripts.tabulate`, with a log and, if it fails, a note in `folder`."""

    arguments: tuple[str, ...]
    folder: Path

    def __call__(self) -> None:
        processes.forget_failure(self.folder)
        if reason := supervise(self.arguments, self.folder / "log.txt", slurm.outside(os.environ)):
            _fail(self.folder, reason)

    def checkpoint(self) -> DelayedSubmission:
        return DelayedSubmission(self)


def _fail(folder: Path, reason: str) -> None:
    processes.note_failure(folder, reason)
    sys.exit(f"error: {reason}")


def supervise(
    arguments: Sequence[str], log: Path, variables: Mapping[str, str], python: Sequence[str] = (sys.executable,)
) -> str | None:
    """Run Python with these arguments to its end. Returns why it failed, if it did.

    Stopped by a signal, it does not return: submitit requeues the job, or Slurm does what it has in mind.
    """
    received: list[int] = []
    process: subprocess.Popen | None = None

    def hand_on(number: int, _: object) -> None:
        received.append(number)
        if process:
            process.send_signal(number)

    requeue = signal.getsignal(signal.SIGUSR2)  # submitit's
    assert callable(requeue)
    for each in SIGNALS:
        signal.signal(each, hand_on)
    try:
        process, begin = processes.start(arguments, log, variables, python)
    except OSError as error:
        return f"cannot start {python[0]}: {error.strerror}"
    for number in tuple(received):
        process.send_signal(number)
    code = process.wait()
    # killed by what it was sent (which a container tells as a shell does): it had not begun to listen, nor to work
    if code == STOPPED or -code in received or code - 128 in received:
        return _stopped(received, requeue)
    return processes.why(code, log, begin)


def _stopped(received: Sequence[int], requeue: Callable) -> str:
    """All is saved: end, with another attempt if that is for the job to ask. Returns only if it is refused: why."""
    if int(os.environ["SLURM_PROCID"]):
        sys.exit(0)  # that is for the first task, which would be killed if this one seemed to fail
    end = time.monotonic() + LATE_SECONDS
    while not received and time.monotonic() < end:  # another process of the run was told first, and told this worker
        time.sleep(0.1)
    if not _asks(received):
        sys.exit(STOPPED)
    try:
        requeue(signal.SIGUSR2, None)  # ends this process
    except (OSError, subprocess.SubprocessError) as error:
        return f"all is saved, but Slurm does not requeue the job ({error}); the same command continues the run"
    raise AssertionError("submitit ends the process")


def _asks(received: Sequence[int]) -> bool:
    """Whether the job has to ask for another attempt, and nobody has decided otherwise meanwhile."""
    told = any(number in AGAIN for number in received)
    try:
        job = slurm.details(JobEnvironment().job_id)
    except UserError:  # Slurm does not answer
        return told
    return job["JobState"] == "RUNNING" and (told or job.get("PreemptTime", "None") != "None")


def environment() -> dict[str, str]:
    """The environment of a run's process: of several, each is told its rank in torchrun's words."""
    variables = {"OMP_NUM_THREADS": os.environ.get("SLURM_CPUS_PER_TASK", "1"), **os.environ}
    for name in VARIABLES:  # those of whoever submitted
        variables.pop(name, None)
    if int(os.environ["SLURM_NTASKS"]) == 1:
        return variables
    # all of the node's GPUs stay visible, and each process takes that of its local rank, as under torchrun
    own = TorchDistributedEnvironment()
    values = (own.rank, own.world_size, own.local_rank, own.master_addr, port(os.environ))
    return variables | dict(zip(VARIABLES, map(str, values), strict=True))


def port(variables: Mapping[str, str]) -> int:
    """The same for all tasks of a job, others for its next attempts and the jobs after it."""
    number = 8 * int(variables["SLURM_JOB_ID"]) + int(variables.get("SLURM_RESTART_COUNT", 0))
    return PORTS[number % len(PORTS)]
