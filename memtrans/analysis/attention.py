"""From a trained run to the record of where its attention goes: numbers over a corpus, controls, and example maps."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from memtrans_fairseq.analysis.attention import AttentionMap, Map, Side, by_sentence, captured, standing_in
from memtrans_fairseq.analysis.blocks import Values
from memtrans_fairseq.analysis.numbers import (
    CONFIDENCE,
    RESAMPLES,
    gathered,
    numbers,
    numbers_of_uniform,
    summarised,
)
from memtrans_fairseq.compat import quiet
from memtrans_fairseq.variants import SettingError

import numpy as np

from memtrans import evaluation
from memtrans.analysis.attention_record import SCHEMA, AttentionRecord, Condition, Example, Head, Interval
from memtrans.analysis.run import DRAW_SEED, Opened, check_split, open_run, sentence_batches, stream_of
from memtrans.errors import UserError
from memtrans.progress import say

LONGEST = 16  # words of an example, and as many cached rows
MOST_MEMORY = 40  # memory rows of an example
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
    drawn = "the first of the text, in its rows" if opened.streams else f"drawn at random, seed {DRAW_SEED}"
    return AttentionRecord(
        schema=SCHEMA,
        subject=opened.subject(split, looked_at, drawn),
        confidence=CONFIDENCE,
        resamples=RESAMPLES,
        conditions=tuple(conditions),
        examples=tuple(_examples(opened, split, sentences, examples)),
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
    """What the model attends to, batch by batch: the sentences' (or the segment's) numbers, the sample, the maps."""
    try:
        with quiet(), captured(model) as maps:
            if not opened.streams:
                chosen = evaluation.draw(len(opened.task.dataset(split)), sentences, DRAW_SEED)
                for sample in sentence_batches(opened, split, chosen, shuffled):
                    model(**sample["net_input"])
                    yield sample["id"].tolist(), sample, list(maps)
                    maps.clear()
                return
            stream, state = stream_of(opened, split, shuffled), None
            for number in range(min(len(stream), -(-sentences // stream.rows))):
                sample = stream[number]
                words = sample["net_input"]["src_tokens"].to(next(model.parameters()).device)
                state = model(words, state=state)[1]["state"]
                yield [number] * stream.rows, sample, list(maps)
                maps.clear()
    except SettingError as error:
        raise UserError(f"{opened.run.name}: {error}") from error


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
    heads = [head for (part, layer), values in found.items() for head in _heads(part, layer, values)]
    return Condition(name=name, run=opened.run.hash, sentences=looked_at, heads=tuple(heads))


def _heads(part: Any, layer: int, values: list[Any]) -> Iterator[Head]:
    summary = summarised(gathered(own for own, _ in values))
    even = {name: float(np.nanmean(found)) for name, found in gathered(other for _, other in values).items()}
    for head in range(len(next(iter(summary.values()))[0])):
        yield Head(
            part=part,
            layer=layer + 1,
            head=head + 1,
            statistics={
                name: Interval(
                    **{key: _rounded(of[head]) for key, of in zip(("value", "low", "high"), three, strict=True)},
                    uniform=_rounded(even[name]) if name in even else None,
                )
                for name, three in summary.items()
            },
        )


def _rounded(number: float) -> float:
    return round(float(number), 5)


# --- examples


def _examples(opened: Opened, split: str, sentences: int, examples: int) -> Iterator[Example]:
    """Maps of the sentences whose length is nearest to the median; of a language model, of the first segments that
    state was carried to."""
    found: list[tuple[int, list[Map], dict[str, Any], int]] = []
    for ids, sample, maps in _passes(opened, opened.model, split, sentences, shuffled=False):
        rows = [list(by_sentence(attention)) for attention in maps]
        for place in range(1 if opened.streams else len(ids)):
            found.append((ids[place], [row[place] for row in rows], sample, place))
    if opened.streams:
        chosen = found[1 : 1 + examples] or found
    else:
        typical = np.median([maps[0].weights.shape[-1] for _, maps, _, _ in found])
        chosen = sorted(found, key=lambda one: (abs(one[1][0].weights.shape[-1] - typical), one[0]))[:examples]
    for number, own, sample, place in chosen:
        words = _words(opened, sample, place)
        for part in dict.fromkeys(one.part for one in own):
            yield _example(number, part, [one for one in own if one.part == part], *words)


def _words(opened: Opened, sample: dict[str, Any], place: int) -> tuple[list[str], list[str]]:
    """The source's subwords and the target's, which the decoder predicts; of a language model both are its words."""
    dictionary, task = opened.task.target_dictionary, opened.task
    given = sample["net_input"]["src_tokens"][place].tolist()
    source = [task.source_dictionary[token] for token in given if token != dictionary.pad()]
    target = [dictionary[token] for token in sample["target"][place].tolist() if token != dictionary.pad()]
    return source, source if opened.streams else target


def _example(number: int, part: Any, maps: list[Map], source: list[str], target: list[str]) -> Example:
    down, across = maps[0].down, maps[0].across
    rows, columns = _shown(down), _shown(across)
    weights = np.stack([one.weights for one in maps])[:, :, rows][..., columns]
    row_names, row_kinds = _names(down, target if part == "cross" else source)
    column_names, column_kinds = _names(across, source)
    return Example(
        sentence=number + 1,
        part=part,
        rows=tuple(np.array(row_names)[rows].tolist()),
        row_kinds=tuple(np.array(row_kinds)[rows].tolist()),
        columns=tuple(np.array(column_names)[columns].tolist()),
        column_kinds=tuple(np.array(column_kinds)[columns].tolist()),
        weights=weights.round(3).tolist(),
    )


def _shown(side: Side) -> np.ndarray:
    """The last memory rows, and the last words: those of the segment, and those that are cached."""
    text = ~side.memory
    kinds = ((side.memory, MOST_MEMORY), (text & side.earlier, LONGEST), (text & ~side.earlier, LONGEST))
    return np.sort(np.concatenate([np.flatnonzero(kind)[-most:] for kind, most in kinds]))


def _names(side: Side, words: list[str]) -> tuple[list[str], list[str]]:
    """Each row's name and kind. The words of what is cached are not kept."""
    names, kinds, left = [], [], iter(words)
    for memory, earlier, token in zip(side.memory, side.earlier, side.token, strict=True):
        if memory:
            names.append(f"[mem {token + 1}]")
        else:
            names.append("[cached]" if earlier else next(left))
        kinds.append(("carried" if memory else "cached") if earlier else ("memory" if memory else "sequence"))
    return names, kinds
