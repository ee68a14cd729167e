"""Tables as Markdown: deterministic text, byte for byte the same for the same records."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from memtrans.records import NAMES, Record, Score
from memtrans.tables.cells import CONTINUED, Column, columns_of, difference, mean, name, started
from memtrans.tables.notes import describe, notes, warnings
from memtrans.tables.rows import BASELINE, Row, Table
from memtrans.tables.stats import summarise

HEAD = """# Results

Made by `python -m scripts.tabulate` from the records and `paper.csv` beside this file; not written by hand.
"""


class Measure(NamedTuple):
    """All of a score but its value: what must agree before values are averaged."""

    split: str
    metric: str
    items: int
    signature: str
    unit: str
    context: str

    @classmethod
    def of(cls, score: Score) -> "Measure":
        return cls(score.split, score.metric, score.items, score.signature or "", score.unit or "", score.context or "")

    @property
    def head(self) -> str:
        """Of its columns: the split, and the way that a perplexity was measured, where its context begins with one."""
        way, colon, _ = self.context.partition(":")
        return f"{self.split}, {way}" if colon else self.split

    def values(self, row: Row) -> dict[int, float]:
        """The scores of this measure by seed."""
        return {r.seed: s.value for r in row.records for s in r.scores if Measure.of(s) == self}


def render(tables: Sequence[Table]) -> str:
    """The whole of TABLES.md."""
    sections = [_section(table) for table in tables] or ["No record yet, and no sweep with published numbers.\n"]
    return "\n".join([HEAD, *sections])


def _section(table: Table) -> str:
    state = "" if table.records else " **Not measured yet.**"
    parts = [f"## {table.title}\n", f"Corpus {table.corpus}, size {table.size}, protocol {table.protocol}.{state}\n"]
    parts += [f"**Warning.** {warning}\n" for warning in warnings(table)]
    parts += [_grid(columns_of(table), table.rows), "".join(f"- {note}\n" for note in notes(table))]
    return "\n".join([*parts, *_further(table), *_continued(table)])


def _grid(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """A Markdown table with padded cells; the first column left, the others right."""
    lines = [[head for head, _ in columns], *([cell(row) for _, cell in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    ruler = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def text(line: Sequence[str]) -> str:
        right = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        return f"| {' | '.join([line[0].ljust(widths[0]), *right])} |\n"

    return "".join(map(text, [lines[0], ruler, *lines[1:]]))


def _further(table: Table) -> list[str]:
    """A second table: the headline's metric on all else that the records scored; nothing if there is no more."""
    scores = {Measure.of(score): score for record in table.records for score in _unshown(record)}
    if not scores:
        return []
    alike = Counter(measure.head for measure in scores)
    columns: list[Column] = [("model", lambda row: name(row, table))]
    lines = []
    for number, measure in enumerate(sorted(scores), start=1):
        # two columns with one head are of different signature or size: number them, so that nobody takes them for alike
        mark = f" [{number}]" if alike[measure.head] > 1 else ""
        columns += _measure_columns(measure, mark, table)
        lines.append(f"-{mark} {describe(scores[measure])}.\n")
    rows = [row for row in table.rows if row.records]
    lines.append(f"- Δ: mean difference to the {BASELINE} of the same seed. Other metrics, if any: in the records.\n")
    return ["### Further scores of the same runs\n", _grid(columns, rows), "".join(lines)]


def _continued(table: Table) -> list[str]:
    """A table of the runs that continue others; nothing if there are none."""
    if not table.continued:
        return []
    columns: list[Column] = [
        ("model", lambda row: name(row, table)),
        ("further tokens", lambda row: started(row)),
        (NAMES[table.metric], lambda row: mean(summarise(row.headlines))),
        ("seeds", lambda row: str(len(row.headlines))),
        ("Δ before", lambda row: mean(table.gain(row), sign=True)),
        ("further updates", lambda row: f"{row.records[0].updates:,}"),
        ("learning rate", lambda row: str(row.records[0].config["train"]["lr"])),
        ("parameters", lambda row: f"{row.records[0].parameters:,}"),
    ]
    return ["### Continued with more memory\n", _grid(columns, table.continued), f"- {CONTINUED}\n"]


def _measure_columns(measure: Measure, mark: str, table: Table) -> list[Column]:
    metric = "" if measure.head != measure.split else f" {NAMES[measure.metric]}"  # a way can only be perplexity's
    value: Column = (f"{measure.head}{metric}{mark}", lambda row: mean(summarise(measure.values(row))))
    return [value, (f"Δ {measure.head}{mark}", lambda row: difference(row, table, measure.values))]


def _unshown(record: Record) -> list[Score]:
    return [score for score in record.scores[1:] if score.metric == record.headline.metric]
