"""The log that all else is made from: `runs/<hash>/metrics.jsonl`, a flat JSON object a line.

Every line has `time` (seconds since 1970), `part` and `update`. The part is fairseq's: `train_inner` (every 20
updates), `train` (a whole epoch), or a validation set, with `epoch` and numbers such as `loss`; or `score`, at the end,
with `split`, `metric`, `value`, `items` and `evidence`. Numbers that are not finite are strings: "nan", "inf", "-inf".

The file is only appended to, by one process at a time. A writer that was killed may leave half a line, which readers
pass over; and a continued run logs the updates since its last checkpoint again, of which the last stands.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Line = dict[str, Any]
SCORE = "score"
_SAME = ("part", "update", "split", "metric", "evidence")  # two lines that agree in these are about the same thing
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def append(path: Path, line: Line) -> None:
    """Add a line at the end. Raises OSError, after which half a line may be there."""
    text = json.dumps({key: _plain(value) for key, value in line.items()}, allow_nan=False).encode() + b"\n"
    with path.open("ab+") as file:  # opened each time: that is when a network file system shows it to others
        if file.tell() and (file.seek(-1, 2), file.read(1))[1] != b"\n":
            text = b"\n" + text  # the last writer did not get to the end of its line
        file.write(text)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class Reader:
    """Reads a log while it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0  # bytes read so far: whole lines

    def new(self) -> list[Line]:
        """The lines that have been completed since the last call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self.position)
            whole, newline, _ = file.read().rpartition(b"\n")
        self.position += len(whole) + len(newline)
        return [line for text in whole.split(b"\n") if (line := _parse(text))]


def _parse(text: bytes) -> Line | None:
    try:
        line = json.loads(text)
        line["part"], line["update"], line["time"]  # what every whole line has
    except (ValueError, TypeError, KeyError):
        return None
    return {key: _NOT_FINITE.get(value, value) if isinstance(value, str) else value for key, value in line.items()}


def resolved(lines: Iterable[Line]) -> list[Line]:
    """By update, each thing once: the last that was said of it."""
    last = {tuple(line.get(key) for key in _SAME): line for line in lines}
    return sorted(last.values(), key=lambda line: (line["update"], line["time"]))


def read(path: Path) -> list[Line]:
    """All that a log says, resolved; nothing if it is not there."""
    return resolved(Reader(path).new())


def numbers(line: Line) -> dict[str, float]:
    """What trackers draw curves of."""
    return {
        key: value for key, value in line.items() if isinstance(value, int | float) and key not in ("time", "update")
    }
