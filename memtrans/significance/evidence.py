"""What comparing the translations of two rows gave, with its evidence: `results/significance/<setting>-<setting>.json`.

The references of a corpus are not kept in `results/`, so this is computed once, where the corpus is
(`python -m scripts.significance`). Whoever reads it must check that it is still of the same translations (`fits`).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from memtrans.errors import UserError
from memtrans.files import write_text
from memtrans.records import Record
from memtrans.significance.interval import Difference
from memtrans.strict import load_json, strict

SCHEMA = 1
FOLDER = "significance"
REMEDY = "delete it and run `python -m scripts.significance`"


@strict
class Pair:
    """One seed: the two runs, the checksums of their translations, their difference, and two paired tests of it."""

    seed: int
    run: str
    against: str
    hypotheses: str  # sha256
    against_hypotheses: str  # sha256
    difference: float  # BLEU of run minus BLEU of against
    bootstrap_p: float  # sacreBLEU's paired bootstrap
    randomisation_p: float  # sacreBLEU's paired approximate randomisation


@strict
class Comparison:
    """Two rows on one test set, seed by seed."""

    schema: int
    label: str
    against: str  # label of the other row
    setting: str
    against_setting: str
    metric: Literal["bleu"]
    corpus: str  # fingerprint of the prepared corpus
    split: str
    sentences: int
    references: str  # sha256 of the file of references
    bootstrap_signature: str  # sacreBLEU's, with its seed and the number of samples
    randomisation_signature: str  # the same, with the number of trials
    samples: int  # of the bootstrap of the mean difference
    random_seed: int  # of that bootstrap
    pairs: tuple[Pair, ...]
    deviation_of_one: float  # over resampled sentences, of a single seed's difference (root mean square over seeds)
    resampled: tuple[float, ...]  # the mean difference on resampled sentences: equally probable values, sorted

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise UserError(f"schema: expected {SCHEMA}, found {self.schema}; {REMEDY}")
        if not self.pairs or not self.resampled:
            raise UserError("pairs and resampled: expected some of each, found none")
        for field in ("bootstrap_signature", "randomisation_signature"):
            if "seed:" not in getattr(self, field) or "version:" not in getattr(self, field):
                raise UserError(f"{field}: expected sacreBLEU's, with its seed and version")
        for pair in self.pairs:
            if not (0 < pair.bootstrap_p <= 1 and 0 < pair.randomisation_p <= 1):
                raise UserError(f"pairs: seed {pair.seed}: expected p-values above 0 and up to 1")

    @property
    def key(self) -> tuple[str, str]:
        return self.setting, self.against_setting

    @property
    def difference(self) -> Difference:
        by_seed = {pair.seed: pair.difference for pair in self.pairs}
        return Difference(by_seed, self.resampled, self.deviation_of_one)

    def fits(self, records: Iterable[Record], against: Iterable[Record]) -> bool:
        """Whether it is of just these runs' translations, as they are now."""
        return {(p.seed, p.hypotheses, p.against_hypotheses) for p in self.pairs} == paired(records, against).keys()

    def save(self, results: Path) -> Path:
        """Write it whole or not at all, and return its path."""
        path = results / FOLDER / f"{self.setting}-{self.against_setting}.json"
        content = asdict(self)
        numbers = content.pop("resampled")
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        # the many numbers on one line: readable, and one line of a diff
        write_text(path, f'{text[:-2]},\n  "resampled": {json.dumps(numbers)}\n}}\n')
        return path


def paired(
    records: Iterable[Record], against: Iterable[Record]
) -> Mapping[tuple[int, str, str], tuple[Record, Record]]:
    """Records of the same seed that both kept translations, by the seed and the checksums of both."""
    others = {record.seed: record for record in against}
    return {
        (one.seed, one.hypotheses.sha256, other.hypotheses.sha256): (one, other)
        for one in records
        if (other := others.get(one.seed)) and one.hypotheses and other.hypotheses
    }


def load_comparisons(results: Path) -> dict[tuple[str, str], Comparison]:
    """All of a folder of results by their two settings; a broken file raises UserError that names it."""
    found = {}
    for path in sorted((results / FOLDER).glob("*.json")):
        comparison = load_json(Comparison, path, REMEDY)
        if path.stem != "-".join(comparison.key):
            raise UserError(f"{path}: named after other settings than {'-'.join(comparison.key)}; {REMEDY}")
        found[comparison.key] = comparison
    return found
