"""Tables of text as Markdown and as LaTeX (booktabs)."""

import re
from collections.abc import Sequence

from memtrans.report.grids import BREAK, Grid

WIDE = 6  # columns: more than a line holds in its own size
LONG = 50  # characters: longer text is broken into lines
SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "−": "$-$",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "∞": r"$\infty$",
    "×": r"$\times$",
    "–": "--",
}


def markdown(grid: Grid, heading: str = "") -> str:
    """The heading if one is given, the table, its notes."""
    ruler = ["---" if i in grid.wide else "---:" for i in range(len(grid.head))]
    lines = [_line(grid.head), _line(ruler), *(_line(row) for row in grid.rows)]
    notes = "".join(f"- {note}\n" for note in grid.notes)
    return (f"{heading}\n\n" if heading else "") + "".join(lines) + (f"\n{notes}" if notes else "")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(BREAK, '<br>') for cell in cells)} |\n"


def latex(grid: Grid) -> str:
    """A table environment with a caption of title and notes; wide tables are fitted to the line."""
    caption = escape(" ".join([f"{grid.title}.", *grid.notes]))
    tabular = [
        f"\\begin{{tabular}}{{{_columns(grid)}}}",
        "\\toprule",
        _latex_line(grid.head, "c" * len(grid.head)),
        "\\midrule",
        *(_latex_line(row, "".join("l" if i in grid.wide else "r" for i in range(len(row)))) for row in grid.rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    if len(grid.head) >= WIDE:
        tabular = ["\\resizebox{\\linewidth}{!}{%", *tabular, "}"]
    begin = ["\\begin{table}", "\\centering", f"\\caption{{{caption}}}", f"\\label{{tab:{grid.anchor}}}"]
    return "\n".join([*begin, *tabular, "\\end{table}", ""])


def _columns(grid: Grid) -> str:
    """Names at the left, numbers at the right; long text in paragraphs of a fifth of a line."""

    def column(i: int) -> str:
        if i not in grid.wide:
            return "r"
        longest = max(len(line) for row in (grid.head, *grid.rows) for line in row[i].split(BREAK))
        return "p{0.20\\linewidth}" if longest > LONG else "l"

    return "".join(map(column, range(len(grid.head))))


def _latex_line(cells: Sequence[str], sides: str) -> str:
    return " & ".join(_latex_cell(cell, side) for cell, side in zip(cells, sides, strict=True)) + r" \\"


def _latex_cell(text: str, side: str) -> str:
    """Lines under each other stand in a small table of their own."""
    lines = [escape(line) for line in text.split(BREAK)]
    if len(lines) == 1:
        return lines[0]
    return rf"\begin{{tabular}}[t]{{@{{}}{side}@{{}}}}" + r" \\ ".join(lines) + r"\end{tabular}"


def escape(text: str) -> str:
    """Text for LaTeX; what stands between backquotes is set as code."""
    pieces = re.split(r"`([^`]*)`", text)
    escaped = ["".join(SPECIAL.get(character, character) for character in piece) for piece in pieces]
    return "".join(f"\\texttt{{{piece}}}" if i % 2 else piece for i, piece in enumerate(escaped))
