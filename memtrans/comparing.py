"""Two folders of results side by side: "mine against yours".

Rows are matched by corpus, size, protocol and label, and compared only where they were scored alike (same prepared
corpus, split, signature or context). Runs of one hash were asked for the same thing: how far they agree says how
repeatable the numbers are. Rows whose settings differ are compared too, and marked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import ttest_ind

from memtrans.errors import UserError
from memtrans.records import NAMES, load_all
from memtrans.report.grids import Grid, points, probability
from memtrans.sweeps_spec import load_sweeps
from memtrans.tables import Row, Table, build_tables, summarise
from memtrans.tables.cells import MISSING, difference, mean
from memtrans.tables.recipe import difference_text, flat

Key = tuple[str, str, str, str]  # corpus, size, protocol, metric


@dataclass(frozen=True)
class Folder:
    """A folder of results: its name, and its tables by what they are of."""

    name: str
    tables: Mapping[Key, Table]

    @classmethod
    def load(cls, path: Path, configs: Path) -> "Folder":
        """Read it, or its folder of records. Raises UserError if there is no record."""
        records = load_all(path / "records")
        if not records:
            raise UserError(f"{path / 'records'}: no record; give a folder of results, such as `results`")
        tables = build_tables(records, load_sweeps(configs), {})
        return cls(str(path), {(t.corpus, t.size, t.protocol, t.metric): t for t in tables if t.records})


def compare_folders(one: Folder, other: Folder) -> list[Grid]:
    """A table for each corpus, size, protocol and metric that both have. Raises UserError if they share none."""
    shared = [key for key in one.tables if key in other.tables]
    if not shared:
        raise UserError(f"{one.name} and {other.name} have no table in common: other corpora, sizes or protocols")
    return [_grid(one.tables[key], other.tables[key]) for key in shared]


def only_in(one: Folder, other: Folder) -> list[str]:
    """The rows that the other folder lacks."""
    return [
        f"{row.label} ({key[0]}, {key[1]}, {key[2]})"
        for key, table in one.tables.items()
        for row in _measured(table)
        if row.label not in {there.label for there in _measured(other.tables.get(key))}
    ]


def _grid(one: Table, other: Table) -> Grid:
    pairs = [(row, there) for row in _measured(one) for there in _measured(other) if there.label == row.label]
    rows, notes = [], []
    for row, there in pairs:
        note = _why_not_alike(row, there)
        if note:
            notes.append(f"{row.label}: {note}.")
        rows.append(_cells(row, there, one, other))
    same = [
        (a.headline.value, b.headline.value)
        for row, there in pairs
        for a in row.records
        for b in there.records
        if a.run == b.run and row.evidence == there.evidence
    ]
    if same:
        far = max(abs(a - b) for a, b in same)
        notes.append(f"{len(same)} runs are in both by their hash; their scores differ by {far:.2f} at the most.")
    notes.append(
        "±: sample standard deviation over seeds. p: Welch's t-test of the two sets of seeds, not corrected; none with "
        "fewer than two seeds on a side, or where some seed has the same score on both, so that it is one run. Δ: to "
        "the Transformer of the same seed in the same folder, of a continued row to the run that it continues."
    )
    metric = NAMES[one.metric]
    head = ("model", f"A: {metric}", "seeds", f"B: {metric}", "seeds", "B − A", "p", "A: Δ", "B: Δ")
    return Grid("", f"{one.title} ({one.corpus}, {one.size}, {one.protocol})", head, tuple(rows), tuple(notes))


def _cells(row: Row, there: Row, one: Table, other: Table) -> tuple[str, ...]:
    a, b = summarise(row.headlines), summarise(there.headlines)
    assert a
    assert b
    alike = row.evidence == there.evidence
    return (
        row.label,
        mean(a),
        str(a.n),
        mean(b),
        str(b.n),
        points(b.mean - a.mean) if alike else MISSING,
        probability(_p(row.headlines, there.headlines)) if alike else MISSING,
        _delta(row, one),
        _delta(there, other),
    )


def _delta(row: Row, table: Table) -> str:
    """To the baseline, or of a continued row to the runs that it continues."""
    return mean(table.gain(row), sign=True) if row.parents else difference(row, table, lambda r: r.headlines)


def _p(one: Mapping[int, float], other: Mapping[int, float]) -> float | None:
    """Of two rows' scores by seed. None where it would mean nothing, as with a run that both have."""
    a, b = list(one.values()), list(other.values())
    if min(len(a), len(b)) < 2 or one.items() & other.items() or max(*a, *b) - min(*a, *b) < 1e-9:
        return None
    return float(ttest_ind(a, b, equal_var=False).pvalue)


def _why_not_alike(row: Row, there: Row) -> str:
    """What must be known before the two are compared; empty where they are of one setting and scored alike."""
    if row.evidence and there.evidence and row.evidence != there.evidence:
        differing = [f for f in row.evidence._fields if getattr(row.evidence, f) != getattr(there.evidence, f)]
        return f"not compared, as they were not scored alike ({', '.join(differing)})"
    if row.setting != there.setting:
        config, other = (flat(r.records[0].config) for r in (row, there))
        config.pop("seed", None)
        other.pop("seed", None)
        return f"other settings ({difference_text(config, other) or 'by name alone'})"
    return ""


def _measured(table: Table | None) -> list[Row]:
    return [row for row in (*table.rows, *table.continued) if row.records] if table else []
