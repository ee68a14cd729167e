"""Feeding W&B and TensorBoard from a run's log while it grows.

A tracker that fails is lost for this attempt, with one line in the run's log. The next attempt begins by telling its
trackers what the log says already, and `scripts.track` tells them all of it.
"""

import math
from collections.abc import Callable

from memtrans.runs import Run
from memtrans.tracking.metrics import SCORE, Line, Reader, read, resolved
from memtrans.tracking.pictures import draw
from memtrans.tracking.trackers import Tracker

WELL, LOST = b"+", b"-"  # how the run ended, as its process says it


def follow(run: Run, trackers: dict[str, Tracker], ended: Callable[[], bytes | None]) -> None:
    """Give the trackers what the log says and will say, until `ended` says how the run went."""
    reader = Reader(run.metrics)
    earlier: list[Line] = resolved(reader.new())  # by earlier attempts, some of it perhaps to be said again
    word = None
    while word is None and trackers:
        word = ended()
        new = reader.new()
        if new or word is not None:
            for line in [*_kept(earlier, new), *new]:
                _tell(trackers, "log", line)
            earlier = []
    if trackers:
        lines = read(run.metrics)
        _tell(trackers, "finish", lines, draw(run, lines), word == WELL)


def _kept(earlier: list[Line], new: list[Line]) -> list[Line]:
    """The earlier lines before the update from which the training now goes on."""
    begins = min((line["update"] for line in new if line["part"] != SCORE), default=math.inf)
    return [line for line in earlier if line["update"] < begins]


def _tell(trackers: dict[str, Tracker], method: str, *arguments: object) -> None:
    for name, tracker in list(trackers.items()):
        try:
            getattr(tracker, method)(*arguments)
        except Exception as error:  # whatever it is, the run matters more
            del trackers[name]
            lost(name, error)


def lost(name: str, error: Exception) -> None:
    reason = " ".join(str(error).split()) or type(error).__name__
    print(f"not logged to {name}: {reason}", flush=True)
