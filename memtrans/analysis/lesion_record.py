"""The evidence of what memory is worth to a trained model: `results/lesions/<run>.json`, written by `scripts.lesion`.

The intact model's score, and that of each lesion with the difference to it and a paired test. Building or loading one
with anything missing or of the wrong kind raises one UserError.
"""

from pathlib import Path
from typing import Literal

from memtrans.analysis import subject
from memtrans.analysis.subject import Subject
from memtrans.errors import UserError
from memtrans.records import Score, check_positive
from memtrans.strict import strict

SCHEMA = 1
FOLDER = "lesions"  # of the folder of results
KINDS = {
    "first": "the first tokens are kept, all others removed",
    "random": "tokens drawn at random are kept, all others removed",
    "single": "one token is removed",
    "frozen": "every memory row has its mean over the text, whatever is read",
    "zeroed": "memory is zero from what a layer takes in on",
    "blind": "the decoder does not see memory, or not the sequence",
    "more": "more tokens than the model was trained with, before any further training",
}


@strict
class Measured:
    """One lesion and its score. Tokens and layers count from 1."""

    kind: Literal["first", "random", "single", "frozen", "zeroed", "blind", "more"]
    name: str  # for people, for example "first 5 of 10 tokens"
    value: float  # the metric with the lesion
    difference: float  # value - intact
    p: float  # of the paired test, not corrected for the number of lesions
    low: float | None = None  # of the difference; None where the test has no interval
    high: float | None = None
    kept: tuple[int, ...] | None = None  # the tokens that were left; None: all
    layer: int | None = None
    blind_to: Literal["memory", "sequence"] | None = None
    tokens: int | None = None  # more: so many in all
    start: Literal["new", "copies"] | None = None  # more: how further tokens start

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1:
            raise UserError(f"p: expected a probability above 0, found {self.p!r}")
        needed = {"first": "kept", "random": "kept", "single": "kept", "zeroed": "layer", "blind": "blind_to"}
        field = needed.get(self.kind, "tokens" if self.kind == "more" else None)
        if field and getattr(self, field) is None:
            raise UserError(f"{field}: missing; a lesion of the kind {self.kind} needs it")


@strict
class LesionRecord:
    """The lesions of one run. `intact` says the metric, its signature or context, and on how many items."""

    schema: int
    subject: Subject
    intact: Score
    test: str  # which paired test, with its signature or its number of resamples and seed
    lesions: tuple[Measured, ...]
    left_out: dict[str, str]  # lesions that this model cannot have, and why

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise UserError(f"schema: expected {SCHEMA}, found {self.schema}; use the memtrans that wrote it")
        check_positive(self.subject, "memory_tokens")
        if not self.lesions:
            raise UserError("lesions: empty; a record needs at least one")
        for number, lesion in enumerate(self.lesions):
            if abs(self.intact.value + lesion.difference - lesion.value) > 1e-6:
                raise UserError(
                    f"lesions[{number}].difference: expected that to the intact model's {self.intact.value}"
                )

    @classmethod
    def load(cls, path: Path) -> "LesionRecord":
        return subject.load(cls, path)

    def save(self, results: Path) -> Path:
        """Write `<results>/lesions/<run>.json`, whole or not at all, and return its path."""
        return subject.save(self, results / FOLDER)
