"""Where attention goes, from `results/attention/*.json`: block masses by layer, the strongest patterns, whole maps."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memtrans.analysis.attention_record import (
    CONDITIONS,
    FOLDER,
    PARTS,
    PATTERNS,
    AttentionRecord,
    Condition,
    Layer,
    Numbers,
)
from memtrans.report.blocks import Block, Fold, Html, Notes, Part, Section, Text
from memtrans.report.figures import SERIES, SOFT, Drawing, dots, draw
from memtrans.report.grids import Grid
from memtrans.report.maps import maps, masses, mean, parts
from memtrans.report.subjects import describe_subject, in_order, name
from memtrans.tables.cells import MISSING
from memtrans.tables.cells import mean as mean_text
from memtrans.tables.stats import Summary

SHOWN = ("process", "write", "read", "normal")  # blocks with a panel of their own
LOOKS = {"trained": "-", "untrained": ":", "shuffled": "--", "baseline": "-."}  # lines, so that none needs its colour
NONE = "No attention record yet. `python -m scripts.attention runs/<hash>` makes one of a trained run."


def attention_section(results: Path) -> Section:
    """All attention records of a folder of results, side by side and one by one. A broken one raises UserError."""
    records = in_order(AttentionRecord.load(path) for path in (results / FOLDER).glob("*.json"))
    return Section("attention", "What attention does with memory", _blocks(records) if records else (Text(NONE),))


def _blocks(records: Sequence[AttentionRecord]) -> tuple[Block, ...]:
    shown = maps(records)
    left = [name(record.subject) for record in records if record.subject.run not in {one["run"] for one in shown}]
    models = [{key: one[key] for key in ("label", "run", "left")} for one in shown]
    return (
        Html("legend.html"),
        Part("attention-models", "All models", (_overview(records),)),
        Part("attention-maps", "Maps", (Html("maps.html", {"models": models, "maps": shown, "left": left}),)),
        Part("attention-single", "Model by model", tuple(_one(record) for record in records)),
    )


def _one(record: AttentionRecord) -> Fold:
    source = (
        f"{describe_subject(record.subject)}; intervals of {record.confidence:.0%}, {record.resamples:,} bootstrap "
        "resamples."
    )
    drawings = tuple(_masses(record, part) for part in parts(record))
    return Fold(name(record.subject), (*drawings, _patterns(record), Notes((source,))), packed=True)


def _by_layer(condition: Condition, part: str, statistic: str) -> dict[int, Numbers]:
    """A statistic by layer, of the layers that have it."""
    return {layer.layer: layer.statistics[statistic] for layer in condition.of(part) if statistic in layer.statistics}


# --- all models


def _overview(records: Sequence[AttentionRecord]) -> Grid:
    """A line for each model and kind of attention: its masses, the controls', and the head that reads most."""
    controls = [one for one in CONDITIONS if one != "trained" and any(one in _named(record) for record in records)]
    rows = [
        (
            record.subject.label,
            f"{record.subject.corpus.name}, seed {record.subject.seed}",
            PARTS[part],
            *(_mass(record.conditions[0], part, block) for block in ("process", "write", "read")),
            *(_mass(condition, part, "read") for control in controls for condition in [_named(record).get(control)]),
            _keenest(record.conditions[0], part),
        )
        for record in records
        for part in parts(record)
    ]
    head = ("model", "of", "attention", "process", "write", "read", *(f"read, {control}" for control in controls))
    notes = (
        "Share of attention, mean over layers and heads; in brackets: of uniform attention. Last column: the layer and "
        "head that reads memory most; the highest of many is high by chance too.",
        *(f"{control.capitalize()}: {CONDITIONS[control]}." for control in controls),
    )
    return Grid(
        "attention-overview", "Attention of all models", (*head, "head that reads most"), tuple(rows), notes, (0, 1, 2)
    )


def _named(record: AttentionRecord) -> dict[str, Condition]:
    return {condition.name: condition for condition in record.conditions}


def _mass(condition: Condition | None, part: str, block: str) -> str:
    layers = list(_by_layer(condition, part, f"mass.{block}").values()) if condition else []
    if not layers:
        return MISSING
    value, even = fmean(map(mean, layers)), fmean(layer.uniform or 0 for layer in layers)
    return f"{value:.2f} ({even:.2f})"


def _keenest(condition: Condition, part: str) -> str:
    found = [(value, place) for place, value in _heads(condition, part, "mass.read")]
    if not found:
        return MISSING
    value, (layer, head) = max(found, key=lambda one: one[0])
    return f"{value:.2f} ({layer}.{head + 1})"


def _heads(condition: Condition, part: str, statistic: str) -> Iterator[tuple[tuple[int, int], float]]:
    """(layer from 1, head from 0) and value."""
    for layer, numbers in _by_layer(condition, part, statistic).items():
        for head, value in enumerate(numbers.value):
            yield (layer, head), value


# --- one model


def _masses(record: AttentionRecord, part: str) -> Drawing:
    """A panel for each block: its mass by layer, mean over heads, of the model and of every control."""
    trained, *controls = record.conditions
    blocks = [block for block in SHOWN if _by_layer(trained, part, f"mass.{block}")]
    anchor = f"masses-{record.subject.run}-{part}"
    title = f"{name(record.subject)}: block masses, {PARTS[part]}"

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, len(blocks), sharey=True, squeeze=False)[0]
        for axes, block in zip(panels, blocks, strict=True):
            _panel(axes, record, part, block)
        panels[0].set_ylabel("mass")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=len(labels) if len(blocks) > 2 else 3, fontsize=8
        )

    caption = "Share of attention that goes where the block says, by layer; mean over heads, dots: single heads."
    data: dict[str, Any] = {"trained": masses(trained, part)}
    data |= {
        control.name: {block: found["mean"] for block, found in masses(control, part).items()} for control in controls
    }
    width = 1.2 + 1.55 * len(blocks)
    return Drawing(anchor, title, caption, draw(anchor, (width, 2.5), paint, title), data)


def _panel(axes: Axes, record: AttentionRecord, part: str, block: str) -> None:
    for condition, colour in zip(record.conditions, SERIES, strict=False):
        by_layer = _by_layer(condition, part, f"mass.{block}")
        look: Any = {"linestyle": LOOKS[condition.name], "linewidth": 2 if condition.name == "trained" else 1.3}
        axes.plot(list(by_layer), list(map(mean, by_layer.values())), color=colour, label=condition.name, **look)
        if condition.name == "trained":
            found = list(_heads(condition, part, f"mass.{block}"))
            dots(axes, [layer for (layer, _), _ in found], [value for _, value in found], colour)
            even = {layer: numbers.uniform for layer, numbers in by_layer.items() if numbers.uniform is not None}
            axes.plot(list(even), list(even.values()), color=SOFT, linewidth=1, label="uniform attention")
    axes.set_title(_arrow(part, block), fontsize=9)
    axes.set_xticks(list(_by_layer(record.conditions[0], part, f"mass.{block}")))
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("layer")
    axes.grid(axis="y")


def _arrow(part: str, block: str) -> str:
    sequence = "target" if part == "cross" else "seq"
    source = "source" if part == "cross" else "seq"
    ends = {
        "process": "mem ← mem",
        "write": "mem ← seq",
        "read": f"{sequence} ← mem",
        "normal": f"{sequence} ← {source}",
    }
    return f"{block}\n{ends[block]}"


def _patterns(record: AttentionRecord) -> Grid:
    """The head that looks most like each pattern, in each block, beside what the controls' same head scores."""
    trained, *controls = record.conditions
    rows = []
    for block in SHOWN:
        for pattern in PATTERNS:
            best = _best(trained, f"{block}.{pattern}")
            if best:
                layer, head = best
                found = layer.statistics[f"{block}.{pattern}"]
                rows.append(
                    (
                        f"{block}: {pattern.replace('_', ' ')}",
                        f"{PARTS[layer.part]} {layer.layer}.{head + 1}",
                        f"{_score(found.value[head])} [{_score(found.low[head])}, {_score(found.high[head])}]",
                        *(_same(control, layer, head, f"{block}.{pattern}") for control in controls),
                    )
                )
    head_row = ("pattern", "head", "score, interval", *(control.name for control in controls))
    notes = (
        "The head (layer.head) with the highest score; 0 is what attention spread evenly over the block scores, 1 the "
        "pattern itself. (Under a causal mask early tokens give memory more, having less else to see: even attention "
        "then reads it in a horizontal strip.) The controls' columns: the same head. The highest of many is high by "
        "chance too: compare it with them.",
        "; ".join(f"{pattern.replace('_', ' ')}: {meaning}" for pattern, meaning in PATTERNS.items()).capitalize()
        + ".",
    )
    return Grid(
        f"patterns-{record.subject.run}",
        f"{name(record.subject)}: strongest patterns",
        head_row,
        tuple(rows),
        notes,
        (0, 1),
    )


def _best(condition: Condition, statistic: str) -> tuple[Layer, int] | None:
    """The layer and the head, from 0, with the highest value."""
    found = [
        (value, layer, head)
        for layer in condition.layers
        if statistic in layer.statistics
        for head, value in enumerate(layer.statistics[statistic].value)
    ]
    return max(found, key=lambda one: one[0])[1:] if found else None


def _same(condition: Condition, layer: Layer, head: int, statistic: str) -> str:
    """What the same head of another condition scores."""
    numbers = _by_layer(condition, layer.part, statistic).get(layer.layer)
    return MISSING if numbers is None else _score(numbers.value[head])


def _score(value: float) -> str:
    return mean_text(Summary(value, None, 1))
