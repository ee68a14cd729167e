"""Records of attention and lesions for the tests: complete, plausible, and made up."""

import random
from typing import Any

from make_records import BLEU, digest

from memtrans.analysis.attention_record import CONDITIONS, LETTERS, PATTERNS, ROWS, AttentionRecord
from memtrans.analysis.lesion_record import LesionRecord
from memtrans.analysis.subject import Subject

MEMORY, WORDS = 2, ["▁ein", "▁Hund", "</s>"]
LAYERS, HEADS = 2, 2


def subject(**changes: Any) -> Subject:
    fields = {
        "run": digest("analysed")[:16],
        "label": "MemTransformer 2 <b>",  # what a label holds must stay text
        "variant": "mem_transformer",
        "seed": 1,
        "corpus": {"name": "toy", "fingerprint": digest("toy"), "sources": {"train.de": digest("train.de")}},
        "split": "test",
        "sentences": 50,
        "unit": "sentence",
        "drawn": "drawn at random, seed 0",
        "memory_tokens": MEMORY,
        "commit": "0123456789ab",
        "finished": "2024-05-01T12:00:00+00:00",
        "checkpoint": "best",
        "checkpoint_sha256": digest("checkpoint"),
    }
    return Subject(**fields | changes)


def _numbers(values: list[float], uniform: float | None = None) -> dict[str, Any]:
    low, high = ([round(value + change, 4) for value in values] for change in (-0.05, 0.05))
    return {"value": values, "low": low, "high": high, "uniform": uniform}


def _layers(shift: float) -> list[dict[str, Any]]:
    masses, heads = {"process": 0.3, "write": 0.7, "read": 0.25, "normal": 0.75}, range(1, HEADS + 1)
    return [
        {
            "part": "encoder",
            "layer": layer,
            "statistics": {
                f"mass.{block}": _numbers([abs(mass - shift * head) for head in heads], 0.5)
                for block, mass in masses.items()
            }
            | {"process.sharp_diagonal": _numbers([0.1 * layer + 0.01 * head + shift for head in heads])},
        }
        for layer in range(1, LAYERS + 1)
    ]


def attention_record(**changes: Any) -> AttentionRecord:
    names = [f"[mem {i + 1}]" for i in range(MEMORY)] + WORDS
    kinds = ["memory"] * MEMORY + ["sequence"] * len(WORDS)
    size = len(names)

    def weights(layer: int, head: int) -> str:
        """Each head looks at one column alone, so that a test can tell them apart."""
        return "".join(LETTERS[63 if column == HEADS * layer + head else 0] for column in range(size)) * size

    example = {
        "sentence": 7,
        "part": "encoder",
        "rows": names,
        "row_kinds": kinds,
        "columns": names,
        "column_kinds": kinds,
        "weights": [[weights(layer, head) for head in range(HEADS)] for layer in range(LAYERS)],
    }
    conditions = [
        {"name": name, "run": digest("analysed")[:16], "sentences": 50, "layers": _layers(shift)}
        for name, shift in (("trained", 0.02), ("untrained", 0.0))
    ]
    fields: dict[str, Any] = {
        "schema": 2,
        "subject": subject(),
        "confidence": 0.95,
        "resamples": 1000,
        "conditions": conditions,
        "examples": [example, example | {"sentence": 8}],
    }
    return AttentionRecord(**fields | changes)


def lesion_record(**changes: Any) -> LesionRecord:
    def lesion(kind: str, name: str, difference: float, p: float, **where: Any) -> dict[str, Any]:
        return {"kind": kind, "name": name, "value": 30 + difference, "difference": difference, "p": p, **where}

    fields: dict[str, Any] = {
        "schema": 1,
        "subject": subject(),
        "intact": {"metric": "bleu", "value": 30.0, "split": "test", "items": 50, "signature": BLEU},
        "test": "paired approximate randomisation",
        "lesions": [
            lesion("first", "first 0 of 2 tokens", -3.0, 0.001, kept=[]),
            lesion("first", "first 1 of 2 tokens", -1.0, 0.02, kept=[1], low=-2.0, high=-0.1),
            lesion("single", "token 1 removed", -0.5, 0.3, kept=[2]),
            lesion("zeroed", "zero from layer 1 on", -2.5, 0.004, layer=1),
            lesion("frozen", "frozen to its mean", -0.1, 0.8),
            lesion("more", "4 tokens, new", -0.4, 0.5, tokens=4, start="new"),
        ],
        "left_out": {"decoder blind to memory": "the decoder reads the sequence alone"},
    }
    return LesionRecord(**fields | changes)


# --- of the size of real ones: six layers of eight heads, twenty memory tokens


def large_attention_record(rng: random.Random, where: Subject) -> AttentionRecord:
    memory, words = where.memory_tokens, [f"▁wort{i}" for i in range(12)]
    rows = [*(f"[mem {i + 1}]" for i in range(memory)), *words]
    kinds = ["memory"] * memory + ["sequence"] * len(words)
    blocks = {"encoder": ("process", "write", "read", "normal"), "cross": ("read", "normal")}

    def numbers(uniform: float | None = None) -> dict[str, Any]:
        return _numbers([round(rng.random(), 4) for _ in range(8)], uniform)

    def layer(part: str, number: int) -> dict[str, Any]:
        masses = {f"mass.{block}": numbers(0.1234) for block in blocks[part]}
        entropies = {f"entropy.{kind}": numbers(2.3456) for kind in ROWS}
        patterns = {f"{block}.{pattern}": numbers() for block in blocks[part] for pattern in PATTERNS}
        return {"part": part, "layer": number, "statistics": masses | entropies | patterns}

    def example(part: str, sentence: int) -> dict[str, Any]:
        down, of = (rows, kinds) if part == "encoder" else (words, ["sequence"] * len(words))
        maps = [["".join(rng.choices(LETTERS, k=len(down) * len(rows))) for _ in range(8)] for _ in range(6)]
        names = {"rows": down, "row_kinds": of, "columns": rows, "column_kinds": kinds}
        return {"sentence": sentence, "part": part, **names, "weights": maps}

    layers = [(part, number) for part in blocks for number in range(1, 7)]
    conditions = [
        {"name": name, "run": where.run, "sentences": 500, "layers": [layer(*place) for place in layers]}
        for name in CONDITIONS
    ]
    examples = [example(part, sentence) for sentence in (17, 23) for part in blocks]
    return attention_record(subject=where, conditions=conditions, examples=examples)


def large_lesion_record(rng: random.Random, where: Subject) -> LesionRecord:
    tokens = where.memory_tokens
    kept = {f"first {k} of {tokens} tokens": ("first", list(range(1, k + 1))) for k in (0, 1, 2, 5, 10, 19)}
    kept |= {f"random {k}, draw {draw}": ("random", list(range(1, k + 1))) for k in (1, 2, 5, 10) for draw in (1, 2, 3)}
    kept |= {
        f"token {k} removed": ("single", [i for i in range(1, tokens + 1) if i != k]) for k in range(1, tokens + 1)
    }
    places: list[dict[str, Any]] = [{"kind": kind, "name": name, "kept": of} for name, (kind, of) in kept.items()]
    places += [{"kind": "zeroed", "name": f"zero from layer {i} on", "layer": i} for i in range(1, 7)]
    places += [{"kind": "more", "name": f"{n} tokens", "tokens": n, "start": "new"} for n in (21, 25, 40, 80)]
    lesions = []
    for place in places:
        difference = round(rng.gauss(0, 2), 6)
        ends = {"low": difference - 0.5, "high": difference + 0.6}
        lesions.append(
            place | ends | {"value": 30 + difference, "difference": difference, "p": 0.001 + 0.9 * rng.random()}
        )
    return lesion_record(subject=where, lesions=lesions)
