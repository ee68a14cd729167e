"""Whole attention maps of some sentences, and the masses of their heads, as the page's script reads them."""

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from memtrans.analysis.attention_record import BLOCKS, LETTERS, PARTS, AttentionRecord, Condition, Example, Numbers
from memtrans.report.subjects import name

ROOM = 60_000  # bytes of packed maps in the page, roughly: what is more stays in the records


def maps(records: Sequence[AttentionRecord]) -> list[dict[str, Any]]:
    """The example maps as the page's script reads them, as many as there is room for, of every record what it has.

    First come the first maps of one seed of every model, then those of further seeds, then their further ones; of
    alike ones the smaller, so that many models have some.
    """
    seen: dict[tuple[str, str], int] = {}
    order = []
    for place, record in enumerate(records):
        model = (record.subject.label, record.subject.corpus.fingerprint)
        seeds = seen[model] = seen.get(model, 0) + 1
        for number, example in enumerate(record.examples):
            order.append((number > 0, seeds, _packed_size(example), place, number))
    taken: dict[int, list[int]] = {}
    room = ROOM
    for *_, size, place, number in sorted(order):
        if size <= room or not taken:
            room -= size
            taken.setdefault(place, []).append(number)
    return [
        {
            "label": name(records[place].subject),
            "run": records[place].subject.run,
            "letters": LETTERS,
            "masses": {part: masses(records[place].conditions[0], part) for part in parts(records[place])},
            "examples": [_example(records[place], number) for number in sorted(numbers)],
            "left": len(records[place].examples) - len(numbers),
        }
        for place, numbers in sorted(taken.items())
    ]


def _packed_size(example: Example) -> int:
    """Bytes of the weights when packed, estimated by their entropy: the same wherever the page is made."""
    counts = Counter(letter for layer in example.weights for head in layer for letter in head)
    total = counts.total()
    bits = sum(count * math.log2(total / count) for count in counts.values())
    return math.ceil(bits / 6)  # base64


def _example(record: AttentionRecord, number: int) -> dict[str, Any]:
    example = record.examples[number]
    return {
        "part": example.part,
        "partName": PARTS[example.part],
        "sentence": example.sentence,
        "unit": record.subject.unit,
        "rows": example.rows,
        "rowKinds": example.row_kinds,
        "columns": example.columns,
        "columnKinds": example.column_kinds,
        "layers": len(example.weights),
        "heads": len(example.weights[0]),
        "weights": "".join(head for layer in example.weights for head in layer),
    }


def masses(condition: Condition, part: str) -> dict[str, dict[str, list[Any]]]:
    """Masses by block: a place for each layer, empty where the layer has none."""
    found: dict[str, dict[str, list[Any]]] = {}
    for block in BLOCKS:
        layers = [layer.statistics.get(f"mass.{block}") for layer in condition.of(part)]
        if any(layers):
            found[block] = {
                "mean": [layer and round(mean(layer), 3) for layer in layers],
                "uniform": [layer and layer.uniform and round(layer.uniform, 3) for layer in layers],
                "heads": [layer and [round(value, 3) for value in layer.value] for layer in layers],
            }
    return found


def parts(record: AttentionRecord) -> list[str]:
    return list(dict.fromkeys(layer.part for layer in record.conditions[0].layers))


def mean(numbers: Numbers) -> float:
    return fmean(numbers.value)
