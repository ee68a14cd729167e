"""Submit what is missing: an array that trains, one that scores, and a job that writes the table after them.

Every task of the second waits for its own task of the first, the table for all of them. Only the training takes several
GPUs; a run that is trained already is only scored.
"""

import hashlib
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import submitit
from omegaconf import DictConfig
from submitit.core.utils import FailedJobError

from memtrans import processes
from memtrans.cluster import settings, slurm
from memtrans.cluster.job import Command, Step
from memtrans.cluster.submissions import Submission, live, mend
from memtrans.configuration import CONFIGS
from memtrans.errors import UserError
from memtrans.locks import locked
from memtrans.progress import say
from memtrans.runs import Run


def submit(runs: Sequence[Run], launcher: DictConfig) -> None:
    """Submit those that have neither a record nor a job, and say so. Raises UserError if Slurm refuses."""
    top = runs[0].runs
    with locked(top / "slurm" / "lock", "submitting"):
        queue = mend(top, slurm.queued())
        missing = [run for run in runs if run.record() is None]
        at_work = live(top, queue)
        new = [run for run in missing if run.hash not in at_work]
        say(f"{len(runs)} runs: {len(runs) - len(missing)} done, {len(missing) - len(new)} with a job already")
        if new:
            for run in new:
                run.write()
                processes.forget_failure(run.folder)
            _sent(lambda: _send(new, launcher), top)


def submit_command(module: str, overrides: Sequence[str], config: DictConfig) -> None:
    """Submit `python -m <module> <overrides>` as a job that prepares, unless there is one already. Raises UserError."""
    again = [override for override in overrides if not override.startswith("launcher.prepare=")]
    runs, command = Path(config.paths.runs), ("-m", module, *again, "launcher.prepare=here")
    name = "command-" + hashlib.sha256(repr((command, str(runs.resolve()))).encode()).hexdigest()[:8]
    with locked(runs / "slurm" / "lock", "submitting"):
        queue = mend(runs, slurm.queued())
        submission = Submission(runs / "slurm" / name, {"prepare": []})
        if at_work := submission.jobs(queue):
            say(f"job {at_work[0][0].id} is at it already")
            return

        def send() -> None:
            Submission.create(runs, submission.tasks, name, f"python {shlex.join(command)}")
            call = Command(command, submission.folder)
            job = _array(submission, "prepare", [call], config.launcher, small=True, hold=True)
            submission.start([job])
            say(f"job {job} will prepare the corpus and submit the runs (log: {submission.folder / 'log.txt'})")

        _sent(send, runs)


def _sent(send: Callable[[], None], runs: Path) -> None:
    """Send, or take back what was sent so far and tell why Slurm refused."""
    try:
        send()
    except FailedJobError as error:
        mend(runs, slurm.queued())
        raise UserError(f"Slurm refuses the jobs: {' '.join(str(error).split())}; nothing was submitted") from None


def _send(new: Sequence[Run], launcher: DictConfig) -> None:
    trained = [run for run in new if (run.folder / "trained").exists()]
    rest = [run for run in new if run not in trained]
    groups = {"train": rest, "evaluate": rest, "score": trained}
    tasks = {step: [run.hash for run in group] for step, group in groups.items() if group}
    submission = Submission.create(new[0].runs, tasks | ({"table": []} if launcher.table else {}))
    python = shlex.split(launcher.python) if launcher.python else [sys.executable]
    held, last = [], []

    def array(step: str, half: str, gpus: int, nodes: int = 1, **further: Any) -> str:
        calls = [Step(run.folder, half, gpus > 0, python) for run in groups[step]]
        return _array(submission, step, calls, launcher, gpus, nodes, **further)

    one = min(launcher.gpus, 1)
    if rest:
        held.append(array("train", "train", launcher.gpus, launcher.nodes, hold=True))
        # "corr": each task waits for its own
        after = f"{'aftercorr' if len(rest) > 1 else 'afterok'}:{held[0]}"
        last.append(array("evaluate", "evaluate", one, dependency=after))
    if trained:
        held.append(array("score", "evaluate", one, hold=True))
        last.append(held[-1])
    if launcher.table:
        tabulate = ("-m", "scripts.tabulate", "--results", str(new[0].results), "--configs", str(CONFIGS))
        call = Command(tabulate, submission.folder)
        last.append(_array(submission, "table", [call], launcher, small=True, dependency=":".join(["afterany", *last])))
    submission.start(held)
    say(f"{len(new)} submitted: jobs {', '.join(sorted({*held, *last}, key=int))}; python -m scripts.status shows them")


def _array(
    submission: Submission,
    step: str,
    calls: Sequence[Callable[[], Any]],
    launcher: DictConfig,
    gpus: int = 0,
    nodes: int = 1,
    small: bool = False,
    **further: Any,
) -> str:
    """Submit an array that makes these calls, or a plain job that makes the only one; its number."""
    executor = submitit.SlurmExecutor(submission.folder / step, launcher.max_timeouts)
    executor.update_parameters(**settings.options(launcher, submission.name(step), gpus, nodes, small, **further))
    with executor.batch():
        jobs = [executor.submit(call) for call in calls]
    return jobs[0].job_id.partition("_")[0]
