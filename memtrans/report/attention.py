"""Where attention goes, from `results/attention/*.json`: block masses by layer, the strongest patterns, whole maps."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memtrans.analysis.attention_record import (
    BLOCKS,
    CONDITIONS,
    FOLDER,
    PARTS,
    PATTERNS,
    AttentionRecord,
    Condition,
    Head,
)
from memtrans.analysis.subject import Subject
from memtrans.report.figures import SERIES, SOFT, Drawing, draw
from memtrans.report.grids import Grid
from memtrans.tables.cells import MISSING

SHOWN = ("process", "write", "read", "normal")  # blocks with a panel of their own
LOOKS = {"trained": "-", "untrained": ":", "shuffled": "--", "baseline": "-."}  # lines, so that none needs its colour
ROOM = 100_000  # characters of maps in the page: what is more stays in the records


@dataclass(frozen=True)
class AttentionSection:
    """What the page shows: drawings and tables of every record, and the maps that its picker chooses from."""

    drawings: tuple[Drawing, ...] = ()
    grids: tuple[Grid, ...] = ()
    maps: tuple[dict[str, Any], ...] = ()
    sources: tuple[str, ...] = field(default=())  # the evidence, a line each

    @classmethod
    def gather(cls, results: Path) -> "AttentionSection":
        """Read all records of a folder of results; empty without any. Raises UserError for a broken one."""
        records = [AttentionRecord.load(path) for path in sorted((results / FOLDER).glob("*.json"))]
        return cls(
            drawings=tuple(_masses(record, part) for record in records for part in _parts(record)),
            grids=tuple(_patterns(record) for record in records),
            maps=tuple(_within(ROOM // max(1, len(records)), record) for record in records),
            sources=tuple(map(_source, records)),
        )


def name(subject: Subject) -> str:
    return f"{subject.label}, seed {subject.seed}, {subject.corpus.name}"


def _source(record: AttentionRecord) -> str:
    subject = record.subject
    return (
        f"{describe_subject(subject)}; intervals of {record.confidence:.0%}, {record.resamples:,} bootstrap resamples."
    )


def describe_subject(subject: Subject) -> str:
    """The evidence of an analysis in words: which run, which text, which code."""
    return (
        f"{name(subject)}: {subject.sentences:,} {subject.unit}s of {subject.split}, {subject.drawn}; run "
        f"`{subject.run}`, checkpoint {subject.checkpoint} (sha256 `{subject.checkpoint_sha256}`), commit "
        f"`{subject.commit}`"
    )


def _parts(record: AttentionRecord) -> list[str]:
    return list(dict.fromkeys(head.part for head in record.conditions[0].heads))


def _by_layer(condition: Condition, part: str, statistic: str) -> dict[int, list[Any]]:
    """The intervals of a statistic by layer, of the heads that have it."""
    found: dict[int, list[Any]] = {}
    for head in condition.heads:
        if head.part == part and statistic in head.statistics:
            found.setdefault(head.layer, []).append(head.statistics[statistic])
    return found


def _masses(record: AttentionRecord, part: str) -> Drawing:
    """A panel for each block: its mass by layer, mean over heads, of the model and of every control."""
    blocks = [block for block in SHOWN if _by_layer(record.conditions[0], part, f"mass.{block}")]
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

    caption = (
        "Share of attention that goes where the block says, by layer; mean over heads, dots: single heads. "
        + " ".join(
            f"{condition.name.capitalize()}: {CONDITIONS[condition.name]}." for condition in record.conditions[1:]
        )
    )
    data: dict[str, Any] = {
        condition.name: {
            block: {
                str(layer): [[i.value, i.low, i.high] for i in intervals]
                for layer, intervals in _by_layer(condition, part, f"mass.{block}").items()
            }
            for block in blocks
        }
        for condition in record.conditions
    }
    width = 1.2 + 1.55 * len(blocks)
    return Drawing(anchor, title, caption, draw(anchor, (width, 2.5), paint, title), data)


def _panel(axes: Axes, record: AttentionRecord, part: str, block: str) -> None:
    for condition, colour in zip(record.conditions, SERIES, strict=False):
        by_layer = _by_layer(condition, part, f"mass.{block}")
        means = [fmean(i.value for i in intervals) for intervals in by_layer.values()]
        look: Any = {"linestyle": LOOKS[condition.name], "linewidth": 2 if condition.name == "trained" else 1.3}
        axes.plot(list(by_layer), means, color=colour, label=condition.name, **look)
        if condition.name == "trained":
            dots = [(layer, i.value) for layer, intervals in by_layer.items() for i in intervals]
            axes.plot(*zip(*dots, strict=True), ".", color=colour, markersize=4)
            even = [fmean(i.uniform for i in intervals if i.uniform is not None) for intervals in by_layer.values()]
            axes.plot(list(by_layer), even, color=SOFT, linewidth=1, label="uniform attention")
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
        for pattern, meaning in PATTERNS.items():
            statistic = f"{block}.{pattern}"
            heads = [head for head in trained.heads if statistic in head.statistics]
            if heads:
                best = max(heads, key=lambda head: head.statistics[statistic].value)
                found = best.statistics[statistic]
                rows.append(
                    (
                        f"{block}: {pattern.replace('_', ' ')}",
                        meaning,
                        f"{PARTS[best.part]} {best.layer}.{best.head}",
                        f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]",
                        *(_score(_same(control, best), statistic) for control in controls),
                    )
                )
    head = ("pattern", "what it is", "head", "score, interval", *(control.name for control in controls))
    notes = (
        "The head (layer.head) with the highest score; 0 is what uniform attention scores, 1 the pattern itself. The "
        "controls' columns: the same head. The highest of many is high by chance too: compare it with them.",
    )
    return Grid(
        f"patterns-{record.subject.run}",
        f"{name(record.subject)}: strongest patterns",
        head,
        tuple(rows),
        notes,
        (0, 1, 2),
    )


def _same(condition: Condition, head: Head) -> Head | None:
    place = (head.part, head.layer, head.head)
    return next((other for other in condition.heads if (other.part, other.layer, other.head) == place), None)


def _score(head: Head | None, statistic: str) -> str:
    return f"{head.statistics[statistic].value:.2f}" if head and statistic in head.statistics else MISSING


def _within(room: int, record: AttentionRecord) -> dict[str, Any]:
    """The example maps of a record as the page's script reads them, as many as there is room for, at least one."""
    examples: list[dict[str, Any]] = []
    for example in _examples(record):
        size = sum(len(str(weight)) + 1 for weight in _flat(example["weights"]))
        if examples and size > room:
            break
        room -= size
        examples.append(example)
    return {"label": name(record.subject), "examples": examples, "left": len(record.examples) - len(examples)}


def _examples(record: AttentionRecord) -> Iterator[dict[str, Any]]:
    for example in record.examples:
        yield {
            "part": PARTS[example.part],
            "sentence": example.sentence,
            "unit": record.subject.unit,
            "rows": example.rows,
            "rowKinds": example.row_kinds,
            "columns": example.columns,
            "columnKinds": example.column_kinds,
            "weights": [  # thousandths: layers x heads x (rows, columns)
                [[round(1000 * weight) for row in head for weight in row] for head in layer]
                for layer in example.weights
            ],
            "masses": _head_masses(record.conditions[0], example.part),
        }


def _head_masses(condition: Condition, part: str) -> dict[str, dict[str, list[float | None]]]:
    """By "layer.head": each block's mass and what uniform attention would have."""
    return {
        f"{head.layer}.{head.head}": {
            block: [round(i.value, 3), None if i.uniform is None else round(i.uniform, 3)]
            for block in BLOCKS
            if (i := head.statistics.get(f"mass.{block}"))
        }
        for head in condition.heads
        if head.part == part
    }


def _flat(weights: Sequence[Sequence[Iterable[int]]]) -> Iterator[int]:
    return (weight for layer in weights for head in layer for weight in head)
