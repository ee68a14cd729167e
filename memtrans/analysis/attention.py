"""From a trained run to the record of where its attention goes: numbers over a corpus, and controls."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from memtrans_fairseq.analysis.attention import AttentionMap, Map, by_sentence, standing_in
from memtrans_fairseq.analysis.blocks import Values
from memtrans_fairseq.analysis.numbers import (
    CONFIDENCE,
    RESAMPLES,
    gathered,
    numbers,
    numbers_of_uniform,
    summarised,
)

import numpy as np

from memtrans.analysis.attention_record import SCHEMA, AttentionRecord, Condition, Layer, Numbers
from memtrans.analysis.examples import find_examples
from memtrans.analysis.run import (
    DRAW_SEED,
    Opened,
    check_split,
    drawn,
    open_run,
    segment_passes,
    sentence_passes,
    stream_of,
)
from memtrans.errors import UserError
from memtrans.progress import say

Change = Callable[[Map], Map | None]


def analyse(folder: Path, baseline: str | None, split: str | None, sentences: int, examples: int) -> AttentionRecord:
    """Look at `sentences` of a split (by default the one that the run is scored on). Raises UserError.

    Of a language model these are segments, in the order of the text, in all the rows that it is scored in.
    """
    opened = open_run(folder)
    split = split or opened.run.identity["protocol"]["split"]
    other = open_run(Path(baseline)) if baseline else None
    check_split(opened, split)
    if other:
        _check_baseline(opened, other)
        check_split(other, split)
    conditions = [_condition("trained", opened, opened.model, split, sentences)]
    conditions.append(_condition("untrained", opened, opened.untrained(), split, sentences))
    conditions.append(_condition("shuffled", opened, opened.model, split, sentences, shuffled=True))
    if other:
        tokens = opened.memory_tokens
        conditions.append(
            _condition(
                "baseline", other, other.model, split, sentences, change=lambda found: standing_in(found, tokens)
            )
        )
    looked_at = conditions[0].sentences
    how = "the first of the text, in its rows" if opened.streams else f"drawn at random, seed {DRAW_SEED}"
    return AttentionRecord(
        schema=SCHEMA,
        subject=opened.subject(split, looked_at, how),
        confidence=CONFIDENCE,
        resamples=RESAMPLES,
        conditions=tuple(conditions),
        examples=tuple(find_examples(opened, split, sentences, examples)),
    )


def _check_baseline(opened: Opened, other: Opened) -> None:
    if other.memory_tokens:
        raise UserError(f"baseline={other.run.folder}: it has memory itself; give a run of the same corpus without")
    if other.run.identity["corpus"] != opened.run.identity["corpus"]:
        raise UserError(f"baseline={other.run.folder}: it was trained on another corpus; give one of the same")
    if not opened.memory_tokens:
        raise UserError(f"{opened.run.folder}: it has no memory that a baseline could be compared with; leave baseline")


def _passes(
    opened: Opened, model: Any, split: str, sentences: int, shuffled: bool
) -> Iterator[tuple[list[int], dict[str, Any], list[AttentionMap]]]:
    """What the model attends to in so many sentences, or segments of all rows of the text together."""
    if opened.streams:
        stream = stream_of(opened, split, shuffled)
        return segment_passes(opened, model, stream, -(-sentences // stream.rows))
    return sentence_passes(opened, model, split, drawn(opened, split, sentences), shuffled)


def _condition(
    name: Any,
    opened: Opened,
    model: Any,
    split: str,
    sentences: int,
    shuffled: bool = False,
    change: Change = lambda found: found,
) -> Condition:
    say(f"{opened.run.name}: attention, {name}")
    found: dict[tuple[str, int], list[tuple[Values, Values]]] = defaultdict(list)
    for _, _, maps in _passes(opened, model, split, sentences, shuffled):
        for attention in maps:
            kept = [changed for one in by_sentence(attention) if len(one.weights[0]) and (changed := change(one))]
            found[attention.part, attention.layer] += [(numbers(one), numbers_of_uniform(one)) for one in kept]
    looked_at = min(len(values) for values in found.values())
    if not looked_at:
        raise UserError(f"{name}: no sentence of {split} is longer than the memory; give another split")
    layers = tuple(_layer(part, layer, values) for (part, layer), values in found.items())
    return Condition(name=name, run=opened.run.hash, sentences=looked_at, layers=layers)


def _layer(part: Any, layer: int, values: list[Any]) -> Layer:
    summary = summarised(gathered(own for own, _ in values))
    even = {name: float(np.nanmean(found)) for name, found in gathered(other for _, other in values).items()}
    return Layer(
        part=part,
        layer=layer + 1,
        statistics={
            name: Numbers(
                value=_rounded(value), low=_rounded(low), high=_rounded(high), uniform=_rounded(even.get(name))
            )
            for name, (value, low, high) in summary.items()
        },
    )


def _rounded(found: Any) -> Any:
    """A number, or one of every head, to four decimals: intervals over some hundred sentences are wider."""
    return None if found is None else np.round(found, 4).tolist()
