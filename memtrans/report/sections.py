"""The report's sections in their order, for every way to render it."""

from pathlib import Path

from memtrans.report.attention import attention_section
from memtrans.report.blocks import Block, Fold, Html, Notes, Part, Section, Text
from memtrans.report.curves import curves_drawing, curves_grid
from memtrans.report.figures import forest, memory_sizes
from memtrans.report.findings import Findings, TableFinding
from memtrans.report.grids import (
    VERDICT_NOTES,
    claims_grids,
    continued_grid,
    cost_grid,
    rows_grid,
    seeds_grid,
    sources_grid,
    unmeasured_claims,
)
from memtrans.report.lesions import lesions_section
from memtrans.report.provenance import Provenance

VERDICTS = {"supported": "✓", "contradicted": "✗", "undecided": "?", "not measured": "–"}


def gather_sections(results: Path, configs: Path) -> list[Section]:
    """All that the report says. Raises UserError for a folder of results without records, or for a broken file."""
    findings = Findings.gather(results, configs)
    return [
        _claims(findings),
        _results(findings),
        attention_section(results),
        lesions_section(results),
        Section("cost", "Cost", tuple(_part(f"part-{t.anchor}-cost", t, [cost_grid(t)]) for t in findings.tables)),
        Section(
            "provenance",
            "Provenance",
            (Html("provenance.html", {"provenance": Provenance.gather(findings, results)}),),
        ),
    ]


def _claims(findings: Findings) -> Section:
    answers: list[str] = [verdict.answer for verdict in findings.verdicts]
    counts = [(name, mark, answers.count(name)) for name, mark in VERDICTS.items() if name in answers]
    waiting, sources = unmeasured_claims(findings), sources_grid(findings)
    runs = sum(len(found.table.records) for found in findings.tables)
    blocks: list[Block] = [Html("counts.html", {"runs": runs, "counts": counts})]
    blocks += [Part(f"part-{grid.anchor}", grid.title, (grid,)) for grid in claims_grids(findings)]
    blocks.append(Notes(VERDICT_NOTES))
    blocks += [Text(f"Claims that wait for records: {'; '.join(waiting)}.")] if waiting else []
    return Section("claims", "Claims and verdicts", (*blocks, Fold(sources.title, (sources,))))


def _results(findings: Findings) -> Section:
    blocks: list[Block] = [_part(f"results-{found.anchor}", found, _table(found)) for found in findings.tables]
    if findings.missing:
        missing = ", ".join(findings.missing)
        blocks.append(Text(f"Not compared sentence by sentence: {missing}. `python -m scripts.significance` does it."))
    if findings.unmeasured:
        titles = "; ".join(table.title for table in findings.unmeasured)
        blocks.append(Text(f"Not measured yet: {titles}. `python -m scripts.sweep` trains them."))
    if without := sum(record.run not in found.curves for found in findings.tables for record in found.table.records):
        blocks.append(
            Text(
                f"Runs without a learning curve: {without}. `python -m scripts.curves runs/<hash>` makes it, where the "
                "run's log is still there."
            )
        )
    return Section("results", "Results", tuple(blocks))


def _table(found: TableFinding) -> list[Block]:
    """A table of results: its figures, its rows, and what is behind them."""
    blocks: list[Block] = [drawing for drawing in (forest(found), memory_sizes(found)) if drawing]
    blocks.append(rows_grid(found))
    curves, seeds, continued = curves_grid(found), seeds_grid(found), continued_grid(found)
    blocks += [Fold(continued.title, (continued,))] if continued else []
    blocks += [curves_drawing(found), Fold(curves.title, (curves,))] if curves else []
    blocks += [Fold(seeds.title, (seeds,))] if seeds else []
    return blocks


def _part(anchor: str, found: TableFinding, blocks: list[Block]) -> Part:
    return Part(anchor, found.table.title, tuple(blocks))
