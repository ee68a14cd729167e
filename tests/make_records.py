"""Records for the tests: complete, plausible, and made up."""

from hashlib import sha256
from typing import Any

from memtrans.curves import Curve
from memtrans.records import SCHEMA, Record

BLEU = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
CHRF = "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0"


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def fields(label: str = "Transformer", seed: int = 1, bleu: float = 30.0, **changes: Any) -> dict[str, Any]:
    """The JSON content of a complete record; `changes` replace fields."""
    return {
        "schema": SCHEMA,
        "run": digest(f"{label} {seed}"),
        "setting": digest(label),
        "label": label,
        "variant": "transformer",
        "seed": seed,
        "corpus": {"name": "toy", "fingerprint": digest("toy"), "sources": {"train.de": digest("train.de")}},
        "size": "demo",
        "protocol": "paper",
        "config": {"seed": seed, "model": {"memory_tokens": 0, "betas": [0.9, 0.98], "note": None}},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "finished": "2024-05-01T12:00:00+00:00",
        "hardware": {"device": "NVIDIA H200", "devices": 2, "cpu": "Some CPU", "cpus": 16, "runs_per_device": 1},
        "versions": dict.fromkeys(["python", "torch", "fairseq", "numpy", "sacrebleu", "memtrans"], "1.0"),
        "parameters": 1_234_567,
        "updates": 3_000,
        "epochs": 20.0,
        "tokens": 7_200_000,
        "train_seconds": 3_600.0,
        "checkpoint": "average of 5",
        "scores": [
            {"metric": "bleu", "value": bleu, "split": "test", "items": 1_000, "signature": BLEU},
            {"metric": "chrf", "value": bleu + 20, "split": "test", "items": 1_000, "signature": CHRF},
        ],
        "hypotheses": {"file": "hypotheses/toy.txt", "sha256": digest("hypotheses")},
        **changes,
    }


def record(label: str = "Transformer", seed: int = 1, bleu: float = 30.0, **changes: Any) -> Record:
    return Record(**fields(label, seed, bleu, **changes))


def perplexity(value: float, split: str = "test", context: str = "target 150, memory 150") -> dict[str, Any]:
    counted = {"items": 245_569, "unit": "word", "context": context}
    return {"metric": "perplexity", "value": value, "split": split, **counted}


def curve(run: str, updates: list[int], losses: list[float]) -> Curve:
    """The same losses while training and on the validation set."""
    both = {"updates": updates, "losses": losses}
    return Curve(schema=1, run=run, unit="bits per token", training=both, validation=both)  # type: ignore[arg-type]
