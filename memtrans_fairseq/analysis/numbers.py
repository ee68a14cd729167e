"""All numbers of a map, and over many maps their means with intervals.

Names are `mass.<block>`, `entropy.<kind of row>` (see `blocks`) and `<block>.<pattern>` (see `patterns`), for the
blocks process, write, read and normal. Where a map has no such block, or a pattern is not defined on it, there is none.
Where memory stands in several groups, as in language models, patterns of `process` are those within the last group.

Shape legend: S sentences, H heads.
"""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from .attention import Map
from .blocks import Values, entropies, masses, rows_and_columns, uniform
from .patterns import scores

RESAMPLES = 1000
CONFIDENCE = 0.95
Summary = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]  # by name: mean, low, high; H each


def numbers(attention: Map) -> Values:
    """Every number of a map, H each."""
    return {
        **masses(attention.weights, attention),
        **entropies(attention.weights, attention),
        **_patterns(attention),
    }


def numbers_of_uniform(attention: Map) -> Values:
    """Masses and entropies that uniform attention would have, one each.

    Patterns score 0 in a block that all rows give as much. In a language model an early token gives memory more, having
    less else to see, so that uniform attention too reads it in a horizontal strip.
    """
    even = uniform(attention)
    return {**masses(even, attention), **entropies(even, attention)}


def _patterns(attention: Map) -> Values:
    blocks = rows_and_columns(attention.down, attention.across)
    itself = attention.part != "cross"
    # a map's rows are its last columns: what stands before is cached
    shift = attention.weights.shape[-1] - attention.weights.shape[-2]
    found: Values = {}
    for name in ("process", "write", "read", "normal"):
        rows, columns = blocks[name]
        square = itself and name in ("process", "normal")
        if name == "process" and rows.any():
            rows = rows & (np.arange(len(rows)) >= np.flatnonzero(attention.down.token == 0)[-1])
        if square:
            columns = np.concatenate([np.zeros(shift, bool), rows])
        visible = attention.visible[np.ix_(rows, columns)]
        if visible.sum() > 1:
            block = scores(attention.weights[:, rows][..., columns], visible, square)
            found |= {f"{name}.{pattern}": value for pattern, value in block.items()}
    return found


def gathered(values: Iterable[Values]) -> dict[str, np.ndarray]:
    """S' x H by name, of the S' sentences that have such a number; names that no sentence has are left out."""
    rows: dict[str, list[np.ndarray]] = defaultdict(list)
    for value in values:
        for name, heads in value.items():
            rows[name].append(heads)
    stacked = {name: np.stack(heads) for name, heads in rows.items()}
    return {name: heads for name, heads in stacked.items() if not np.isnan(heads).all(axis=0).any()}


def summarised(by_sentence: dict[str, np.ndarray], seed: int = 0) -> Summary:
    """Mean over sentences, and the percentile interval of 1,000 bootstrap resamples of the sentences, by name."""
    return {name: _interval(values, seed) for name, values in by_sentence.items()}


def _interval(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    known = ~np.isnan(values)
    filled = np.where(known, values, 0)
    sentences = len(values)
    times = np.random.default_rng(seed).multinomial(sentences, np.full(sentences, 1 / sentences), size=RESAMPLES)
    with np.errstate(invalid="ignore"):  # a resample without a single sentence that has the number
        resampled = (times @ filled) / (times @ known)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(resampled, [tail, 100 - tail], axis=0)
    return filled.sum(axis=0) / known.sum(axis=0), low, high
