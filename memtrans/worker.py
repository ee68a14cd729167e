"""One run from start to record, in a process of its own: `python -m memtrans.worker runs/<hash>`.

fairseq keeps state in globals, so every run gets a fresh process. Killed at any moment, the same call continues:
fairseq from its last checkpoint, the evaluation split by split. The record is written last.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from memtrans.errors import UserError, did_you_mean, main_guard
from memtrans.files import write_text
from memtrans.locks import locked
from memtrans.records import SCHEMA, Corpus, Hardware, Record, Score
from memtrans.runs import Run, train_arguments

CODE = ("memtrans", "memtrans_fairseq", "scripts", "configs", "pyproject.toml")  # what a result depends on
PACKAGES = ("torch", "fairseq", "numpy", "sacrebleu", "sentencepiece", "hydra-core", "omegaconf", "memtrans")


@main_guard
def main() -> None:
    run = Run.read(Path(sys.argv[1]))
    with locked(run.folder / "lock", run.name):
        if run.record() is None:  # else another process has just finished it
            _note_commit(run)
            train(run)
            evaluate(run).save(run.results / "records")


def train(run: Run) -> None:
    """Train, or continue, until the run's last update. Raises UserError for what the user can mend."""
    finished = run.folder / "trained"
    if finished.exists():
        return
    import memtrans_fairseq.cli
    from memtrans_fairseq.compat import UnsafeCheckpoint
    from memtrans_fairseq.variants import SettingError

    _check_device(run)
    arguments = [*train_arguments(run), *_loading_flags()]
    check_options(run, arguments)
    write_text(run.folder / "command.txt", shlex.join(["memtrans-fairseq", "train", *arguments]) + "\n")
    try:
        if not _has_last_update(run):
            memtrans_fairseq.cli.main(["train", *arguments, *_wandb_flags(run)])
    except (SettingError, UnsafeCheckpoint) as error:
        raise UserError(str(error)) from error
    write_text(finished, "")


def check_options(run: Run, arguments: list[str]) -> None:
    """Refuse a key of `model` or `train` that is no option of fairseq for this model. Raises UserError."""
    from fairseq import options

    parser = options.get_training_parser()
    options.parse_args_and_arch(parser, arguments, parse_known=True)  # adds the options of the model and the rest
    known = {flag.removeprefix("--").replace("-", "_") for flag in parser._option_string_actions}
    for group in ("model", "train"):
        for key in run.identity[group]:
            if key not in known | {"precision"}:
                arch, near = run.identity["arch"], get_close_matches(key, known)
                hint = did_you_mean(key, near) if near else f"see memtrans-fairseq train --arch {arch} --help"
                raise UserError(f"{group}.{key}: fairseq has no such option for {arch}; {hint}")


def _has_last_update(run: Run) -> bool:
    """Whether a killed run had saved its last update already: fairseq would begin anew with one update too many."""
    from fairseq.checkpoint_utils import load_checkpoint_to_cpu

    last, end = run.checkpoints / "checkpoint_last.pt", run.identity["train"]["max_update"]
    if not end or not last.exists():
        return False
    return load_checkpoint_to_cpu(str(last))["optimizer_history"][-1]["num_updates"] >= end


def _loading_flags() -> list[str]:
    """A process that puts batches together serves a GPU. A CPU gains nothing from it, and waits for it to end.

    (Python now and then collects a data loader after its process, whose end torch then awaits for 5 seconds in vain.)
    """
    import torch

    return ["--num-workers", "1" if torch.cuda.is_available() else "0"]


def _wandb_flags(run: Run) -> list[str]:
    """Begin the run at W&B, or continue it under the same id; fairseq logs to it. A failure there costs no run."""
    if not run.tracking["wandb"]:
        return []
    import wandb

    project = run.tracking["wandb_project"]
    try:
        wandb.init(
            project=project,
            id=run.hash,
            name=run.name,
            dir=run.folder,
            mode=run.tracking["wandb"],
            resume="allow",
            allow_val_change=True,
            settings=wandb.Settings(silent=True),
        )
    except Exception as error:  # whatever it is, the run matters more
        print(f"not logged to W&B: {error}", flush=True)
        return []
    return ["--wandb-project", project]


def _check_device(run: Run) -> None:
    import torch

    precision = run.identity["train"]["precision"]
    if precision != "fp32" and not torch.cuda.is_available():
        raise UserError(f"train.precision={precision} needs a GPU, and there is none here: add train.precision=fp32")


def evaluate(run: Run) -> Record:
    """Score what the protocol names; the record of the run."""
    from memtrans import evaluation

    protocol = run.identity["protocol"]
    checkpoint = evaluation.checkpoint_of(run.checkpoints, protocol["checkpoint"])
    model, task = evaluation.load_model(checkpoint, run.data, in_half=run.job.IN_HALF)
    scores: list[Score] = []
    for split in [protocol["split"], *protocol["extra_splits"]]:
        scores += run.job.score_split(run, model, task, split, protocol, run.folder)
    return _record(run, model, scores)


def _record(run: Run, model: Any, scores: list[Score]) -> Record:
    from fairseq.checkpoint_utils import load_checkpoint_to_cpu

    identity = run.identity
    manifest = json.loads((run.data / "manifest.json").read_text())
    state = load_checkpoint_to_cpu(str(run.checkpoints / "checkpoint_last.pt"))["extra_state"]
    # meters of the whole training, which fairseq saves and restores with every checkpoint
    meters = {name: meter for _, name, _, meter in state["metrics"]["default"]}
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
        hardware=_hardware(),
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


def _hardware() -> Hardware:
    import torch

    gpus = torch.cuda.device_count()
    return Hardware(
        device=torch.cuda.get_device_name(0) if gpus else "cpu",
        devices=max(gpus, 1),
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
