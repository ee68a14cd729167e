"""One run from start to record, in a process of its own: `python -m memtrans.worker runs/<hash> [train|evaluate]`.

fairseq keeps state in globals, so every run gets a fresh process. Killed at any moment, the same call continues:
fairseq from its last checkpoint, the evaluation split by split. The record is written last, after the learning curve.

The exit status is 0 when done; 75 when a scheduler's signal asked to stop (see `stops`): everything is saved and the
same call continues; anything else is a failure, which says so in one line, `error: ...`. A run with several `gpus`
starts as many processes on this host, unless torchrun or a cluster has (see `ranks`).
"""

import errno
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memtrans.curves import keep_curve
from memtrans.errors import UserError, main_guard
from memtrans.files import write_json, write_text
from memtrans.locks import held, locked
from memtrans.ranks import Ranks, read_ranks, start
from memtrans.records import COMMIT, SCHEMA, Corpus, Hardware, Record, Score
from memtrans.runs import Run
from memtrans.stops import Stops
from memtrans.tracking import tracked
from memtrans.training import LostRank, join, ready, train

if TYPE_CHECKING:
    from memtrans.analysis.run import Opened

HALVES = ("train", "evaluate")
CODE = ("memtrans", "memtrans_fairseq", "scripts", "configs", "pyproject.toml")  # what a result depends on
PACKAGES = ("torch", "fairseq", "numpy", "sacrebleu", "sentencepiece", "hydra-core", "omegaconf", "memtrans")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@main_guard
def main() -> None:
    stops, ranks = Stops(), read_ranks(os.environ)
    stops.watch()
    try:
        work(*_arguments(sys.argv[1:]), ranks, stops)
    except UserError as error:
        if ranks.rank or (isinstance(error, LostRank) and ranks.watched):
            sys.exit(str(error))  # it is for the first rank, or whoever watches, to say what failed
        raise
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = error.filename or f"in {sys.argv[1]}"
        raise UserError(
            f"cannot write {where}: {error.strerror}; make room, then the same command continues"
        ) from error
    finally:
        stops.ignore()


def work(run: Run, halves: Sequence[str], ranks: Ranks, stops: Stops) -> None:
    if "train" in halves and run.gpus > 1 and not ranks.several:
        sys.exit(start(run.gpus, [sys.executable, "-m", "memtrans.worker", str(run.folder), *sys.argv[2:]]))
    if ranks.rank:
        if "train" in halves and join(ranks):
            train(run, ranks, stops)
        return
    lock = run.folder / "lock"
    if ranks.several and held(lock):  # the other ranks would not wait as long
        raise UserError(f"another process is at work on {run.name}; when it has ended, the same command goes on")
    with locked(lock, run.name):
        if run.record() is not None:  # another process has just finished it
            if "train" in halves:
                join(ranks)
            return
        with tracked(run) as metrics:
            _note_commit(run)
            if "train" in halves and join(ranks, ready(run)):
                _note_hardware(run, ranks.count)
                train(run, ranks, stops)
            if "evaluate" in halves:
                opened = _open(run)
                record = evaluate(opened)
                metrics.scores(record)
                keep_curve(run)
                if run.tracked:
                    from memtrans.analysis.examples import keep_maps

                    keep_maps(opened)
                record.save(run.results / "records")  # last: a run with a record is done


def _arguments(arguments: Sequence[str]) -> tuple[Run, tuple[str, ...]]:
    match arguments:
        case [folder]:
            return Run.read(Path(folder)), HALVES
        case [folder, half] if half in HALVES:
            return Run.read(Path(folder)), (half,)
    raise UserError(f"{' '.join(arguments) or 'no arguments'}: expected runs/<hash> [{'|'.join(HALVES)}]")


def _open(run: Run) -> "Opened":
    """The trained run's model. Raises UserError if it is not trained."""
    if not (run.folder / "trained").exists():
        raise UserError(f"{run.name} is not trained yet: python -m memtrans.worker {run.folder} train")
    from memtrans.analysis.run import open_run

    return open_run(run.folder, in_half=True)


def evaluate(opened: "Opened") -> Record:
    """Score what the protocol names; the record of the run."""
    run, protocol = opened.run, opened.run.identity["protocol"]
    scores: list[Score] = []
    for split in [protocol["split"], *protocol["extra_splits"]]:
        scores += run.job.score_split(run, opened.model, opened.task, split, protocol, run.folder)
    return _record(run, opened.model, scores)


def _record(run: Run, model: Any, scores: list[Score]) -> Record:
    from fairseq import utils

    from memtrans.evaluation import read_checkpoint

    identity = run.identity
    manifest = run.manifest()
    state = read_checkpoint(run.checkpoints / "checkpoint_last.pt")["extra_state"]
    # meters of the whole training, which fairseq saves and restores with every checkpoint; of several ranks, tensors
    meters = {name: utils.apply_to_sample(float, meter) for _, name, _, meter in state["metrics"]["default"]}
    return Record(
        schema=SCHEMA,
        run=run.hash,
        setting=run.setting,
        label=run.label,
        variant=identity["variant"],
        seed=run.seed,
        corpus=Corpus(
            name=manifest["corpus"],
            fingerprint=manifest["fingerprint"],
            sources={name: source["sha256"] for name, source in manifest["sources"].items()},
        ),
        size=identity["size"],
        protocol=identity["protocol"]["name"],
        config=identity,
        commit=(run.folder / "commit").read_text(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        hardware=_trained_on(run),
        versions={"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        updates=int(meters["wpb"]["count"]),
        epochs=run.job.epochs(meters, manifest["splits"]["train"]),
        tokens=int(meters["wpb"]["sum"]),
        train_seconds=round(float(meters["train_wall"]["sum"]), 2),
        checkpoint=identity["protocol"]["checkpoint"],
        scores=tuple(scores),
        hypotheses=run.job.hypotheses(run),
    )


def _note_hardware(run: Run, processes: int) -> None:
    """Keep what each attempt to train runs on. (What the run is scored on may be something else.)"""
    kept, now = run.folder / "hardware.json", asdict(_hardware(processes))
    before = json.loads(kept.read_text()) if kept.exists() else []
    if now not in before:
        write_json(kept, [*before, now])


def _trained_on(run: Run) -> Hardware:
    """Of a training that went on elsewhere, the names of all hardware, and the largest numbers."""
    kept = run.folder / "hardware.json"
    attempts = json.loads(kept.read_text()) if kept.exists() else [asdict(_hardware(1))]
    device, cpu = (" then ".join(dict.fromkeys(attempt[key] for attempt in attempts)) for key in ("device", "cpu"))
    devices, cpus, share = (max(attempt[key] for attempt in attempts) for key in ("devices", "cpus", "runs_per_device"))
    return Hardware(device=device, devices=devices, cpu=cpu, cpus=cpus, runs_per_device=share)


def _hardware(processes: int) -> Hardware:
    import torch

    gpus = torch.cuda.device_count()
    return Hardware(
        device=torch.cuda.get_device_name(0) if gpus else "cpu",
        devices=processes,
        cpu=_cpu_model(),
        cpus=len(os.sched_getaffinity(0)),
        runs_per_device=int(os.environ.get("MEMTRANS_RUNS_PER_DEVICE", 1)),
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"


def commit() -> str:
    """The git commit of the code, with "-dirty" if its files have changed; a copy without git takes $MEMTRANS_COMMIT.

    Raises UserError if neither is there: a number without the code that made it is no evidence.
    """
    if given := os.environ.get("MEMTRANS_COMMIT"):
        if not re.fullmatch(COMMIT, given):
            raise UserError(f"MEMTRANS_COMMIT={given}: expected a git commit, 7 to 40 hex digits")
        return given
    try:
        dirty = _git("status", "--porcelain", "--untracked-files=all", "--", *CODE)
        return _git("rev-parse", "--short=12", "HEAD") + ("-dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        raise UserError(
            "the code's git commit is not known, and records need it: work in a git clone, or set MEMTRANS_COMMIT"
        ) from None


def _git(*arguments: str) -> str:
    top = Path(__file__).resolve().parents[1]
    return subprocess.run(["git", *arguments], cwd=top, check=True, capture_output=True, text=True).stdout.strip()


def _note_commit(run: Run) -> None:
    """Keep the commit that a run starts with; one that is continued with other code is marked as dirty."""
    kept = run.folder / "commit"
    now = commit()
    if not kept.exists():
        write_text(kept, now)
    elif kept.read_text() != now:
        write_text(kept, kept.read_text().removesuffix("-dirty") + "-dirty")


if __name__ == "__main__":
    main()
