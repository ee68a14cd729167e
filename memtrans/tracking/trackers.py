"""W&B and TensorBoard, each fed line by line from a run's log. Both are imported only when switched on."""

import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from memtrans.runs import Run
from memtrans.tracking.metrics import SCORE, Line, numbers


class Tracker(Protocol):
    """What the log is told to. Any of it may raise anything."""

    name: str

    def log(self, line: Line) -> None:
        """The next line; updates never go back."""

    def finish(self, lines: list[Line], shown: Mapping[str, Path], well: bool) -> None:
        """The end, with the whole log and pictures by name; `well` if the run has done what it was to do."""


class WandB:
    """A run at W&B under the run's hash: continued there, however often the training is.

    The step is the update. Lines before the step that W&B already has (online, of a continued run) are left out; an
    offline folder begins with nothing, so the newest one holds the whole run.
    """

    name = "W&B"

    def __init__(self, run: Run, mode: str) -> None:
        # files of tables wait here for `wandb sync`, not in a home folder
        os.environ.setdefault("WANDB_DATA_DIR", str(run.folder.absolute() / "wandb"))
        import wandb

        self.run: Any = wandb.init(
            project=run.tracking["wandb_project"],
            id=run.hash,
            name=run.name,
            group=run.setting,  # seeds of the same setting
            dir=run.folder,
            mode=mode,  # type: ignore[arg-type]
            config=run.identity | {"label": run.label},
            resume="allow",
            allow_val_change=True,
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, line: Line) -> None:
        if line["part"] == SCORE:
            self.run.summary[score_name(line)] = line["value"]
        elif line["update"] >= self.run.step:
            self.run.log({f"{line['part']}/{key}": value for key, value in numbers(line).items()}, step=line["update"])

    def finish(self, lines: list[Line], shown: Mapping[str, Path], well: bool) -> None:
        import wandb

        columns: list[str | int] = ["split", "metric", "value", "items", "evidence"]
        rows = [[line[str(column)] for column in columns] for line in lines if line["part"] == SCORE]
        media: dict[str, Any] = {"scores": wandb.Table(columns=columns, data=rows)} if rows else {}
        self.run.log(media | {name: wandb.Image(str(path)) for name, path in shown.items()})
        self.run.finish(exit_code=0 if well else 1)


class TensorBoard:
    """Event files in the run's folder, one writer per part of the log, with the times at which things happened.

    They begin anew with every attempt: TensorBoard forgets what earlier files say from the first update on.
    """

    name = "TensorBoard"

    def __init__(self, run: Run) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2

        self.events, self.summaries = event_pb2, summary_pb2
        self.folder: Path = run.folder / "tensorboard"
        self.writers: dict[str, Any] = {}

    def log(self, line: Line) -> None:
        values = {score_name(line): line["value"]} if line["part"] == SCORE else numbers(line)
        summary = [self.summaries.Summary.Value(tag=key, simple_value=value) for key, value in values.items()]
        self._add(line["part"], line, summary)

    def _add(self, part: str, line: Line, summary: list[Any]) -> None:
        """Write what is said of a part, with the update and the time of a line."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        when = {"wall_time": line["time"], "step": line["update"]}
        if part not in self.writers:
            self.writers[part] = EventFileWriter(str(self.folder / part))
            anew = self.events.SessionLog(status=self.events.SessionLog.START)
            self.writers[part].add_event(self.events.Event(**when, session_log=anew))
        self.writers[part].add_event(self.events.Event(**when, summary=self.summaries.Summary(value=summary)))
        self.writers[part].flush()

    def finish(self, lines: list[Line], shown: Mapping[str, Path], well: bool) -> None:
        if shown and lines:
            self._add("pictures", lines[-1], [self._image(name, path) for name, path in shown.items()])
        for writer in self.writers.values():
            writer.close()

    def _image(self, name: str, path: Path) -> Any:
        content = path.read_bytes()
        width, height = struct.unpack(">II", content[16:24])  # where every PNG has them
        image = self.summaries.Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=content)
        return self.summaries.Summary.Value(tag=name, image=image)


def score_name(line: Line) -> str:
    """`test/bleu`; perplexities on a split differ in how it was read: `test/perplexity/segment`.

    Their evidence begins "per word; segment: ...".
    """
    _, _, context = line["evidence"].partition("; ")
    way = [context.partition(":")[0]] if line["metric"] == "perplexity" else []
    return "/".join([line["split"], line["metric"], *way])


def chosen(run: Run, wandb: str | None, tensorboard: bool) -> dict[str, Callable[[], Tracker]]:
    """How to begin each tracker that is switched on, by its name."""
    made: dict[str, Callable[[], Tracker]] = {}
    if wandb:
        made[WandB.name] = lambda: WandB(run, wandb)
    if tensorboard:
        made[TensorBoard.name] = lambda: TensorBoard(run)
    return made
