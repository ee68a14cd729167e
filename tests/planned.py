"""Runs planned on a corpus that is not there."""

from pathlib import Path

from memtrans.configuration import compose
from memtrans.corpora import Prepared
from memtrans.runs import Run, plan_run

FINGERPRINT = "0" * 64


def prepared(fingerprint: str = FINGERPRINT, corpus: str = "demo", extra: tuple[str, ...] = ()) -> Prepared:
    splits = {split: {"pairs": 10} for split in ("train", "valid", "test", *extra)}
    manifest = {"corpus": corpus, "fingerprint": fingerprint, "source_lang": "de", "target_lang": "en"}
    return Prepared(Path("prepared"), manifest | {"splits": splits})


def planned(*overrides: str) -> Run:
    return plan_run(compose(overrides), prepared())


def planned_lm(*overrides: str) -> Run:
    splits = {split: {"tokens": 10, "words": 10} for split in ("train", "valid", "test")}
    manifest = {"corpus": "text", "fingerprint": FINGERPRINT, "task": "language_modeling", "splits": splits}
    config = compose(["size=lm_demo", "variant=transformer_xl", "protocol=lm", *overrides])
    return plan_run(config, Prepared(Path("prepared"), manifest))
