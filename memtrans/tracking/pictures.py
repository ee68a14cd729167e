"""Pictures of a run, drawn from its log into `runs/<hash>/pictures/`; trackers show what `draw` returns."""

from pathlib import Path
from typing import TYPE_CHECKING

from memtrans.runs import Run
from memtrans.tracking.metrics import Line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT, DPI = 6.0, 4.0, 150  # inches, inches, dots per inch


def draw(run: Run, lines: list[Line]) -> dict[str, Path]:
    """All pictures of a run by name, as PNG files. A further kind, such as attention maps, is one more entry here."""
    figures = {"learning_curve": learning_curve(run, lines)}
    folder = run.folder / "pictures"
    folder.mkdir(exist_ok=True)
    paths = {name: folder / f"{name}.png" for name in figures}
    for name, path in paths.items():
        figures[name].savefig(path, dpi=DPI)
    return paths


def learning_curve(run: Run, lines: list[Line]) -> "Figure":
    """Loss, in bits per token as fairseq logs it, over updates: while training, and on the validation sets."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.add_subplot(title=run.name, xlabel="updates", ylabel="loss, bits per token")
    for part in dict.fromkeys(line["part"] for line in lines if "loss" in line and line["part"] != "train"):
        points = [(line["update"], line["loss"]) for line in lines if line["part"] == part and "loss" in line]
        label = "training" if part == "train_inner" else part
        axes.plot(*zip(*points, strict=True), label=label, marker="" if part == "train_inner" else "o", markersize=3)
    if lines:
        axes.legend(frameon=False)
    return figure
