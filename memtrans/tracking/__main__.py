"""The process that feeds the trackers of one run: `python -m memtrans.tracking runs/<hash>`, started by its worker.

It ends when its standard input says how the run went, or closes because the worker is gone. Signals that a scheduler or
a terminal sends to all processes are not for it.
"""

import select
import signal
import sys
from pathlib import Path

from memtrans.runs import Run
from memtrans.tracking.follow import follow, lost
from memtrans.tracking.trackers import Tracker, chosen

POLL_SECONDS = 1.0


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    run = Run.read(Path(sys.argv[1]))
    trackers: dict[str, Tracker] = {}
    for name, begin in chosen(run, run.tracking["wandb"], run.tracking["tensorboard"]).items():
        try:
            trackers[name] = begin()
        except Exception as error:  # whatever it is, the run matters more
            lost(name, error)
    follow(run, trackers, ended)


def ended() -> bytes | None:
    """How the run went, nothing if its worker was lost; None if it goes on after some seconds."""
    said, _, _ = select.select([sys.stdin.buffer], [], [], POLL_SECONDS)
    return sys.stdin.buffer.read(1) if said else None


if __name__ == "__main__":
    main()
