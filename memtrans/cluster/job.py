"""What a job of the cluster does: it starts a process, hands on Slurm's signals, and asks for another attempt.

submitit pickles these objects, and calls them in the job, once a task of srun. Slurm sends SIGUSR2 shortly before a
time limit, and SIGTERM when it takes the job away (preemption, requeue, scancel) and itself decides what becomes of it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from submitit.core.utils import DelayedSubmission
from submitit.helpers import TorchDistributedEnvironment

from memtrans import processes
from memtrans.stops import SIGNALS, STOPPED

AGAIN = (signal.SIGUSR1, signal.SIGUSR2)  # after these, the job itself asks for another attempt


@dataclass(frozen=True)
class Step:
    """A run's worker, or a half of it; of a run on several GPUs every task is a rank, told so as by torchrun."""

    folder: Path  # of the run
    half: str  # train or evaluate

    def __call__(self) -> None:
        rank = int(os.environ["SLURM_PROCID"])
        if rank == 0:
            processes.forget_failure(self.folder)
        # a file for each: several nodes cannot append to the same one
        log = self.folder / (f"log.{rank}.txt" if rank else "log.txt")
        reason = supervise([*processes.MODULE, str(self.folder), self.half], log, environment())
        if reason:
            where = f" (process {rank})" if rank else ""
            processes.note_failure(self.folder, reason + where)
            sys.exit(f"error: {reason}{where}")

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
        if reason := supervise(self.arguments, self.folder / "log.txt", outside()):
            processes.note_failure(self.folder, reason)
            sys.exit(f"error: {reason}")

    def checkpoint(self) -> DelayedSubmission:
        return DelayedSubmission(self)


def supervise(arguments: Sequence[str], log: Path, variables: Mapping[str, str]) -> str | None:
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
    for each in SIGNALS:
        signal.signal(each, hand_on)
    process, begin = processes.start(arguments, log, variables)
    for number in tuple(received):
        process.send_signal(number)
    code = process.wait()
    # killed by what it was sent: it had not begun to listen, so there was nothing to save
    if received and (code == STOPPED or -code in received):
        _again(requeue if received[0] in AGAIN else None)
    return processes.why(code, log, begin)


def _again(requeue: Callable | int | None) -> None:
    if callable(requeue):
        requeue(signal.SIGUSR2, None)  # in the first task: requeues and exits; in the others it does nothing
        sys.exit(0)
    sys.exit(STOPPED)


def environment() -> dict[str, str]:
    """The environment of a run's process: of several, each is told its rank in torchrun's words."""
    threads = {"OMP_NUM_THREADS": os.environ.get("SLURM_CPUS_PER_TASK", "1")}
    if int(os.environ["SLURM_NTASKS"]) > 1:
        # all of the node's GPUs stay visible, and each process takes that of its local rank, as under torchrun
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    return {**threads, **os.environ}


def outside() -> dict[str, str]:
    """The environment without what this job is: a command in it may submit others."""
    own = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_")
    return {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or not name.startswith(own)}
