"""What memory is worth to trained models, from `results/lesions/*.json`: curves and a table for each record."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memtrans.analysis.lesion_record import FOLDER, KINDS, LesionRecord, Measured
from memtrans.records import NAMES
from memtrans.report.attention import describe_subject, name
from memtrans.report.figures import SERIES, SOFT, Drawing, draw
from memtrans.report.grids import Grid, points, probability
from memtrans.significance import holm
from memtrans.tables.cells import MISSING
from memtrans.tables.notes import describe

# a panel: its title, what its axis counts, and the kinds of lesions on it
PANELS = (
    ("tokens kept", "tokens", ("first", "random")),
    ("one token removed", "token", ("single",)),
    ("zero from a layer on", "layer", ("zeroed",)),
    ("more than trained with", "tokens", ("more",)),
)


def load_lesions(results: Path) -> list[LesionRecord]:
    """All lesion records of a folder of results; a broken one raises UserError."""
    return [LesionRecord.load(path) for path in sorted((results / FOLDER).glob("*.json"))]


def lesion_drawing(record: LesionRecord) -> Drawing:
    """The difference to the intact model by what was taken away or added."""
    panels = [panel for panel in PANELS if any(lesion.kind in panel[2] for lesion in record.lesions)]
    anchor, title = f"lesions-{record.subject.run}", f"{name(record.subject)}: lesions"

    def paint(figure: Figure) -> None:
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for panel, (text, unit, kinds) in zip(axes, panels, strict=True):
            _panel(panel, [lesion for lesion in record.lesions if lesion.kind in kinds], record.subject.memory_tokens)
            panel.set_title(text, fontsize=9)
            panel.set_xlabel(unit)
        axes[0].set_ylabel(f"Δ {NAMES[record.intact.metric]}")

    bars = "Bars: 95% interval over the text. " if any(lesion.low is not None for lesion in record.lesions) else ""
    caption = f"Difference to the intact model, {record.intact.value:.2f} {NAMES[record.intact.metric]}. {bars}"
    caption += "Circles: the first tokens are kept; crosses: tokens drawn at random are."
    data: dict[str, Any] = {
        lesion.name: {"kind": lesion.kind, "difference": lesion.difference, "interval": [lesion.low, lesion.high]}
        for lesion in record.lesions
    }
    size = (1.2 + 1.75 * len(panels), 2.6)
    return Drawing(anchor, title, caption, draw(anchor, size, paint, title), data)


def lesion_grid(record: LesionRecord) -> Grid:
    """All lesions, with their paired tests corrected for how many there are."""
    adjusted = holm([lesion.p for lesion in record.lesions])
    rows = tuple(
        (
            lesion.name,
            f"{lesion.value:.2f}",
            points(lesion.difference),
            MISSING if lesion.low is None or lesion.high is None else f"[{points(lesion.low)}, {points(lesion.high)}]",
            probability(lesion.p),
            probability(p),
        )
        for lesion, p in zip(record.lesions, adjusted, strict=True)
    )
    kinds = dict.fromkeys(lesion.kind for lesion in record.lesions)
    notes = (
        f"Intact: {record.intact.value:.2f}. {describe(record.intact)}.",
        f"Test: {record.test}. Corrected p: Holm's, over the {len(rows)} lesions.",
        f"{describe_subject(record.subject)}.",
        *(f"{kind.capitalize()}: {KINDS[kind]}." for kind in kinds),
        *(f"Left out: {lesion}: {why}." for lesion, why in record.left_out.items()),
    )
    head = ("lesion", NAMES[record.intact.metric], "Δ intact", "interval", "p", "corrected p")
    return Grid(f"lesions-{record.subject.run}-table", f"{name(record.subject)}: lesions", head, rows, notes)


def _panel(axes: Axes, lesions: Sequence[Measured], tokens: int) -> None:
    axes.axhline(0, color=SOFT, linewidth=1)
    for lesion in lesions:
        if lesion.low is not None and lesion.high is not None:
            axes.plot([_place(lesion, tokens)] * 2, [lesion.low, lesion.high], color=SERIES[0], linewidth=1, alpha=0.6)
    for kind, colour, look in (("random", SERIES[1], "x"), ("first", SERIES[0], "o-")):
        _curve(axes, [lesion for lesion in lesions if lesion.kind == kind], tokens, colour, look)
    _curve(axes, [lesion for lesion in lesions if lesion.kind in ("single", "zeroed")], tokens, SERIES[0], "o")
    for start, look in (("new", "o-"), ("copies", "s--")):
        _curve(axes, [lesion for lesion in lesions if lesion.start == start], tokens, SERIES[2], look)
    places = sorted({_place(lesion, tokens) for lesion in lesions})
    axes.set_xticks(places if len(places) <= 8 else places[:: -(-len(places) // 8)])
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def _curve(axes: Axes, lesions: Sequence[Measured], tokens: int, colour: str, look: str) -> None:
    if lesions:
        xs = [_place(lesion, tokens) for lesion in lesions]
        ys = [lesion.difference for lesion in lesions]
        axes.plot(xs, ys, look, color=colour, markersize=4, linewidth=1.2)


def _place(lesion: Measured, tokens: int) -> int:
    """Where on the axis: tokens that were kept or there are, the token that was removed, the first zeroed layer."""
    if lesion.kind == "single":
        return next(token for token in range(1, tokens + 1) if token not in (lesion.kept or ()))
    if lesion.kind == "zeroed":
        return lesion.layer or 0
    return lesion.tokens or 0 if lesion.kind == "more" else len(lesion.kept or ())
