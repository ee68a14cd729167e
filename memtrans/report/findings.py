"""All that a report says, gathered from a folder of results and the sweeps."""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from memtrans.claims import Verdict, compare, judge, load_claims
from memtrans.curves import Curve, load_curves
from memtrans.errors import UserError
from memtrans.records import load_all
from memtrans.significance import Comparison, Difference, holm, load_comparisons
from memtrans.sweeps_spec import load_sweeps
from memtrans.tables import Row, Summary, Table, build_tables, load_paper, summarise
from memtrans.tables.rows import BASELINE


@dataclass(frozen=True)
class RowFinding:
    """A row against its baseline. `adjusted`: the p-value after Holm's correction over the rows of its table."""

    row: Row
    score: Summary
    difference: Difference | None = None
    adjusted: float | None = None
    comparison: Comparison | None = None  # sentence by sentence, if that was done

    @property
    def is_baseline(self) -> bool:
        return self.row.label == BASELINE


@dataclass(frozen=True)
class TableFinding:
    """A table that has records."""

    table: Table
    rows: tuple[RowFinding, ...]
    curves: Mapping[str, Curve]  # by run, of the whole folder of results

    @property
    def anchor(self) -> str:
        return f"{self.table.corpus}-{self.table.size}-{self.table.protocol}"

    @property
    def unit(self) -> str:
        return "BLEU" if self.table.metric == "bleu" else self.table.metric

    @property
    def all_rows(self) -> list[Row]:
        """Those of the table, and those of runs that continue others."""
        return [*(row.row for row in self.rows), *self.table.continued]

    def curves_of(self, row: RowFinding) -> dict[int, Curve]:
        """The learning curves of a row by seed, of the runs that have one."""
        return {record.seed: self.curves[record.run] for record in row.row.records if record.run in self.curves}


@dataclass(frozen=True)
class Findings:
    """Everything, in the order of the report."""

    verdicts: tuple[Verdict, ...]
    tables: tuple[TableFinding, ...]
    unmeasured: tuple[Table, ...]
    missing: tuple[str, ...]  # labels of rows with translations that were not compared sentence by sentence

    @classmethod
    def gather(cls, results: Path, configs: Path) -> "Findings":
        """Read a folder of results. Raises UserError if it has no record, or for a broken file."""
        records = load_all(results / "records")
        if not records:
            raise UserError(f"{results / 'records'}: no record; train a run first, or name another folder of results")
        sweeps = load_sweeps(configs)
        published = results / "paper.csv"
        tables = build_tables(records, sweeps, load_paper(published) if published.exists() else {})
        comparisons, curves = load_comparisons(results), load_curves(results)
        claims = load_claims(results / "claims.yaml", sweeps)
        measured = tuple(_table(table, comparisons, curves) for table in tables if table.records)
        return cls(
            verdicts=tuple(judge(claims, tables, sweeps, comparisons)),
            tables=measured,
            unmeasured=tuple(table for table in tables if not table.records),
            missing=tuple(
                f"{finding.row.label} ({found.table.corpus})"
                for found in measured
                for finding in found.rows
                if finding.difference and not finding.comparison and finding.row.records[0].hypotheses
            ),
        )


def _table(
    table: Table, comparisons: Mapping[tuple[str, str], Comparison], curves: Mapping[str, Curve]
) -> TableFinding:
    rows = [_row(row, table, comparisons) for row in table.rows if row.records]
    tested = [row for row in rows if row.difference and row.difference.testable]
    adjusted = holm([p for row in tested if row.difference and (p := row.difference.p_value()) is not None])
    by_row = {id(row): value for row, value in zip(tested, adjusted, strict=True)}
    found = tuple(RowFinding(r.row, r.score, r.difference, by_row.get(id(r)), r.comparison) for r in rows)
    return TableFinding(table, found, curves)


def _row(row: Row, table: Table, comparisons: Mapping[tuple[str, str], Comparison]) -> RowFinding:
    score = summarise(attrgetter("headlines")(row))
    assert score  # it has records
    baseline = table.baseline(row)
    if row.label == BASELINE or baseline is None:
        return RowFinding(row, score)
    kept = comparisons.get((row.setting or "", baseline.setting or ""))
    fitting = kept if kept and kept.fits(row.records, baseline.records) else None
    return RowFinding(row, score, compare(row, baseline, comparisons), comparison=fitting)
