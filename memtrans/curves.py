"""How a run learned: `results/curves/<run>.json`, a small file made from the run's log, which itself is not kept.

The worker writes it just before the record; `python -m scripts.curves` makes it again from any folder of a run that
still has its log. The same log gives the same file. Loading one with anything missing or of the wrong kind raises one
UserError that names the file and the field. No torch is imported here.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Literal

from memtrans.errors import UserError
from memtrans.files import write_text
from memtrans.records import HASH, check_matches
from memtrans.runs import Run
from memtrans.strict import load_json, strict
from memtrans.tracking.metrics import Line, read

SCHEMA = 1
FOLDER = "curves"  # of the folder of results
TRAINING, VALIDATION = "train_inner", "valid"  # parts of the log
MOST = 60  # points while training: the log has thousands
MOST_VALIDATIONS = 150  # so that no file is large; more than any run of the sweeps has


@strict
class Losses:
    """Losses by update: as many of one as of the other, updates rising from at least 1."""

    updates: tuple[int, ...]
    losses: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.updates) != len(self.losses):
            raise UserError(f"losses: expected {len(self.updates)}, one for each update, found {len(self.losses)}")
        if any(after <= before for before, after in zip((0, *self.updates), self.updates, strict=False)):
            raise UserError("updates: expected them to rise from at least 1")

    @property
    def by_update(self) -> dict[int, float]:
        return dict(zip(self.updates, self.losses, strict=True))


@strict
class Curve:
    """Losses in bits per token of the target, as fairseq logs what it minimises: where labels are smoothed, with that.

    `training`: means over spans of equally many lines of the log (one each 20 updates), at most 60, each under the last
    update of its span. `validation`: every validation (of more than 150, every second, third ..., with the last).
    Losses that are not finite are left out. A run that continues another counts its own updates.
    """

    schema: int
    run: str  # the run's hash: its record is results/records/<run>.json
    unit: Literal["bits per token"]
    training: Losses
    validation: Losses

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise UserError(f"schema: expected {SCHEMA}, found {self.schema}; use the memtrans that wrote it")
        check_matches("run", self.run, HASH, "a hash in lower-case hex")

    @classmethod
    def of(cls, run: Run) -> "Curve | None":
        """What the log of a run says; None if it says nothing of a loss, as that of a run of older code."""
        lines = read(run.metrics)
        training, validation = (_points(lines, part) for part in (TRAINING, VALIDATION))
        if not training and not validation:
            return None
        spans = _spans(training, MOST)
        return cls(
            schema=SCHEMA,
            run=run.hash,
            unit="bits per token",
            training=_losses([(span[-1][0], fmean(loss for _, loss in span)) for span in spans]),
            validation=_losses([span[-1] for span in _spans(validation, MOST_VALIDATIONS)]),
        )

    @classmethod
    def load(cls, path: Path) -> "Curve":
        curve = load_json(cls, path, "delete it, and make it again with scripts.curves")
        if path.stem != curve.run:
            raise UserError(f"{path}: run: the file is named after another run than {curve.run!r}; rename or delete it")
        return curve

    def save(self, results: Path) -> Path:
        """Write `<results>/curves/<run>.json`, whole or not at all, a line for each field, and return its path."""
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in asdict(self).items()]
        path = results / FOLDER / f"{self.run}.json"
        write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
        return path


def keep_curve(run: Run) -> None:
    """Write the curve of a run that has just been scored. What its log lacks must not cost the run its record."""
    try:
        if curve := Curve.of(run):
            curve.save(run.results)
    except (UserError, ValueError, TypeError, KeyError) as error:
        print(f"no learning curve was kept: {' '.join(str(error).split())}", flush=True)


def load_curves(results: Path) -> dict[str, Curve]:
    """All curves of a folder of results by run. A broken file raises UserError."""
    curves = [Curve.load(path) for path in sorted((results / FOLDER).glob("*.json"))]
    return {curve.run: curve for curve in curves}


def _points(lines: Sequence[Line], part: str) -> list[tuple[int, float]]:
    found = [(line["update"], line["loss"]) for line in lines if line["part"] == part and "loss" in line]
    return [(update, loss) for update, loss in found if math.isfinite(loss)]


def _spans(points: Sequence[tuple[int, float]], most: int) -> list[Sequence[tuple[int, float]]]:
    """At most so many spans of equally many points; the first may have fewer, so that the last is whole."""
    size = max(1, -(-len(points) // most))
    return [points[max(0, end - size) : end] for end in range(len(points), 0, -size)][::-1]


def _losses(points: Sequence[tuple[int, float]]) -> Losses:
    updates, losses = zip(*points, strict=True) if points else ((), ())
    return Losses(updates=updates, losses=tuple(round(loss, 3) for loss in losses))  # as many decimals as fairseq logs
