"""How the rows of a table learned, from `results/curves/*.json`: a panel for each row, and its last losses."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from memtrans.curves import Losses
from memtrans.report.figures import SERIES, SOFT, Drawing, draw
from memtrans.report.findings import RowFinding, TableFinding
from memtrans.report.grids import Grid
from memtrans.tables.cells import MISSING, name
from memtrans.tables.rows import BASELINE

PANELS = 4  # side by side
BEGINNING = 0.25  # of the updates: losses there are far above all others, and would flatten them


def curves_drawing(found: TableFinding) -> Drawing:
    """A panel for each row that has curves: losses by update, beside the baseline's."""
    rows = {name(row.row, found.table): row for row in _rows(found)}
    anchor, title = f"curves-{found.anchor}", f"{found.table.title}: learning curves"
    curves = {label: found.curves_of(row) for label, row in rows.items()}
    validation = {label: {seed: one.validation for seed, one in seeds.items()} for label, seeds in curves.items()}
    training = {label: _mean(one.training for one in seeds.values()) for label, seeds in curves.items()}
    means = {label: _mean(seeds.values()) for label, seeds in validation.items()}
    ends = _ends(losses for seeds in validation.values() for losses in seeds.values())
    down = -(-len(rows) // PANELS)

    def paint(figure: Figure) -> None:
        panels = figure.subplots(down, min(PANELS, len(rows)), sharex=True, sharey=True, squeeze=False).ravel()
        for axes, (label, row) in zip(panels, rows.items(), strict=False):
            baseline = found.table.baseline(row.row)
            other = name(baseline, found.table) if baseline else label
            _line(axes, training[label], SERIES[1], "training", linewidth=1, alpha=0.55)
            if other != label and other in means:
                _line(axes, means[other], SOFT, f"validation, {BASELINE}", linewidth=1.2, linestyle="--")
            for losses in validation[label].values() if len(validation[label]) > 1 else ():
                _line(axes, losses.by_update, SERIES[0], "", linewidth=0.6, alpha=0.5)
            _line(axes, means[label], SERIES[0], "validation", linewidth=1.6)
            axes.set_title(label, fontsize=9)
            axes.grid(axis="y")
            axes.set_axisbelow(True)
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            if ends:
                axes.set_ylim(*ends)
        for axes in panels[len(rows) :]:
            axes.set_visible(False)
        for axes in panels[max(0, len(rows) - PANELS) : len(rows)]:
            axes.tick_params(labelbottom=True)  # also above a panel that is not there
        figure.supxlabel("updates", fontsize=9)
        figure.supylabel("loss, bits per token", fontsize=9)
        named = {
            label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(named.values(), named.keys(), loc="outside upper right", ncols=len(named), fontsize=8)

    caption = (
        "Strong: validation loss, mean over seeds; thin: seeds; light: training loss (with dropout), mean over seeds. "
        "Bits per token as the training minimises them. Off the scale: what only the first quarter of the training, or "
        "the training loss, reaches."
    )
    data: dict[str, Any] = {
        label: {
            "updates": (updates := sorted({update for losses in seeds.values() for update in losses.updates})),
            "validation": {str(seed): list(map(losses.by_update.get, updates)) for seed, losses in seeds.items()},
            "training, mean over seeds": [[update, round(loss, 3)] for update, loss in training[label].items()],
        }
        for label, seeds in validation.items()
    }
    size = (8.0, 0.7 + 1.65 * down)
    return Drawing(anchor, title, caption, draw(anchor, size, paint, title), data)


def curves_grid(found: TableFinding) -> Grid | None:
    """The losses that the rows ended with; None without any curve."""
    rows = []
    for row in _rows(found):
        curves = found.curves_of(row).values()
        lowest = [min(c.validation.by_update.items(), key=lambda one: one[1]) for c in curves if c.validation.updates]
        updates = sorted(update for update, _ in lowest)
        rows.append(
            (
                name(row.row, found.table),
                str(len(curves)),
                _spread([curve.training.losses[-1] for curve in curves if curve.training.losses]),
                _spread([curve.validation.losses[-1] for curve in curves if curve.validation.losses]),
                _spread([loss for _, loss in lowest]),
                "–".join(dict.fromkeys(f"{update:,}" for update in (updates[0], updates[-1]))) if updates else MISSING,
            )
        )
    if not rows:
        return None
    head = ("model", "seeds", "training, last", "validation, last", "validation, lowest", "at update")
    notes = (
        "Bits per token, mean over seeds ± standard deviation, as the training minimises them: translations with label "
        "smoothing, if they are trained with it. Training: with dropout, the last point of the curve, a mean over 20 "
        "updates or more.",
    )
    return Grid(f"curves-{found.anchor}-table", "Learning curves: last losses", head, tuple(rows), notes)


def _rows(found: TableFinding) -> list[RowFinding]:
    return [row for row in found.rows if found.curves_of(row)]


def _mean(curves: Iterable[Losses]) -> dict[int, float]:
    """Over seeds, at the updates that all have."""
    by_update = [losses.by_update for losses in curves]
    shared = set.intersection(*(set(one) for one in by_update))
    return {update: fmean(one[update] for one in by_update) for update in sorted(shared)}


def _ends(curves: Iterable[Losses]) -> tuple[float, float] | None:
    """What the loss axis shows: all validation losses but those of the beginning."""
    known = [
        loss
        for losses in curves
        for update, loss in losses.by_update.items()
        if update > BEGINNING * losses.updates[-1]
    ]
    if not known:
        return None
    room = 0.05 * (max(known) - min(known)) or 0.05
    return min(known) - 4 * room, max(known) + room  # below, as training losses may end lower


def _line(axes: Axes, points: Mapping[int, float], colour: str, label: str, **look: Any) -> None:
    axes.plot(list(points), list(points.values()), color=colour, label=label or None, **look)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return MISSING
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")
