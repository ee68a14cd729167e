"""Whole attention maps of a few sentences: for the record of a run's attention, and for pictures that trackers show."""

from collections.abc import Iterator
from typing import Any

from memtrans_fairseq.analysis.attention import Map, Side, by_sentence

import numpy as np

from memtrans.analysis.attention_record import LETTERS, LONGEST, MOST_MEMORY, Example, Maps
from memtrans.analysis.run import Opened, check_split, drawn, segment_passes, sentence_passes, stream_of

SPLIT = "valid"  # of the pictures: what is seen on the way must not be the test set
PICTURED = 2  # sentences, or segments
AMONG = 500  # sentences, so many of which the typical ones are chosen from


def keep_maps(opened: Opened) -> None:
    """Keep maps of some validation sentences in the run's folder. A failure costs a line in its log, nothing else."""
    try:
        check_split(opened, SPLIT)
        found = tuple(find_examples(opened, SPLIT, AMONG, PICTURED))
        Maps(split=SPLIT, unit=opened.unit, examples=found).save(opened.run.attention)
    except SystemExit:  # a signal to stop: only the record is left to be written, so this is all there is to stop
        print("no attention maps were kept: stopped", flush=True)
    except Exception as error:
        print(f"no attention maps were kept: {' '.join(str(error).split()) or type(error).__name__}", flush=True)


def find_examples(opened: Opened, split: str, sentences: int, count: int) -> Iterator[Example]:
    """Maps of `count` of the drawn sentences, whose length is nearest to the median; of a language model, of the first
    segments that state was carried to, in the text's first row."""
    if opened.streams:
        text = stream_of(opened, split)
        passes = list(segment_passes(opened, opened.model, text.part(0, text.rows), 1 + count))
        passes = passes[1:] or passes
    else:
        passes = list(sentence_passes(opened, opened.model, split, _typical(opened, split, sentences, count)))
    for numbers, sample, maps in passes:
        rows = [list(by_sentence(attention)) for attention in maps]
        for place, number in enumerate(numbers):
            own = [row[place] for row in rows]
            words = _words(opened, sample, place)
            for part in dict.fromkeys(one.part for one in own):
                yield _example(number, part, [one for one in own if one.part == part], *words)


def _typical(opened: Opened, split: str, sentences: int, count: int) -> list[int]:
    chosen, lengths = drawn(opened, split, sentences), opened.task.dataset(split).src_sizes
    median = np.median(lengths[chosen])
    return sorted(chosen, key=lambda number: (abs(lengths[number] - median), number))[:count]


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
        weights=tuple(tuple(map(_letters, layer)) for layer in weights),
    )


def _letters(weights: np.ndarray) -> str:
    """A map as an example keeps it."""
    return "".join(LETTERS[place] for place in np.rint(63 * np.sqrt(weights)).astype(int).ravel())


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
