"""Records of attention and lesions for the tests: complete, plausible, and made up."""

from typing import Any

from make_records import BLEU, digest

from memtrans.analysis.attention_record import AttentionRecord
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


def _interval(value: float, uniform: float | None = None) -> dict[str, Any]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "uniform": uniform}


def _heads(shift: float) -> list[dict[str, Any]]:
    masses = {"process": 0.3, "write": 0.7, "read": 0.25, "normal": 0.75}
    return [
        {
            "part": "encoder",
            "layer": layer,
            "head": head,
            "statistics": {f"mass.{block}": _interval(abs(mass - shift * head), 0.5) for block, mass in masses.items()}
            | {"process.sharp_diagonal": _interval(0.1 * layer + 0.01 * head + shift)},
        }
        for layer in range(1, LAYERS + 1)
        for head in range(1, HEADS + 1)
    ]


def attention_record(**changes: Any) -> AttentionRecord:
    names = [f"[mem {i + 1}]" for i in range(MEMORY)] + WORDS
    kinds = ["memory"] * MEMORY + ["sequence"] * len(WORDS)
    size = len(names)

    def weights(layer: int, head: int) -> list[list[float]]:
        """Each head looks at one column alone, so that a test can tell them apart."""
        return [[float(column == HEADS * layer + head) for column in range(size)] for _ in range(size)]

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
        {"name": name, "run": digest("analysed")[:16], "sentences": 50, "heads": _heads(shift)}
        for name, shift in (("trained", 0.02), ("untrained", 0.0))
    ]
    fields: dict[str, Any] = {
        "schema": 1,
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
