"""From records to tables: which records stand in one table, in which order, and what may be averaged with what."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from memtrans.errors import UserError
from memtrans.records import Record, Score
from memtrans.sweeps_spec import SweepSpec
from memtrans.tables.paper import PaperTable
from memtrans.tables.recipe import Recipe, differing, recipe_of
from memtrans.tables.stats import Summary, summarise

BASELINE = "Transformer"


class Evidence(NamedTuple):
    """What a headline score was measured on and how. Scores with different evidence are never averaged or compared."""

    corpus: str
    split: str
    items: int
    signature: str  # of the headline, then of chrF on the same split if there is one
    unit: str
    context: str

    @classmethod
    def of(cls, record: Record) -> "Evidence":
        score, chrf = record.headline, chrf_of(record)
        signature = "; ".join(s.signature for s in (score, chrf) if s and s.signature)
        return cls(
            record.corpus.fingerprint, score.split, score.items, signature, score.unit or "", score.context or ""
        )


@dataclass(frozen=True)
class Row:
    """One row: a label, the records that may be averaged (same setting and evidence), and the planned seeds if any.

    `own`: the settings, by dotted key, that sweeps give this row alone, so that it differs in them on purpose.
    """

    label: str
    records: tuple[Record, ...] = ()
    planned: tuple[int, ...] | None = None
    own: frozenset[str] = frozenset()

    @property
    def evidence(self) -> Evidence | None:
        return Evidence.of(self.records[0]) if self.records else None

    @property
    def setting(self) -> str | None:
        return self.records[0].setting if self.records else None

    @property
    def recipe(self) -> Recipe:
        """How its records were trained and decoded; all of one setting are of one recipe."""
        return recipe_of(self.records[0].config) if self.records else {}

    def unlike(self, other: "Row") -> list[str]:
        """The settings in which it was trained or decoded otherwise than `other`, and not on purpose."""
        return [key for key in differing(self.recipe, other.recipe) if key not in self.own | other.own]

    @property
    def headlines(self) -> dict[int, float]:
        """The headline score by seed."""
        return {record.seed: record.headline.value for record in self.records}

    @property
    def parents(self) -> dict[int, str]:
        """The runs that its records continue, by seed; empty for runs that began anew."""
        return {record.seed: record.config["parent"]["run"] for record in self.records if "parent" in record.config}

    @property
    def chrf(self) -> dict[int, float]:
        """chrF on the headline's split by seed."""
        scores = {record.seed: chrf_of(record) for record in self.records}
        return {seed: score.value for seed, score in scores.items() if score}


@dataclass(frozen=True)
class Table:
    """All rows of one (corpus, size, protocol, metric), with the published table they are read against.

    `continued`: rows of runs that went on from others, which are read against those and not against a baseline.
    """

    title: str
    corpus: str
    size: str
    protocol: str
    metric: str
    rows: tuple[Row, ...]
    paper: PaperTable = field(default_factory=dict)
    paper_of: tuple[str, str] = ("", "")  # corpus and size of the published table
    continued: tuple[Row, ...] = ()

    @property
    def is_papers_own(self) -> bool:
        """Whether measured and published values are of the same corpus and size, so that they may be subtracted."""
        return bool(self.paper) and self.paper_of == (self.corpus, self.size)

    @property
    def records(self) -> list[Record]:
        return [record for row in (*self.rows, *self.continued) for record in row.records]

    @property
    def evidences(self) -> list[Evidence]:
        """The different evidence of its rows; more than one means that not all rows compare."""
        return sorted({row.evidence for row in self.rows if row.evidence})

    @property
    def settings(self) -> dict[str, list[str]]:
        """The settings that share one label, for labels that have several."""
        rows = (*self.rows, *self.continued)
        found = {row.label: sorted({r.setting for r in rows if r.label == row.label and r.setting}) for row in rows}
        return {label: settings for label, settings in found.items() if len(settings) > 1}

    def baselines(self, row: Row) -> list[Row]:
        """The rows of the baseline on the same evidence, of whatever recipe; empty for a row without records."""
        return [other for other in self.rows if row.records and _is_baseline(other) and other.evidence == row.evidence]

    def baseline(self, row: Row) -> Row | None:
        """The baseline trained and decoded as the row was, but for what the row's sweep changes on purpose.

        None unless there is just one; of several, the one that differs in the least.
        """
        fitting = [other for other in self.baselines(row) if not row.unlike(other)]
        least = min((len(differing(row.recipe, other.recipe)) for other in fitting), default=0)
        nearest = [other for other in fitting if len(differing(row.recipe, other.recipe)) == least]
        return nearest[0] if len(nearest) == 1 else None

    def difference(self, row: Row, values: Callable[[Row], Mapping[int, float]]) -> Summary | None:
        """Mean paired difference of `values` (of a row, by seed) to the same-seed baseline; None without one."""
        baseline = self.baseline(row)
        return None if baseline is None else summarise(values(row), values(baseline))

    def gain(self, row: Row) -> Summary | None:
        """Of a continued row: mean difference to the runs that it continues; None where their records are not here."""
        scores = {record.run: record.headline.value for record in self.records}
        before = {seed: scores[run] for seed, run in row.parents.items() if run in scores}
        return summarise(row.headlines, before) if before else None

    def paper_difference(self, label: str) -> float | None:
        """The published value minus the published baseline's, where both are known."""
        cell, baseline = self.paper.get(label), self.paper.get(BASELINE)
        if cell is None or baseline is None or cell.value is None or baseline.value is None:
            return None
        return cell.value - baseline.value


def _is_baseline(row: Row) -> bool:
    return row.label == BASELINE and bool(row.records)


def chrf_of(record: Record) -> Score | None:
    """The chrF that goes beside a BLEU headline: the one on the same split, or None."""
    if record.headline.metric != "bleu":
        return None
    return next((s for s in record.scores if s.metric == "chrf" and s.split == record.headline.split), None)


def build_tables(
    records: Iterable[Record],
    sweeps: Mapping[str, SweepSpec],
    paper: Mapping[tuple[str, str, str], PaperTable],
) -> list[Table]:
    """Tables by corpus, size, protocol and metric. A sweep that nobody ran has one if the paper has numbers for it."""
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    planned: dict[tuple[str, str, str], list[SweepSpec]] = defaultdict(list)
    for record in records:
        groups[record.corpus.name, record.size, record.protocol].append(record)
    for _, sweep in sorted(sweeps.items()):
        planned[sweep.corpus, sweep.size, sweep.protocol].append(sweep)
    tables = []
    for key in sorted({*groups, *planned}):
        found, plans = groups[key], planned[key]
        corpus, size, protocol = key
        reference = next(((s.paper.corpus, s.paper.size) for s in plans if s.paper), (corpus, size))
        published = [metric for (*where, metric) in sorted(paper) if tuple(where) == reference]
        for metric in sorted({record.headline.metric for record in found}) or published[:1]:
            alike = [record for record in found if record.headline.metric == metric]
            rows = _rows([record for record in alike if "parent" not in record.config], plans)
            continued = _rows([record for record in alike if "parent" in record.config], [])
            title = plans[0].title if plans else f"{corpus}, {size}, {protocol}"
            cells = paper.get((*reference, metric), {})
            tables.append(Table(title, corpus, size, protocol, metric, rows, cells, reference, continued))
    return tables


def _rows(records: Sequence[Record], plans: Sequence[SweepSpec]) -> tuple[Row, ...]:
    """The planned rows in their order, measured or not, then all others by label."""
    seeds: dict[str, tuple[int, ...]] = {}
    own: dict[str, frozenset[str]] = {}
    for plan in plans:
        for row in plan.rows:
            seeds[row.label] = tuple(sorted({*seeds.get(row.label, ()), *plan.seeds}))
            own[row.label] = own.get(row.label, frozenset()) | row.own
    alike: dict[str, dict[tuple, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in sorted(records, key=lambda record: (record.seed, record.run)):
        alike[record.label][record.setting, Evidence.of(record)].append(record)
    rows = []
    for label in [*seeds, *sorted(alike.keys() - seeds.keys(), key=_natural)]:
        groups = [group for _, group in sorted(alike[label].items(), key=lambda item: item[0])]
        rows += [
            Row(label, _one_per_seed(group), seeds.get(label), own.get(label, frozenset())) for group in groups or [[]]
        ]
    return tuple(rows)


def _one_per_seed(records: list[Record]) -> tuple[Record, ...]:
    for first, second in zip(records, records[1:], strict=False):
        if first.seed == second.seed:
            raise UserError(
                f"records {first.run} and {second.run}: both are {first.label!r}, seed {first.seed}, of one setting; "
                "delete one of them"
            )
    return tuple(records)


def _natural(label: str) -> list[tuple[int, str]]:
    """Sort key that puts "MemTransformer 5" before "MemTransformer 10", and the baseline before all."""
    parts = re.split(r"(\d+)", label)
    return [(label != BASELINE, "")] + [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
