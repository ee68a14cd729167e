"""Drawings by matplotlib, as SVG that takes its colours from the page and so follows light and dark.

Each drawing comes with its data, which the page embeds as JSON, and with a sentence for those who cannot see it.
"""

import io
import math
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memtrans.report.findings import RowFinding, TableFinding
from memtrans.report.grids import points
from memtrans.tables.rows import BASELINE, Table

# matplotlib draws in these, the page replaces them: text, grid, measured, published, and further series
COLOURS = {
    "#101010": "--ink",
    "#707070": "--soft",
    "#d0d0d0": "--rule",
    "#1060a0": "--series-1",
    "#b05010": "--series-2",
    "#208050": "--series-3",
    "#803090": "--series-4",
}
INK, SOFT, RULE, *SERIES = COLOURS
STYLE: dict[Any, Any] = {
    "path.simplify": False,  # which would take dots away
    "svg.fonttype": "none",  # text stays text: small, searchable, readable by screen readers
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Drawing:
    """An SVG element, what it shows in words, and the numbers that it shows."""

    anchor: str
    title: str
    caption: str
    svg: str
    data: dict[str, Any] = field(default_factory=dict)


def draw(anchor: str, size: tuple[float, float], paint: Callable[[Figure], None], title: str) -> str:
    """An inline SVG of `size` inches that `paint` fills. The same data give the same text."""
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": anchor}):
        figure, buffer = Figure(figsize=size, layout="constrained"), io.StringIO()
        paint(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inlined(buffer.getvalue(), anchor, title, width=size[0])


def _inlined(svg: str, anchor: str, title: str, width: float) -> str:
    """matplotlib's file as an element of the page: small, with the page's colours and fonts, its ids the page's own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<g id=\"[^\"]*\"", "<g", svg)  # no one refers to groups
    svg = re.sub(r"font-family: [^;]*; ?", "", svg)
    svg = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', "", svg, count=1)
    svg = re.sub(r"\s+", " ", svg).replace("> <", "><")
    svg = re.sub(r' (x|y|transform)="([^"]*)"', lambda found: f' {found[1]}="{_tenths(found[2])}"', svg)
    svg = re.sub(r' d="([^"]*)"', lambda found: f' d="{_shorter(found[1])}"', svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"|<path d="[^"]*" style="fill: none"/>', "", svg)  # of no effect
    svg = _without_plain_groups(svg)
    for colour, name in COLOURS.items():
        svg = svg.replace(colour, f"var({name})")
    ids = {old: f"d{zlib.crc32(anchor.encode()):x}{i}" for i, old in enumerate(re.findall(r' id="([^"]+)"', svg))}
    svg = re.sub(r'( id="|url\(#|href="#)([^")]+)', lambda found: found[1] + ids[found[2]], svg)
    return svg.replace(
        "<svg", f'<svg role="img" aria-label="{escape(title)}" style="max-width:{width * 1.25:.1f}in"', 1
    )


def _tenths(numbers: str) -> str:
    """Numbers cut to a tenth of a point, which is less than anyone sees."""
    return re.sub(r"(\d+\.\d)\d+", r"\1", numbers)


def _shorter(path: str) -> str:
    """The same path in fewer letters: of lines, each from the one before it, in tenths of a point."""
    steps = path.split()
    if re.search("[^ML\\d. -]", path):  # curves, closed paths
        return _tenths(" ".join(steps))
    text, before = "", (0, 0)
    for command, x, y in zip(steps[::3], steps[1::3], steps[2::3], strict=True):
        here = round(10 * float(x)), round(10 * float(y))
        moved = (f"{(new - old) / 10:g}" for new, old in zip(here, before, strict=True))
        text, before = f"{text}{command.lower()}{' '.join(moved)}", here
    return text


def _without_plain_groups(svg: str) -> str:
    kept: list[bool] = []

    def tag(found: re.Match) -> str:
        if found[0] != "</g>":
            kept.append(found[0] != "<g>")
            return found[0] if kept[-1] else ""
        return found[0] if kept.pop() else ""

    return re.sub(r"<g(?: [^>]*)?>|</g>", tag, svg.replace("<g/>", ""))


def dots(axes: Axes, xs: Sequence[float], ys: Sequence[float], colour: str, size: float = 3.0) -> None:
    """Many dots as one path, which is ten times smaller than as many markers. `size` is in points."""
    apart = [math.nan] * len(xs)
    places = [[value for three in zip(of, of, apart, strict=True) for value in three] for of in (xs, ys)]
    axes.plot(*places, color=colour, linewidth=size, solid_capstyle="round")


def bars(axes: Axes, ends: Sequence[tuple[float, float, float]], colour: str) -> None:
    """Many intervals, upright, as one path: the place of each, and from where to where it goes."""
    xs = [x for x, _, _ in ends for _ in range(3)]
    ys = [y for _, low, high in ends for y in (low, high, math.nan)]
    axes.plot(xs, ys, color=colour, linewidth=1, alpha=0.6)


def forest(found: TableFinding) -> Drawing | None:
    """Differences to the baseline: interval, mean and seeds of every row, beside what was published."""
    rows = [row for row in found.rows if row.difference and row.difference.testable]
    if not rows:
        return None
    published = {row.row.label: _published(row, found) for row in rows}
    anchor, title = f"forest-{found.anchor}", f"{found.table.title}: difference to the {BASELINE}"

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=SOFT, linewidth=1)
        for y, row in enumerate(rows):
            _whisker(axes, row, y)
        low, high = axes.get_xlim()
        for y, value in enumerate(published[row.row.label] for row in rows):
            if value is not None:
                _mark_published(axes, value, y - 0.28, (low, high))
        axes.set_xlim(low, high)
        axes.set_ylim(len(rows) - 0.4, -0.9)
        axes.set_yticks(range(len(rows)), [row.row.label for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel(_points_label(found))

    scaled = ", scaled to this baseline" if found.table.metric == "perplexity" else ""
    marks = (
        f" Hollow diamonds: published, another corpus{scaled}; an arrow where off the scale."
        if any(value is not None for value in published.values())
        else ""
    )
    caption = f"Bars: 95% interval over {rows[0].difference.over if rows[0].difference else ''}; "
    caption += f"large dots: mean; small dots: seeds.{marks}"
    data = {row.row.label: _numbers(row) | {"published": published[row.row.label]} for row in rows}
    return Drawing(anchor, title, caption, draw(anchor, (7.2, 0.8 + 0.42 * len(rows)), paint, title), data)


def memory_sizes(found: TableFinding) -> Drawing | None:
    """The difference to the baseline by the number of memory tokens, beside the published points."""
    series: dict[str, list[RowFinding]] = {}
    for row in found.rows:
        if row.difference and row.difference.testable and _memory(row):
            series.setdefault(row.row.label.rsplit(" ", 1)[0], []).append(row)
    series = {name: rows for name, rows in series.items() if len(rows) > 1}
    if not series or found.table.metric != "bleu":
        return None
    anchor, title = f"sizes-{found.anchor}", f"{found.table.title}: BLEU by memory size"

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, len(series), sharex=True)
        for axes, (name, rows) in zip([panels] if len(series) == 1 else panels, series.items(), strict=True):
            _sizes_panel(axes, name, rows, found.table)
        figure.supxlabel("memory tokens", fontsize=9)

    caption = "Dots and bars: measured, with 95% interval; small dots: seeds; hollow diamonds: published, "
    caption += f"{found.table.paper_of[0]}. "
    caption += "Every model has a scale of its own."
    data = {
        row.row.label: _numbers(row)
        | {"memory_tokens": _memory(row), "published": found.table.paper_difference(row.row.label)}
        for rows in series.values()
        for row in rows
    }
    return Drawing(anchor, title, caption, draw(anchor, (7.2, 2.7), paint, title), data)


def _sizes_panel(axes: Axes, name: str, rows: list[RowFinding], table: Table) -> None:
    axes.axhline(0, color=SOFT, linewidth=1)
    xs = [_memory(row) for row in rows]
    differences = [row.difference for row in rows if row.difference]
    ends = [difference.interval() or (math.nan, math.nan) for difference in differences]
    axes.vlines(xs, [low for low, _ in ends], [high for _, high in ends], color=SERIES[0], linewidth=2.2)
    axes.plot(xs, [difference.mean for difference in differences], color=SERIES[0], marker="o", linewidth=1)
    for x, difference in zip(xs, differences, strict=True):
        axes.plot([x + 0.6] * difference.n, list(difference.by_seed.values()), ".", color=SERIES[0], markersize=3.5)
    known = [
        (x, v) for x, row in zip(xs, rows, strict=True) if (v := table.paper_difference(row.row.label)) is not None
    ]
    if known:
        axes.plot(*zip(*known, strict=True), color=SERIES[1], marker="D", fillstyle="none", linewidth=1, linestyle=":")
    axes.set_title(name, fontsize=9)
    axes.set_xticks(range(0, max(20, *xs) + 1, 5))
    axes.set_xlim(-1, max(20, *xs) + 2)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    if axes.get_subplotspec() is None or axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
        axes.set_ylabel(f"Δ BLEU to {BASELINE}")


def _whisker(axes: Axes, row: RowFinding, y: float) -> None:
    assert row.difference
    ends = row.difference.interval()
    assert ends
    axes.plot(ends, [y, y], color=SERIES[0], linewidth=2.2, solid_capstyle="butt")
    axes.plot([row.difference.mean], [y], "o", color=SERIES[0], markersize=6)
    seeds = list(row.difference.by_seed.values())
    axes.plot(seeds, [y + 0.25] * len(seeds), ".", color=SERIES[0], markersize=4)


def _mark_published(axes: Axes, value: float, y: float, ends: tuple[float, float]) -> None:
    low, high = ends
    if low <= value <= high:
        axes.plot([value], [y], "D", color=SERIES[1], fillstyle="none", markersize=5)
        return
    at, side = (low, "left") if value < low else (high, "right")
    arrow = f"◂ {points(value)}" if side == "left" else f"{points(value)} ▸"
    axes.text(at, y, arrow, color=SERIES[1], ha=side, va="center", fontsize=8)


def _published(row: RowFinding, found: TableFinding) -> float | None:
    """The published difference; of perplexity as the same percentage of this table's baseline."""
    table = found.table
    value, cell = table.paper_difference(row.row.label), table.paper.get(BASELINE)
    baseline = table.baseline(row.row)
    if value is None or table.metric != "perplexity" or cell is None or not cell.value or baseline is None:
        return value
    return value * fmean(baseline.headlines.values()) / cell.value


def _memory(row: RowFinding) -> int:
    return row.row.records[0].config["model"].get("memory_tokens") or 0


def _numbers(row: RowFinding) -> dict[str, Any]:
    assert row.difference
    ends = row.difference.interval() or ()
    return {
        "mean": round(row.difference.mean, 4),
        "interval": [round(end, 4) for end in ends],
        "seeds": {str(seed): round(value, 4) for seed, value in row.difference.by_seed.items()},
    }


def _points_label(found: TableFinding) -> str:
    better = "lower is better" if found.table.metric == "perplexity" else "higher is better"
    return f"Δ {found.unit}, {better}"
