"""The record of one finished run: a number cannot exist without its evidence.

A `Record` holds the scores of a run with all that is needed to trust, repeat and compare them. Building or loading one
with anything missing, unknown or of the wrong kind raises one UserError that names the file and the field. Records lie
in `results/records/<run>.json`. Nothing heavy is imported here: tables of records start in well under a second.
"""

import json
import re
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from memtrans.errors import UserError
from memtrans.files import write_text
from memtrans.strict import load_json, strict

SCHEMA = 1
HASH = r"[0-9a-f]{8,64}"
SHA256 = r"[0-9a-f]{64}"
COMMIT = r"[0-9a-f]{7,40}(-dirty)?"
NAMES = {"bleu": "BLEU", "chrf": "chrF", "perplexity": "perplexity"}  # metrics as people write them
PACKAGES = ("python", "torch", "fairseq", "numpy", "sacrebleu", "memtrans")


@strict
class Score:
    """One metric on one split. BLEU and chrF carry their sacreBLEU signature, perplexity its unit and its context."""

    metric: Literal["bleu", "chrf", "perplexity"]
    value: float  # BLEU and chrF: 0 to 100; perplexity: at least 1
    split: str
    items: int  # sentences for BLEU and chrF, tokens of `unit` for perplexity
    signature: str | None = None  # sacreBLEU's, for BLEU and chrF
    unit: Literal["word", "subword"] | None = None  # what perplexity is counted by
    context: str | None = None  # what perplexity may see, for example "target 150, memory 150"

    def __post_init__(self) -> None:
        needed = ("unit", "context") if self.metric == "perplexity" else ("signature",)
        for field in ("signature", "unit", "context"):
            if field in needed and getattr(self, field) is None:
                raise UserError(f"{field}: missing; {self.metric} means nothing without it")
            if field not in needed and getattr(self, field) is not None:
                raise UserError(f"{field}: {self.metric} has none; remove it")
        low, high = (1.0, float("inf")) if self.metric == "perplexity" else (0.0, 100.0)
        if not low <= self.value <= high:
            raise UserError(f"value: expected {self.metric} between {low:g} and {high:g}, found {self.value!r}")
        if self.signature is not None and "version:" not in self.signature:
            raise UserError(f"signature: expected sacreBLEU's, with its version, found {self.signature!r}")
        check_positive(self, "items")

    @property
    def counted(self) -> str:
        """What `items` are."""
        return f"{self.unit}s" if self.unit else "sentences"

    @property
    def evidence(self) -> str:
        """The signature, or what perplexity is counted by and may see."""
        return self.signature or f"per {self.unit}; {self.context}"


@strict
class Corpus:
    """Which text: the name, the fingerprint of the prepared corpus, and the sha256 of every file it was made of."""

    name: str
    fingerprint: str
    sources: dict[str, str]

    def __post_init__(self) -> None:
        check_matches("fingerprint", self.fingerprint, HASH, "a hash in lower-case hex")
        if not self.sources:
            raise UserError("sources: empty; expected the sha256 of every file that the corpus was made of")
        for file, digest in self.sources.items():
            check_matches(f"sources[{file!r}]", digest, SHA256, "a sha256 of 64 hex digits")


@strict
class Hardware:
    """What it ran on. `device` is "cpu" or the accelerator's name, `devices` how many; `cpu` and `cpus` the host's.

    `runs_per_device` is how many runs at the most shared a device while this one trained: they share its speed.
    """

    device: str
    devices: int
    cpu: str
    cpus: int
    runs_per_device: int

    def __post_init__(self) -> None:
        check_positive(self, "devices", "cpus", "runs_per_device")


@strict
class Hypotheses:
    """The kept translations: a file name relative to the folder of results, and its sha256."""

    file: str
    sha256: str

    def __post_init__(self) -> None:
        check_matches("sha256", self.sha256, SHA256, "a sha256 of 64 hex digits")
        if Path(self.file).is_absolute() or ".." in Path(self.file).parts:
            raise UserError(f"file: expected a relative name without '..', found {self.file!r}")


@strict
class Record:
    """One finished run. The first of `scores` is the headline: tables compare rows by it."""

    schema: int
    run: str  # hash of the resolved config, the seed included
    setting: str  # hash of the same without the seed: runs that differ only by seed share it
    label: str  # its row in a table, for example "MemTransformer 20"
    variant: str
    seed: int
    corpus: Corpus
    size: str
    protocol: str
    config: dict[str, Any]  # the resolved config
    commit: str  # git commit, followed by "-dirty" if files had changed since
    finished: str  # UTC, ISO 8601, for example "2024-05-01T12:00:00+00:00"
    hardware: Hardware
    versions: dict[str, str]
    parameters: int
    updates: int
    epochs: float
    tokens: int  # target tokens seen in training
    train_seconds: float
    checkpoint: str  # what was evaluated, for example "best" or "average of 5"
    scores: tuple[Score, ...]
    hypotheses: Hypotheses | None = None

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise UserError(
                f"schema: expected {SCHEMA}, found {self.schema}; use the version of memtrans that wrote it"
            )
        for field in ("run", "setting"):
            check_matches(field, getattr(self, field), HASH, "a hash in lower-case hex")
        check_matches("commit", self.commit, COMMIT, "a git commit, '-dirty' after it if so")
        check_finished(self.finished)
        check_positive(self, "parameters", "updates", "epochs", "tokens", "train_seconds")
        for package in PACKAGES:
            if package not in self.versions:
                raise UserError(f"versions[{package!r}]: missing; expected {', '.join(PACKAGES)}")
        if not self.scores:
            raise UserError("scores: empty; a record needs at least one score")
        keys = [(score.metric, score.split, score.unit, score.context) for score in self.scores]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise UserError(f"scores[{i}]: a second {key[0]} on {key[1]}; keep one")
        _check_plain(self.config)

    @property
    def headline(self) -> Score:
        """The score that tables compare rows by."""
        return self.scores[0]

    @property
    def tokens_per_second(self) -> float:
        """Target tokens per second of training."""
        return self.tokens / self.train_seconds

    @property
    def gpu_hours(self) -> float | None:
        """Hours of training times devices, of a shared device its share; None on a CPU."""
        if self.hardware.device.lower() == "cpu":
            return None
        return self.train_seconds * self.hardware.devices / self.hardware.runs_per_device / 3600

    @classmethod
    def load(cls, path: Path) -> "Record":
        """Read `<run>.json`. Raises UserError naming the file and what is wrong with it."""
        record = load_json(cls, path, "restore it or delete it and run again")
        if path.stem != record.run:
            raise UserError(
                f"{path}: run: the file is named after another run than {record.run!r}; rename or delete it"
            )
        return record

    def save(self, folder: Path) -> Path:
        """Write `<folder>/<run>.json`, whole or not at all, and return its path."""
        content = asdict(self, dict_factory=lambda items: {name: value for name, value in items if value is not None})
        path = folder / f"{self.run}.json"
        write_text(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")
        return path


def load_all(folder: Path) -> list[Record]:
    """All records of a folder, by file name. A folder that is not there has none; a broken file raises UserError."""
    return [Record.load(path) for path in sorted(folder.glob("*.json"))]


def check_matches(field: str, value: str, pattern: str, meaning: str) -> None:
    if not re.fullmatch(pattern, value):
        raise UserError(f"{field}: expected {meaning}, found {value!r}")


def check_positive(holder: object, *names: str) -> None:
    for name in names:
        if getattr(holder, name) <= 0:
            raise UserError(f"{name}: expected more than 0, found {getattr(holder, name)!r}")


def check_finished(value: str) -> None:
    try:
        offset = datetime.fromisoformat(value).utcoffset()
    except ValueError:
        offset = None
    if offset != timedelta(0):
        raise UserError(f"finished: expected a UTC time such as 2024-05-01T12:00:00+00:00, found {value!r}")


def _check_plain(config: dict[str, Any]) -> None:
    """Refuse a config that would not come back from JSON as it went in (a tuple, NaN, a number as a key)."""
    try:
        plain = json.loads(json.dumps(config, allow_nan=False)) == config
    except (TypeError, ValueError):
        plain = False
    if not plain:
        raise UserError("config: expected plain, finite JSON values; resolve it to a plain container first")
