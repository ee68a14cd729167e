"""Drawings of attention maps: each layer's, mean over its heads, with the words; and every head's as small multiples.

Where there is memory, blocks are outlined: memory that processes itself and writes, the sequence that reads memory and
attends to itself as usual. A block in which nothing is ever seen has no outline.

Shape legend: D x A maps in a picture, down and across; R rows and C columns of a map.
"""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memtrans.analysis.attention_record import LETTERS, PARTS, Example, Maps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# inches, if not said otherwise
TITLE, MARGIN, GAP = 0.5, 0.12, 0.12  # height above the maps; around all; between maps
SCALE, LEAST_WIDTH, ENTRY = 0.75, 5.6, 2.4  # width right of the maps; of a picture; of a legend's entry
LETTER, LONGEST = 0.058, 14  # width of a letter; letters of a word that are shown
POINT = 1 / 72
PALE = 0.25  # a weight that is black at the earliest: even attention looks even
# outlines, and what attends to what
BLOCKS = {
    "process": ("#803090", "memory ← memory"),
    "write": ("#208050", "memory ← {columns}"),
    "write cached": ("#80c000", "memory ← cached words"),
    "read": ("#d04000", "{rows} ← memory"),
    "read carried": ("#e0a000", "{rows} ← carried memory"),
    "normal": ("#1060a0", "{rows} ← {columns}"),
    "cached": ("#40b0e0", "{rows} ← cached words"),
}


class Look(NamedTuple):
    """How large the maps of a picture are."""

    cell: float  # side of a weight
    line: float  # width of outlines, in points
    left: float  # left of the maps
    top: float  # above them
    below: float  # below each


class Block(NamedTuple):
    name: str
    rows: tuple[int, int]  # from which to which, the latter not included
    columns: tuple[int, int]


def figures(maps: Maps, run: str) -> "dict[str, Figure]":
    """Pictures by name: the layers of each part of each sentence, and all heads of the first sentence's."""
    drawn: dict[str, Figure] = {}
    numbers = list(dict.fromkeys(example.sentence for example in maps.examples))
    for example in maps.examples:
        number = numbers.index(example.sentence)
        where = f"{run}: {PARTS[example.part]}, {maps.unit} {example.sentence} of {maps.split}"
        drawn[f"attention_{example.part}_{number + 1}"] = layers(example, where)
        if number == 0:
            drawn[f"attention_{example.part}_heads"] = heads(example, where)
    return drawn


def layers(example: Example, where: str) -> "Figure":
    """Each layer's mean over heads, with the words."""
    means = _weights(example).mean(axis=1)
    across = math.ceil(math.sqrt(len(means)))
    grid = [list(means[start : start + across]) for start in range(0, len(means), across)]
    left, top = (LETTER * max(map(len, _short(names))) for names in (example.rows, example.columns))
    title = f"{where}\nattention, mean over heads" + (", the last words" if _is_cut(means) else "")
    figure, panels = _picture(example, grid, Look(0.13, 1.4, left, top, 0.2), title)
    for number, axes in enumerate(panels.flat[: len(means)]):
        axes.set_xlabel(f"layer {number + 1}", fontsize=8, labelpad=2)
        if number < across:
            axes.set_xticks(range(len(example.columns)), _short(example.columns), rotation=90, fontsize=6.5)
        if number % across == 0:
            axes.set_yticks(range(len(example.rows)), _short(example.rows), fontsize=6.5)
    return figure


def heads(example: Example, where: str) -> "Figure":
    """All heads, a row for each layer."""
    grid = [list(layer) for layer in _weights(example)]
    figure, panels = _picture(example, grid, Look(0.03, 0.8, 0.2, 0.2, 0), f"{where}\nattention of every head")
    for number, axes in enumerate(panels[0], 1):
        axes.set_title(f"head {number}", fontsize=7, pad=3)
    for number, axes in enumerate(panels[:, 0], 1):
        axes.set_ylabel(f"layer {number}", fontsize=7, labelpad=2)
    return figure


def _weights(example: Example) -> np.ndarray:
    """The maps as numbers: layers x heads x R x C."""
    values = np.array([[[LETTERS.index(letter) for letter in head] for head in layer] for layer in example.weights])
    return (values / 63).reshape(*values.shape[:2], len(example.rows), len(example.columns)) ** 2


def _picture(
    example: Example, grid: Sequence[Sequence[np.ndarray]], look: Look, title: str
) -> "tuple[Figure, np.ndarray]":
    """The maps of a grid, D x A x R x C (the last row may be shorter), and their axes, D x A."""
    from matplotlib.figure import Figure

    blocks = _blocks(example)
    down, across = len(grid), len(grid[0])
    column, row = (look.cell * len(names) for names in (example.columns, example.rows))
    left, maps_width = MARGIN + look.left, across * column + (across - 1) * GAP
    width = max(left + maps_width + SCALE, LEAST_WIDTH)
    maps_height = down * row + (down - 1) * (GAP + look.below)
    entries = max(1, int(width / ENTRY))  # of a line of the legend
    bottom = MARGIN + look.below + 0.2 * math.ceil(len({block.name for block in blocks}) / entries)
    height = TITLE + look.top + maps_height + bottom
    figure = Figure(figsize=(width, height))
    panels = figure.subplots(
        down,
        across,
        squeeze=False,
        gridspec_kw={
            "left": left / width,
            "right": (left + maps_width) / width,
            "top": (bottom + maps_height) / height,
            "bottom": bottom / height,
            "wspace": GAP / column,
            "hspace": (GAP + look.below) / row,
        },
    )
    figure.text(MARGIN / width, 1 - MARGIN / height, title, fontsize=9, va="top")
    most = max(PALE, *(float(weights.max()) for maps in grid for weights in maps))
    for axes in panels.flat:
        axes.set_axis_off()
    for of_row, maps in zip(panels, grid, strict=True):
        for axes, weights in zip(of_row, maps, strict=False):
            image = _paint(axes, weights, most, blocks, look)
    bar_height = min(1.5, maps_height)
    bar = (left + maps_width + MARGIN, bottom + maps_height - bar_height, 0.1, bar_height)
    scale = figure.add_axes((bar[0] / width, bar[1] / height, bar[2] / width, bar[3] / height))
    figure.colorbar(image, cax=scale, ticks=[most * part for part in (0, 1 / 16, 1 / 4, 1)], format="{x:.3f}")
    scale.tick_params(labelsize=6.5, length=2)
    _legend(figure, example, blocks, entries)
    return figure, panels


def _paint(axes: "Axes", weights: np.ndarray, most: float, blocks: Sequence[Block], look: Look) -> Any:
    from matplotlib.colors import PowerNorm
    from matplotlib.patches import Rectangle

    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])
    axes.tick_params(length=0, pad=2, labeltop=True, labelbottom=False)
    axes.spines[:].set_color("#d0d0d0")
    inset = look.line * POINT / look.cell / 2  # so that outlines of neighbours stand side by side
    for name, (top, bottom), (left, right) in blocks:
        corner = (left - 0.5 + inset, top - 0.5 + inset)
        size = (right - left - 2 * inset, bottom - top - 2 * inset)
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=BLOCKS[name][0], linewidth=look.line))
    norm = PowerNorm(0.5, 0, most)  # the root shows what is small, too
    return axes.imshow(weights, cmap="Greys", norm=norm, aspect="auto", interpolation="nearest")


def _legend(figure: "Figure", example: Example, blocks: Sequence[Block], entries: int) -> None:
    from matplotlib.patches import Patch

    rows, columns = ("target", "source") if example.part == "cross" else ("sequence", "sequence")
    shown = {block.name for block in blocks}
    handles = [
        Patch(fill=False, edgecolor=colour, linewidth=1.4, label=f"{name}: {what.format(rows=rows, columns=columns)}")
        for name, (colour, what) in BLOCKS.items()
        if name in shown
    ]
    if handles:
        look: dict[str, Any] = {"frameon": False, "fontsize": 7, "handlelength": 1.2, "columnspacing": 1.2}
        figure.legend(handles=handles, loc="lower left", ncols=entries, **look)


def _blocks(example: Example) -> list[Block]:
    """Where each block lies in a map, if some layer's head sees anything in it; none where there is no memory."""
    if {"memory", "carried"}.isdisjoint(example.column_kinds):
        return []
    seen = _weights(example).max(axis=(0, 1))
    found = [
        Block(_name(row in ("memory", "carried"), column), down, across)
        for row, down in _runs(example.row_kinds)
        for column, across in _runs(example.column_kinds)
    ]
    return [block for block in found if seen[slice(*block.rows), slice(*block.columns)].any()]


def _runs(kinds: Sequence[str]) -> list[tuple[str, tuple[int, int]]]:
    """Neighbours of the same kind: the kind, from which to which."""
    found, start = [], 0
    for kind, group in groupby(kinds):
        found.append((kind, (start, start := start + len(list(group)))))
    return found


def _name(of_memory: bool, column: str) -> str:
    if of_memory:
        return {"sequence": "write", "cached": "write cached"}.get(column, "process")
    return {"memory": "read", "carried": "read carried", "cached": "cached"}.get(column, "normal")


def _is_cut(means: np.ndarray) -> bool:
    """Whether weight is left out, with the words that are not shown. (What is kept is rounded.)"""
    return bool((means.sum(axis=-1) < 0.9).any())


def _short(names: Sequence[str]) -> list[str]:
    return [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in names]
