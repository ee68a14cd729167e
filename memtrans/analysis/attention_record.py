"""The evidence of where a model's attention goes: `results/attention/<run>.json`, written by `scripts.attention`.

Numbers of every layer and head over a corpus, each with a bootstrap interval, for the trained model and for controls
that tell what it would be worth without training, without meaning, or without memory; and whole maps of a few
sentences. Building or loading one with anything missing or of the wrong kind raises one UserError.
"""

import json
import string
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from memtrans.analysis import subject
from memtrans.analysis.subject import Subject
from memtrans.errors import UserError, did_you_mean
from memtrans.files import write_text
from memtrans.records import HASH, check_matches, check_positive
from memtrans.strict import load_json, strict

SCHEMA = 2
FOLDER = "attention"  # of the folder of results
BLOCKS = {
    "process": "memory attends to memory",
    "write": "memory attends to the sequence",
    "write_cached": "memory attends to cached rows of the sequence",
    "read": "the sequence (in a cross-attention, the target) attends to memory",
    "carried": "the sequence attends to memory that an earlier segment left; a part of read",
    "normal": "the sequence attends to the sequence (in a cross-attention, the target to the source)",
    "cached": "the sequence attends to cached rows of the sequence",
}
PARTS = {"encoder": "encoder", "cross": "cross-attention", "decoder": "language model"}
ROWS = {"memory": "memory's rows", "sequence": "the sequence's rows"}
PATTERNS = {
    "sharp_diagonal": "a row attends to itself",
    "blurred_diagonal": "a row averages its neighbours, two to each side",
    "vertical_stripe": "many rows copy from one column",
    "horizontal_strip": "one row reads from many columns",
    "blocks": "groups of neighbours attend within the group",
}
CONDITIONS = {
    "trained": "the run as trained",
    "untrained": "the same model with weights as the run's seed starts them",
    "shuffled": "the run as trained, the words of each sentence (of a language model, of the text) in random order",
    "baseline": "a run without memory, the first tokens of whose sentences are counted as if they were memory",
}
# what each number means; masses are means over rows, 0 to 1, entropies nats, patterns 0 (uniform attention) to 1
STATISTICS = {
    **{f"mass.{block}": f"share of attention with which {meaning}" for block, meaning in BLOCKS.items()},
    **{f"entropy.{rows}": f"mean entropy of {meaning}, in nats" for rows, meaning in ROWS.items()},
    **{
        f"{block}.{pattern}": f"{BLOCKS[block]}: how much it looks like '{meaning}'"
        for block in ("process", "write", "read", "normal")
        for pattern, meaning in PATTERNS.items()
    },
}
LONGEST = 12  # words of an example, and as many cached rows
MOST_MEMORY = 20  # memory rows of an example
Kind = Literal["memory", "sequence", "carried", "cached"]
Part = Literal["encoder", "cross", "decoder"]
LETTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"


@strict
class Numbers:
    """One number of every head of a layer: its means over sentences, their intervals, and what uniform attention has.

    Uniform attention is the same for all heads; of patterns, for which it scores 0, it is left out.
    """

    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    uniform: float | None = None

    def __post_init__(self) -> None:
        if not len(self.value) == len(self.low) == len(self.high) > 0:
            raise UserError("value, low, high: expected as many of each, one for every head")


@strict
class Layer:
    """All numbers of a layer's heads. `part`: encoder, cross (the decoder's attention to it), decoder (of an LM)."""

    part: Part
    layer: int  # from 1
    statistics: dict[str, Numbers]  # by the names of STATISTICS

    def __post_init__(self) -> None:
        check_positive(self, "layer")
        for name in self.statistics:
            if name not in STATISTICS:
                raise UserError(f"statistics[{name!r}]: no such number; {did_you_mean(name, STATISTICS)}")
        if len({len(numbers.value) for numbers in self.statistics.values()}) != 1:
            raise UserError("statistics: expected as many heads in each, and at least one number")

    @property
    def heads(self) -> int:
        return len(next(iter(self.statistics.values())).value)


@strict
class Condition:
    """The numbers of one model on one kind of input; see CONDITIONS."""

    name: Literal["trained", "untrained", "shuffled", "baseline"]
    run: str  # whose weights, or whose settings
    sentences: int  # a baseline's sentences must have a word left beside those that stand for memory
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        check_matches("run", self.run, HASH, "a hash in lower-case hex")
        check_positive(self, "sentences")
        if not self.layers:
            raise UserError("layers: empty; expected the numbers of every layer and head")

    def of(self, part: str) -> tuple[Layer, ...]:
        """The layers of a part."""
        return tuple(layer for layer in self.layers if layer.part == part)


@strict
class Example:
    """The whole maps of one part for one sentence. Of a long segment the last words alone: rows then sum to less.

    A map is a text with a letter for each weight, row by row: the square root of the weight in 63rds, as its place in
    LETTERS. So 1 and 0 are exact, 0.5 is known to 0.01 and 0.01 to 0.002: enough to see. Numbers are in `conditions`.
    """

    sentence: int  # its number in the split, from 1; of a language model, the segment's
    part: Part
    rows: tuple[str, ...]  # what asks, as text
    row_kinds: tuple[Kind, ...]
    columns: tuple[str, ...]  # what is asked
    column_kinds: tuple[Kind, ...]
    weights: tuple[tuple[str, ...], ...]  # layers x heads

    def __post_init__(self) -> None:
        if (len(self.rows), len(self.columns)) != (len(self.row_kinds), len(self.column_kinds)):
            raise UserError("row_kinds, column_kinds: expected one for each row and column")
        size = len(self.rows) * len(self.columns)
        for text in (text for layer in self.weights for text in layer):
            if len(text) != size or not set(text) <= set(LETTERS):
                raise UserError(
                    f"weights: expected {size} letters in each head, {len(self.rows)} rows of {len(self.columns)}"
                )


@strict
class Maps:
    """Maps of a few sentences, kept in a run's folder to draw pictures from: no evidence, nothing depends on them."""

    split: str
    unit: Literal["sentence", "segment"]
    examples: tuple[Example, ...]

    @classmethod
    def load(cls, path: Path) -> "Maps":
        """Raises UserError naming the file and the field."""
        return load_json(cls, path, "delete it")

    def save(self, path: Path) -> None:
        write_text(path, json.dumps(asdict(self), separators=(",", ":"), ensure_ascii=False) + "\n")


@strict
class AttentionRecord:
    """Where a run's attention goes. The first of `conditions` is the trained model's own."""

    schema: int
    subject: Subject
    confidence: float  # of every interval
    resamples: int  # bootstrap resamples of the sentences
    conditions: tuple[Condition, ...]
    examples: tuple[Example, ...]

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise UserError(f"schema: expected {SCHEMA}, found {self.schema}; use the memtrans that wrote it")
        names = [condition.name for condition in self.conditions]
        if names[:1] != ["trained"] or len(set(names)) < len(names):
            raise UserError(f"conditions: expected trained first and each once, found {', '.join(names) or 'none'}")
        check_positive(self, "confidence", "resamples")

    @classmethod
    def load(cls, path: Path) -> "AttentionRecord":
        return subject.load(cls, path)

    def save(self, results: Path) -> Path:
        """Write `<results>/attention/<run>.json`, whole or not at all, and return its path."""
        return subject.save(self, results / FOLDER)
