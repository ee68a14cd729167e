"""What a run's log says of its progress. fairseq writes JSON lines; nothing here decides a result."""

import json
from dataclasses import dataclass
from pathlib import Path

SCORING = ("translating ", "scoring ")  # how a line of the evaluation begins
TAIL = 65536  # bytes: many log lines, few disk reads


@dataclass(frozen=True)
class Progress:
    """How far a run is: `fraction` of its training, 0 to 1, and a short text for people."""

    fraction: float
    text: str


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
    parts = [
        float(stats["num_updates"]) / train["max_update"] if train["max_update"] else 0.0,
        float(stats["update"]) / train["max_epoch"] if train["max_epoch"] else 0.0,
    ]
    rate = float(stats.get("wps", 0))
    text = f"epoch {stats['epoch']}, update {stats['num_updates']}, loss {stats['loss']}, {rate:,.0f} tokens/s"
    return Progress(min(max(parts), 1.0), text)


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
