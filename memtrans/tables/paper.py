"""The published numbers of `results/paper.csv`, the only ones written by hand.

One row per cell of a published table. `certainty`: P stated by the paper, S from one secondary text only, R from a
later paper of the same group, ? not known here. A value that is not known is an empty cell, never a guess.
"""

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

from memtrans.errors import UserError
from memtrans.strict import build, strict

COLUMNS = ("corpus", "size", "label", "metric", "value", "spread", "runs", "source", "certainty", "note")


@strict
class PaperCell:
    """One published number, or None where it is not known here, with where it was found."""

    corpus: str
    size: str
    label: str
    metric: Literal["bleu", "chrf", "perplexity"]
    value: float | None = None
    spread: float | None = None
    runs: int | None = None
    source: str
    certainty: Literal["P", "S", "R", "?"]
    note: str | None = None

    def __post_init__(self) -> None:
        if (self.value is None) != (self.certainty == "?"):
            raise UserError(
                f"certainty: {self.certainty} does not fit value {self.value}; ? is for an empty value alone"
            )


# a published table: its cells by label
PaperTable = dict[str, PaperCell]


def load_paper(path: Path) -> dict[tuple[str, str, str], PaperTable]:
    """Published tables by (corpus, size, metric). Raises UserError naming the file, the line and the column."""
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); restore it from git") from None
    if not lines or tuple(lines[0]) != COLUMNS:
        raise UserError(f"{path}: line 1: expected the columns {','.join(COLUMNS)}")
    tables: dict[tuple[str, str, str], PaperTable] = defaultdict(dict)
    for number, cells in enumerate(lines[1:], start=2):
        cell = _cell(cells, path.with_name(f"{path.name} line {number}"))
        table = tables[cell.corpus, cell.size, cell.metric]
        if cell.label in table:
            raise UserError(f"{path} line {number}: label: a second {cell.label} in this table; keep one")
        table[cell.label] = cell
    return dict(tables)


def _cell(cells: list[str], source: Path) -> PaperCell:
    if len(cells) != len(COLUMNS):
        raise UserError(f"{source}: expected {len(COLUMNS)} cells, found {len(cells)}; quote a cell that has a comma")
    given: dict[str, Any] = {name: text for name, text in zip(COLUMNS, cells, strict=True) if text.strip()}
    for name, kind in (("value", float), ("spread", float), ("runs", int)):
        try:
            given[name] = kind(given[name]) if name in given else None
        except ValueError:
            raise UserError(f"{source}: {name}: expected a number or an empty cell, found {given[name]!r}") from None
    return build(PaperCell, given, source)
