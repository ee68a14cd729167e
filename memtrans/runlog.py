"""What a run's log says of its progress. fairseq writes JSON lines; nothing here decides a result."""

import json
from dataclasses import dataclass
from pathlib import Path

SCORING = ("translating ", "scoring ")  # how a line of the evaluation begins
TAIL = 65536  # bytes: many log lines, few disk reads


@dataclass(frozen=True)
class Progress:
    """How far a run is: `fraction` of its training, 0 to 1, and a short text for people. While it is evaluated the rest
    is not known, and the time that is left neither before fairseq has measured its speed.
    """

    fraction: float
    text: str
    epoch: int | None = None
    update: int | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None  # of the training, at the speed of the last updates

    @property
    def with_time_left(self) -> str:
        """The text, and how long the training will take yet, if that is known."""
        return self.text + (f", {_duration(self.seconds_left)} left" if self.seconds_left else "")


def _duration(seconds: float) -> str:
    """In a unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def read_progress(log: Path, train: dict) -> Progress | None:
    """The newest progress in a log, or None before the first. `train` is the run's training options."""
    for line in reversed(_tail(log)):
        if line.startswith(SCORING):
            return Progress(1.0, line)
        _, found, text = line.partition(" | train_inner | ")
        if found and text.startswith("{"):
            try:
                return _progress(json.loads(text), train)
            except ValueError:  # a line that is being written just now
                continue
    return None


def _progress(stats: dict, train: dict) -> Progress:
    updates, epochs = float(stats["num_updates"]), float(stats["update"])  # in fairseq's words
    parts = [
        updates / train["max_update"] if train["max_update"] else 0.0,
        epochs / train["max_epoch"] if train["max_epoch"] else 0.0,
    ]
    fraction, rate = min(max(parts), 1.0), float(stats.get("wps", 0))
    left = updates * (1 - fraction) / fraction * float(stats["wpb"]) / rate if rate and fraction else None
    return Progress(
        fraction=fraction,
        text=f"epoch {stats['epoch']}, update {stats['num_updates']}, loss {stats['loss']}, {rate:,.0f} tokens/s",
        epoch=stats["epoch"],
        update=int(updates),
        loss=float(stats["loss"]),
        tokens_per_second=rate,
        seconds_left=left,
    )


def last_error(log: Path, start: int = 0) -> str:
    """Why the run that wrote the log from byte `start` on failed: its `error:` line, its exception, or its last words.

    An exception's message may have several lines; the first has its type and says what happened.
    """
    lines = [line for line in _tail(log, start) if line.strip()]
    said = [line for line in lines if line.startswith("error: ")]
    tracebacks = [number for number, line in enumerate(lines) if line == "Traceback (most recent call last):"]
    if not said and tracebacks:
        said = [line for line in lines[tracebacks[-1] + 1 :] if not line.startswith(" ")][:1]
    return (said or lines or ["it wrote nothing"])[-1].strip().removeprefix("error: ")


def _tail(log: Path, start: int = 0) -> list[str]:
    if not log.exists():
        return []
    with log.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(start, size - TAIL))
        return file.read().decode(errors="replace").splitlines()
