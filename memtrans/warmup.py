"""A short warm-up: train a run's very model on made-up batches, through fairseq itself, to see how fast it is here.

`python -m memtrans.warmup` is the process that trains; it reads a JSON list of [fairseq's arguments, made-up corpus or
null], one a model. The batches are full ones of random words, with the corpus' vocabulary.
"""

import gc
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean

from memtrans.errors import UserError
from memtrans.files import write_json
from memtrans.launch import count_gpus
from memtrans.progress import say
from memtrans.runlog import last_error
from memtrans.runs import Run, train_arguments

UPDATES = 40  # of a warm-up on a GPU; the first quarter, in which everything is set up, does not count
CPU_UPDATES, CPU_TOKENS = 6, 256  # on a CPU an update of a large model takes seconds
LIMIT = 30  # seconds of training after which a warm-up ends with the updates that it has
NOT_WORDS = ("<s>", "<pad>")  # entries of a dictionary that a stream of text does not hold
START = "memtrans: next model"
Model = tuple[list[str], dict[str, int] | None]  # fairseq's arguments, and a stream to make up: vocabulary and tokens


@dataclass
class Place:
    """Where runs train: a device and how it is divided among them."""

    device: str  # the GPU's name, or the processors
    gpus: int  # 0: on the CPU
    side_by_side: int = 1  # runs on each GPU at once
    threads: int = 1  # of each run
    gpus_per_run: int = 1  # which divide its batches among them

    @property
    def share(self) -> float:
        """How many GPUs a run has, or what part of one."""
        return self.gpus_per_run / self.side_by_side


def find_device() -> Place:
    """This machine's GPUs, or its processors if torch sees none."""
    if gpus := count_gpus():
        import torch

        return Place(torch.cuda.get_device_name(0), gpus)
    return Place(f"{len(os.sched_getaffinity(0))} CPU cores of {platform.node()}", 0)


def rates(models: Sequence[tuple[Run, int]], place: Place) -> list[float]:
    """Target tokens per second of each model, a run and the size of its vocabulary: of one run, while as many of its
    kind train on the same GPU as will in the sweep.

    Remembered in the runs' folder, by all that decides them. Raises UserError if a model cannot train.
    """
    kept = [run.runs / "warmups" / f"{_key(run, vocabulary, place)}.json" for run, vocabulary in models]
    new = [(model, path) for model, path in zip(models, kept, strict=True) if not path.exists()]
    if new:
        say(f"timing {len(new)} model{'s' if len(new) > 1 else ''} on {place.device}, each for some seconds")
        measured = _measure([_arguments(run, vocabulary, place) for (run, vocabulary), _ in new], place)
        for ((run, _), path), rate in zip(new, measured, strict=True):
            write_json(path, {"tokens_per_second": rate, "label": run.label, "place": asdict(place)})
    return [json.loads(path.read_text())["tokens_per_second"] for path in kept]


def _key(run: Run, vocabulary: int, place: Place) -> str:
    decisive = [{key: run.identity[key] for key in ("arch", "model", "train")}, vocabulary, asdict(place)]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def _arguments(run: Run, vocabulary: int, place: Place) -> Model:
    """The run's own arguments but for the data and how long it trains, of two values argparse takes the last; and the
    corpus to make up, if the task makes none up itself."""
    train = run.identity["train"] | {"update_freq": 1, "max_epoch": None, "max_update": UPDATES}
    if not place.gpus:
        train = train | run.job.small_batches(train, CPU_TOKENS) | {"precision": "fp32", "max_update": CPU_UPDATES}
    # to compile would take longer than all the rest
    train = train | {"compile": False, "cuda_graphs": False}
    model = run.identity["model"] | ({"compile_layers": False} if run.identity["model"].get("compile_layers") else {})
    identity = run.identity | {"train": train, "model": model}
    arguments = train_arguments(replace(run, identity=identity, tracking={"tensorboard": False, "wandb": None}))
    task, corpus = run.job.made_up(train, vocabulary)
    arguments = [*arguments[arguments.index("--arch") :], *task, "--no-save", "--disable-validation"]
    # the working directory is a temporary one: no checkpoint of the run is read or written
    return [*arguments, "--save-dir", ".", "--log-interval", "1", "--stop-time-hours", str(LIMIT / 3600)], corpus


def _measure(models: Sequence[Model], place: Place) -> list[float]:
    """Train the models one after another, in as many processes as runs share a GPU; the mean rate of each model."""
    environment = os.environ | {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(place.threads)),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]),
        "PYTHONUNBUFFERED": "1",
    }
    if place.gpus:  # one of them, else fairseq trains on all
        environment["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder) / "models.json"
        write_json(task, models)
        logs = [Path(folder) / f"{i}.txt" for i in range(place.side_by_side)]
        processes = [_start(task, log, environment) for log in logs]
        try:
            failed = [log for process, log in zip(processes, logs, strict=True) if process.wait()]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if failed:
            raise UserError(f"a warm-up of the models failed, as their training would: {last_error(failed[0])}")
        copies = [[_rate(part) for part in log.read_text().split(START)[1:]] for log in logs]
    return [mean(copy) for copy in zip(*copies, strict=True)]


def _start(task: Path, log: Path, environment: dict[str, str]) -> subprocess.Popen:
    with task.open("rb") as models, log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "memtrans.warmup"],
            stdin=models,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=task.parent,
            env=environment,
        )


def _rate(log: str) -> float:
    """Tokens per second of one model's log, which has a line for each update; the first quarter does not count."""
    found = (line.partition(" | train_inner | ")[2] for line in log.splitlines())
    updates = [json.loads(text) for text in found if text.startswith("{")]
    if not updates:
        raise UserError(f"a warm-up made no update in {LIMIT} s; is the device busy? Run it again, or without a plan")
    counted = [update for update in updates[len(updates) // 4 :] if float(update["wps"])]
    if not counted:  # one update alone has no rate yet, but a time
        return float(updates[0]["wpb"]) / max(float(updates[0]["train_wall"]), 1.0)
    seconds = [float(update["wpb"]) / float(update["wps"]) for update in counted]
    return sum(float(update["wpb"]) for update in counted) / sum(seconds)


def write_stream(folder: Path, vocabulary: int, tokens: int) -> str:
    """Write a binarised corpus of random words, in fairseq's format, and return its folder's name."""
    import numpy
    import torch
    from fairseq.data import Dictionary, indexed_dataset

    folder.mkdir(exist_ok=True)
    dictionary = Dictionary()
    for word in range(vocabulary + len(NOT_WORDS) - len(dictionary)):
        dictionary.add_symbol(str(word))
    dictionary.save(str(folder / "dict.txt"))
    words = numpy.random.default_rng(0).integers(dictionary.nspecial, len(dictionary), tokens)
    for split in ("train", "valid"):
        builder = indexed_dataset.make_builder(f"{folder / split}.bin", impl="mmap", vocab_size=len(dictionary))
        builder.add_item(torch.from_numpy(words))
        builder.finalize(f"{folder / split}.idx")
    return str(folder)


def main() -> None:
    import memtrans_fairseq.cli

    for arguments, corpus in json.load(sys.stdin):
        data = [write_stream(Path(f"corpus-{os.getpid()}"), **corpus)] if corpus else []
        print(START, flush=True)
        memtrans_fairseq.cli.main(["train", *data, *arguments])
        gc.collect()  # the last model's memory is for the next


if __name__ == "__main__":
    main()
