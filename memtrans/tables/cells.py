"""What stands in a cell: numbers as text, and the columns of a table."""

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter

from memtrans.records import NAMES
from memtrans.tables.rows import BASELINE, Row, Table
from memtrans.tables.stats import Summary, summarise

MISSING, UNKNOWN = "–", "?"  # none or not measured; not known here
Column = tuple[str, Callable[[Row], str]]  # head, and the cell of a row
CONTINUED = (
    "Δ before: mean difference to the same run before it was continued. One with as many tokens as before shows what "
    "training on is worth alone."
)


def columns_of(table: Table) -> list[Column]:
    """All columns of a table. Those of the paper stand only where there is a published table to read it against."""
    columns: list[Column] = [("model", lambda row: name(row, table))]
    columns.append((NAMES[table.metric], lambda row: mean(summarise(row.headlines))))
    if any(row.chrf for row in table.rows):
        columns.append(("chrF", lambda row: mean(summarise(row.chrf), spread=False)))
    columns += [("seeds", _seeds), (f"Δ {BASELINE}", lambda row: difference(row, table, attrgetter("headlines")))]
    if table.paper:
        columns += _paper_columns(table)
    columns.append(("parameters", lambda row: _same(f"{record.parameters:,}" for record in row.records)))
    return [*columns, ("tokens/s", _speed), ("GPU-hours", _gpu_hours)]


def _paper_columns(table: Table) -> list[Column]:
    # values of another corpus say so in the head of each column
    where = "" if table.is_papers_own else f", {' '.join(table.paper_of)}"
    value: Column = (f"paper{where}", lambda row: _published(row, table))
    gap: Column = ("measured − paper", lambda row: _minus_paper(row, table))
    difference: Column = (f"paper Δ{where}", lambda row: _published_difference(row, table))
    return [value, gap, difference] if table.is_papers_own else [value, difference]


def name(row: Row, table: Table) -> str:
    """The label, marked wherever rows of one table must not be taken for alike."""
    marks = []
    if row.setting and row.label in table.settings:
        marks.append(f"setting {row.setting[:8]}")
    if row.evidence and len(table.evidences) > 1:
        marks.append(letter(table.evidences.index(row.evidence)))
    return row.label.replace("|", "\\|") + "".join(f" [{mark}]" for mark in marks)


def mean(summary: Summary | None, *, sign: bool = False, spread: bool = True) -> str:
    """Mean ± sample standard deviation; the second only where there is one."""
    if summary is None:
        return MISSING
    text = _number(summary.mean, sign=sign)
    return f"{text} ± {summary.spread:.2f}" if spread and summary.spread is not None else text


def difference(row: Row, table: Table, values: Callable[[Row], Mapping[int, float]]) -> str:
    """The paired difference of `values` to the baseline, and how many pairs where a seed lacks one."""
    if row.label == BASELINE and values(row):
        return "baseline"
    summary = table.difference(row, values)
    pairs = f" ({summary.n} of {len(values(row))})" if summary and summary.n < len(values(row)) else ""
    return mean(summary, sign=True) + pairs


def started(row: Row) -> str:
    """How the tokens that a continued row adds to its parent's began."""
    parent, tokens = row.records[0].config["parent"], row.records[0].config["model"]["memory_tokens"]
    return parent["start"] if tokens > parent["memory_tokens"] else MISSING


def letter(index: int) -> str:
    """a, b, c: the mark of the rows that share one evidence."""
    return chr(ord("a") + index)


def _number(value: float, *, sign: bool = False) -> str:
    """Two decimals, with a real minus sign, and never a negative zero."""
    rounded = round(value, 2) + 0.0
    return f"{rounded:{'+' if sign else ''}.2f}".replace("-", "−")


def _seeds(row: Row) -> str:
    """How many of the planned seeds are there, and how many more."""
    seeds = {record.seed for record in row.records}
    if row.planned is None:
        return str(len(seeds))
    extra = len(seeds.difference(row.planned))
    return f"{len(seeds.intersection(row.planned))} of {len(row.planned)}" + (f" + {extra}" if extra else "")


def _published(row: Row, table: Table) -> str:
    cell = table.paper.get(row.label)
    if cell is None:
        return MISSING
    return UNKNOWN if cell.value is None else mean(Summary(cell.value, cell.spread, cell.runs or 1))


def _published_difference(row: Row, table: Table) -> str:
    if row.label == BASELINE or row.label not in table.paper:
        return "baseline" if row.label in table.paper else MISSING
    difference = table.paper_difference(row.label)
    return UNKNOWN if difference is None else _number(difference, sign=True)


def _minus_paper(row: Row, table: Table) -> str:
    cell, measured = table.paper.get(row.label), summarise(row.headlines)
    if cell is None or cell.value is None or measured is None:
        return MISSING
    return _number(measured.mean - cell.value, sign=True)


def _speed(row: Row) -> str:
    """Mean tokens/s; never a mean over different hardware, nor of runs that shared it with more and with fewer."""
    if len({(record.hardware.device, record.hardware.devices) for record in row.records}) > 1:
        return "mixed hardware"
    if len({record.hardware.runs_per_device for record in row.records}) > 1:
        return "mixed sharing"
    summary = summarise({record.seed: record.tokens_per_second for record in row.records})
    return f"{summary.mean:,.0f}" if summary else MISSING


def _gpu_hours(row: Row) -> str:
    hours = [record.gpu_hours for record in row.records if record.gpu_hours is not None]
    return f"{sum(hours):,.2f}" if hours else MISSING


def _same(values: Iterable[str]) -> str:
    return " / ".join(sorted(set(values))) or MISSING
