"""What memory is worth to trained models, from `results/lesions/*.json`: curves and a table for each record."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from memtrans.analysis.lesion_record import FOLDER, KINDS, LesionRecord, Measured
from memtrans.records import NAMES
from memtrans.report.blocks import Block, Fold, Part, Section, Text
from memtrans.report.figures import SERIES, SOFT, Drawing, bars, dots, draw
from memtrans.report.grids import Grid, points, probability
from memtrans.report.subjects import describe_subject, in_order, name
from memtrans.significance import holm
from memtrans.tables.cells import MISSING
from memtrans.tables.notes import describe

NONE = "No lesion record yet. `python -m scripts.lesion runs/<hash>` makes one of a trained run."
# columns of the overview
TELLING: tuple[tuple[str, Callable[[Measured], bool]], ...] = (
    ("no memory", lambda lesion: lesion.kind in ("first", "random") and not lesion.kept),
    ("one token removed", lambda lesion: lesion.kind == "single"),
    ("frozen to its mean", lambda lesion: lesion.kind == "frozen"),
    ("zero from layer 1 on", lambda lesion: lesion.kind == "zeroed" and lesion.layer == 1),
    ("decoder blind to memory", lambda lesion: lesion.blind_to == "memory"),
    ("decoder blind to the sequence", lambda lesion: lesion.blind_to == "sequence"),
    ("more tokens, untrained", lambda lesion: lesion.kind == "more"),
)
# a panel: its title, what its axis counts, and the kinds of lesions on it
PANELS = (
    ("tokens kept", "tokens", ("first", "random")),
    ("one token removed", "token", ("single",)),
    ("zero from a layer on", "layer", ("zeroed",)),
    ("more than trained with", "tokens", ("more",)),
)


def lesions_section(results: Path) -> Section:
    """All lesion records of a folder of results, side by side and one by one. A broken one raises UserError."""
    records = in_order(LesionRecord.load(path) for path in (results / FOLDER).glob("*.json"))
    blocks: tuple[Block, ...] = (Text(NONE),)
    if records:
        single = tuple(Fold(name(r.subject), (_drawing(r), _grid(r)), packed=True) for r in records)
        blocks = (
            Part("lesions-models", "All models", (_overview(records),)),
            Part("lesions-single", "Model by model", single),
        )
    return Section("lesions", "Lesions: what is lost without memory", blocks)


def _overview(records: Sequence[LesionRecord]) -> Grid:
    """A line for each model, a column for each lesion that says most."""
    columns = [(head, fits) for head, fits in TELLING if any(map(fits, (le for r in records for le in r.lesions)))]
    rows = tuple(
        (
            record.subject.label,
            f"{record.subject.corpus.name}, seed {record.subject.seed}",
            f"{record.intact.value:.2f} {NAMES[record.intact.metric]}",
            *(_cell(record, fits) for _, fits in columns),
        )
        for record in records
    )
    notes = (
        "Difference to the intact model of the lesion; of several, the one that differs most. *: corrected p below "
        "0.05 (Holm's, over all lesions of the model). The p of BLEU, sacreBLEU's, has one tail; that of "
        "perplexity has two.",
    )
    head = ("model", "of", "intact", *(head for head, _ in columns))
    return Grid("lesions-overview", "Lesions of all models", head, rows, notes, (0, 1))


def _cell(record: LesionRecord, fits: Callable[[Measured], bool]) -> str:
    adjusted = holm([lesion.p for lesion in record.lesions])
    found = [(lesion.difference, p) for lesion, p in zip(record.lesions, adjusted, strict=True) if fits(lesion)]
    if not found:
        return MISSING
    difference, p = max(found, key=lambda one: abs(one[0]))
    return points(difference) + ("*" if p < 0.05 else "")


def _drawing(record: LesionRecord) -> Drawing:
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
        lesion.name: [None if end is None else round(end, 4) for end in (lesion.difference, lesion.low, lesion.high)]
        for lesion in record.lesions
    }
    size = (1.2 + 1.75 * len(panels), 2.6)
    return Drawing(anchor, title, caption, draw(anchor, size, paint, title), data)


def _grid(record: LesionRecord) -> Grid:
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
    ends = [(_place(le, tokens), le.low, le.high) for le in lesions if le.low is not None and le.high is not None]
    if ends:
        bars(axes, ends, SERIES[0])
    for kind, colour, look in (("random", SERIES[1], "x"), ("first", SERIES[0], "o-")):
        _curve(axes, [lesion for lesion in lesions if lesion.kind == kind], tokens, colour, look)
    alone = [lesion for lesion in lesions if lesion.kind in ("single", "zeroed")]
    dots(axes, [_place(lesion, tokens) for lesion in alone], [lesion.difference for lesion in alone], SERIES[0], 4)
    for start, look in (("new", "o-"), ("copies", "s--")):
        _curve(axes, [lesion for lesion in lesions if lesion.start == start], tokens, SERIES[2], look)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
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
