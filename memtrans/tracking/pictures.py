"""Pictures of a run for trackers, drawn into `runs/<hash>/pictures/` from its log and from the attention maps kept."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memtrans.analysis.attention_record import Maps
from memtrans.runs import Run
from memtrans.tracking import attention_pictures
from memtrans.tracking.metrics import Line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT, DPI = 6.0, 4.0, 150  # inches, inches, dots per inch


def draw(run: Run, lines: list[Line]) -> dict[str, Path]:
    """All pictures of a run by name, as PNG files. What cannot be drawn is left out, with one line that says so."""
    kinds: dict[str, Callable[[], dict[str, Any]]] = {
        "learning curve": lambda: {"learning_curve": learning_curve(run, lines)},
        "attention": lambda: attention(run),
    }
    drawn: dict[str, Path] = {}
    for kind, make in kinds.items():
        try:
            drawn |= _saved(make, run.folder / "pictures")
        except Exception as error:  # whatever it is, the rest is worth more
            reason = " ".join(str(error).split()) or type(error).__name__
            print(f"no pictures of the {kind}: {reason}", flush=True)
    return drawn


def _saved(make: "Callable[[], dict[str, Figure]]", folder: Path) -> dict[str, Path]:
    import matplotlib

    folder.mkdir(exist_ok=True)
    paths = {}
    with matplotlib.rc_context({"text.parse_math": False}):  # words of a corpus and names of rows are no formulas
        for name, figure in make().items():
            paths[name] = folder / f"{name}.png"
            figure.savefig(paths[name], dpi=DPI)
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
    if axes.lines:
        axes.legend(frameon=False)
    return figure


def attention(run: Run) -> "dict[str, Figure]":
    """Where attention of the trained model goes in some validation sentences; nothing if no maps were kept."""
    return attention_pictures.figures(Maps.load(run.attention), run.name) if run.attention.exists() else {}
