"""The side of the training process: fairseq's numbers into the log, and the follower that feeds the trackers."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from memtrans.records import Record
from memtrans.runs import Run
from memtrans.tracking import metrics
from memtrans.tracking.follow import LOST, WELL

FAIRSEQ = "fairseq.logging.progress_bar"  # the logger to which fairseq's JSON progress bar writes
SECONDS_AFTER_SUCCESS = 180.0  # for uploads of what the trackers still hold
SECONDS_AFTER_A_STOP = 10.0  # a scheduler that preempts does not wait long


class Metrics(logging.Handler):
    """Writes a run's log. As a handler of fairseq's logger it gets what fairseq shows: each message is a JSON object.

    A log that cannot be written costs the run nothing: it is said once, and tried again with the next line.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(logging.INFO)
        self.path = run.metrics
        self.complained = False

    def emit(self, record: logging.LogRecord) -> None:
        """One of fairseq's messages. Its logger has the name of the part for as long as it writes."""
        try:
            stats = json.loads(record.getMessage())
            self.add(record.name, **_named(stats, record.name))
        except (ValueError, KeyError, TypeError):  # not numbers, but a word to the user
            pass

    def scores(self, record: Record) -> None:
        """The scores of a run that is done."""
        for score in record.scores:
            values = {"split": score.split, "metric": score.metric, "value": score.value, "items": score.items}
            self.add(metrics.SCORE, update=record.updates, **values, evidence=score.evidence)

    def add(self, part: str, update: int, **values: Any) -> None:
        try:
            metrics.append(self.path, {"time": round(time.time(), 3), "part": part, "update": update, **values})
        except OSError as error:
            if not self.complained:
                print(f"not logged to {self.path}: {error.strerror}", flush=True)
            self.complained = True


def _named(stats: dict[str, Any], part: str) -> dict[str, Any]:
    """fairseq's numbers by our names. Its `update` is a number of epochs, its `num_updates` ours; all are strings.

    At the end of an epoch fairseq puts the part before each name.
    """
    named = {key.removeprefix(f"{part}_"): value for key, value in stats.items()}
    values = {key: float(value) for key, value in named.items() if key not in ("epoch", "update", "num_updates")}
    epochs = {"epochs": named["update"]} if "update" in named else {}
    return {"update": int(float(named["num_updates"])), "epoch": named["epoch"], **epochs, **values}


@contextmanager
def tracked(run: Run) -> Iterator[Metrics]:
    """Log what happens in the block, by the first rank's process alone. Trackers that are switched on follow."""
    handler, logger = Metrics(run), logging.getLogger(FAIRSEQ)
    logger.addHandler(handler)
    follower = _follower(run) if run.tracked else None
    word, seconds = LOST, SECONDS_AFTER_A_STOP
    try:
        yield handler
        word, seconds = WELL, SECONDS_AFTER_SUCCESS
    finally:
        logger.removeHandler(handler)
        if follower:
            _end(follower, word, seconds, run)


def _follower(run: Run) -> subprocess.Popen | None:
    command = [sys.executable, "-m", "memtrans.tracking", str(run.folder)]
    try:
        with (run.folder / "tracking.txt").open("ab") as complaints:  # of W&B, which must not look like the run's own
            return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=complaints)
    except OSError as error:
        print(f"not tracked: {error.strerror}", flush=True)
        return None


def _end(follower: subprocess.Popen, word: bytes, seconds: float, run: Run) -> None:
    """Tell the follower that the run has ended, and give it some time."""
    try:
        follower.communicate(word, timeout=seconds)
        lost = follower.returncode != 0
    except subprocess.TimeoutExpired:
        follower.kill()
        follower.wait()
        lost = True
    if lost:
        print(f"not all was tracked; python -m scripts.track {run.folder} does it again from the log", flush=True)
