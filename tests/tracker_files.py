"""What trackers have written, read by their own readers."""

import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from places import Place

from memtrans.records import Record
from memtrans.runs import Run
from memtrans.tracking import metrics
from memtrans.tracking.trackers import score_name


def line(part: str, update: int, **values: object) -> metrics.Line:
    """Of a run's log."""
    return {"time": 0.0, "part": part, "update": update, **values}


def untrained_run(folder: Path) -> Run:
    tracking = {"wandb": None, "tensorboard": False, "wandb_project": "p"}
    run = Run({"seed": 1}, "Row", data=folder, runs=folder, results=folder, tracking=tracking)
    run.write()
    return run


class WandbFolder:
    """One `offline-run-*` folder: what was said there of the run, by update, and its files."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        records: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
        kinds = [record["type"] for record in records]
        self.run: dict[str, Any] = records[kinds.index("run")]["run"]
        self.config: dict[str, Any] = self.run["config"]["update"]
        self.history = {
            record["history"]["item"]["_step"]: _flat_numbers(record["history"]["item"])
            for record in records
            if record["type"] == "history"
        }
        self.summary: dict[str, Any] = {}
        for record in records:
            if record["type"] == "summary":
                self.summary |= record["summary"].get("update", {})
        self.exit_code = records[-1]["exit"].get("exit_code", 0) if kinds[-1] == "exit" else None
        said = [file["path"] for record in records if record["type"] == "files" for file in record["files"]["files"]]
        self.files = {path: folder / "files" / path for path in said}

    def file(self, start: str) -> Path:
        """The only file whose path begins so."""
        (path,) = (path for name, path in self.files.items() if name.startswith(start))
        return path

    def pictures(self) -> dict[str, bytes]:
        """All pictures by the name under which they are shown."""
        paths = {re.match(r"media/images/(\w+)_\d+_[0-9a-f]+\.png", name): path for name, path in self.files.items()}
        return {found[1]: path.read_bytes() for found, path in paths.items() if found}


def _flat_numbers(item: dict[str, Any]) -> dict[str, float]:
    """What was logged; not the times at which it was."""
    return {key: value for key, value in item.items() if "/" in key}


def folders(run: Path) -> list[Path]:
    """The offline folders of a run, oldest first."""
    return sorted(run.glob("wandb/offline-run-*"), key=lambda folder: folder.stat().st_ctime)


def only_run(place: Place) -> Path:
    (run,) = (place.folder / "runs").iterdir()
    return run


def curves(lines: list[metrics.Line]) -> dict[int, dict[str, float]]:
    """What W&B should show of a log: numbers by update and name."""
    shown: dict[int, dict[str, float]] = {}
    for line in lines:
        if line["part"] != metrics.SCORE:
            named = {f"{line['part']}/{key}": value for key, value in metrics.numbers(line).items()}
            shown.setdefault(line["update"], {}).update(named)
    return shown


def check_wandb(place: Place, folder: Path) -> None:
    """An offline folder holds the run's config, all its numbers, the table of its scores, and its pictures."""
    run, (record,) = Run.read(only_run(place)), place.records().values()
    held, lines = WandbFolder(folder), metrics.read(run.metrics)
    assert (held.run["run_id"], held.run["display_name"]) == (run.hash, f"{record['label']}, seed {record['seed']}")
    assert held.run["run_group"] == record["setting"]
    assert {key: held.config[key] for key in record["config"]} == record["config"]
    assert {update: values for update, values in held.history.items() if values} == curves(lines)
    assert len(held.history) > 1
    for line in lines:
        if line["part"] == metrics.SCORE:
            assert held.summary[score_name(line)] == line["value"]
    table = json.loads(held.file("media/table/scores").read_text())
    assert table["columns"] == ["split", "metric", "value", "items", "evidence"]
    scores = Record.load(run.results / "records" / f"{run.hash}.json").scores
    assert table["data"] == [[score.split, score.metric, score.value, score.items, score.evidence] for score in scores]
    assert held.pictures() == drawn(run.folder)
    assert held.exit_code == 0


def drawn(run: Path) -> dict[str, bytes]:
    """The pictures of a run by name, of which each shows something."""
    paths = list(run.glob("pictures/*"))
    for path in paths:
        with Image.open(path) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 10, path
    return {path.stem: path.read_bytes() for path in paths}


def check_tensorboard(run: Path, lines: list[metrics.Line]) -> None:
    """TensorBoard's own reader finds every number of the log, with its time."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for part in {line["part"] for line in lines} - {metrics.SCORE}:
        events = EventAccumulator(str(run / "tensorboard" / part), size_guidance={"scalars": 0}).Reload()
        losses = [(event.step, round(event.value, 3), round(event.wall_time, 3)) for event in events.Scalars("loss")]
        assert losses == [(line["update"], line["loss"], line["time"]) for line in lines if line["part"] == part]
    pictures = EventAccumulator(str(run / "tensorboard" / "pictures"), size_guidance={"images": 0}).Reload()
    shown = {name: pictures.Images(name) for name in pictures.Tags()["images"]}
    assert {name: [image.encoded_image_string for image in images] for name, images in shown.items()} == {
        name: [content] for name, content in drawn(run).items()
    }
    for (image,) in shown.values():
        assert image.step == lines[-1]["update"]
        with Image.open(io.BytesIO(image.encoded_image_string)) as picture:
            assert picture.size == (image.width, image.height)
    scores = EventAccumulator(str(run / "tensorboard" / metrics.SCORE)).Reload()
    for line in lines:
        if line["part"] == metrics.SCORE:
            (event,) = scores.Scalars(score_name(line))
            assert math.isclose(event.value, line["value"], rel_tol=1e-6)
