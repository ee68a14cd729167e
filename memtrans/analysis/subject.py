"""What an analysis is of: a trained run, a split of its corpus, and the code that looked. No torch is imported."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar

from memtrans.errors import UserError
from memtrans.files import write_text
from memtrans.records import COMMIT, HASH, SHA256, Corpus, check_finished, check_matches, check_positive
from memtrans.strict import load_json, strict

T = TypeVar("T")


@strict
class Subject:
    """The run and the text that were analysed: a part of the evidence."""

    run: str  # the run's hash: its record is results/records/<run>.json
    label: str
    variant: str
    seed: int  # the run's
    corpus: Corpus
    split: str
    sentences: int  # so many; of a language model, segments of a row of the text
    unit: Literal["sentence", "segment"]
    drawn: str  # which of the split they are
    memory_tokens: int
    commit: str  # of the code that analysed, "-dirty" after it if files had changed
    finished: str  # UTC, ISO 8601, for example "2024-05-01T12:00:00+00:00"
    checkpoint: str  # "best", "last" or, for example, "average of 5"
    checkpoint_sha256: str

    def __post_init__(self) -> None:
        check_matches("run", self.run, HASH, "a hash in lower-case hex")
        check_matches("commit", self.commit, COMMIT, "a git commit, '-dirty' after it if so")
        check_matches("checkpoint_sha256", self.checkpoint_sha256, SHA256, "a sha256 of 64 hex digits")
        check_finished(self.finished)
        check_positive(self, "sentences")


def load(cls: type[T], path: Path) -> T:
    """Read `<run>.json` as a strict dataclass with a `subject`. Raises UserError naming the file and the field."""
    found: Any = load_json(cls, path, "delete it and analyse the run again")
    if path.stem != found.subject.run:
        raise UserError(f"{path}: the file is named after another run than {found.subject.run!r}; rename or delete it")
    return found


def save(record: Any, folder: Path) -> Path:
    """Write `<folder>/<run>.json`, whole or not at all, one line for each field, and return its path."""
    content = asdict(record, dict_factory=lambda items: {name: value for name, value in items if value is not None})
    lines = [f"{json.dumps(name)}: {_compact(value)}" for name, value in content.items()]
    path = folder / f"{record.subject.run}.json"
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
    return path


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
