"""One run from start to record, in a process of its own: `python -m memtrans.worker runs/<hash>`.

fairseq keeps state in globals, so every run gets a fresh process. Killed at any moment, the same call continues:
fairseq from its last checkpoint, the evaluation split by split. The record is written last.
"""

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from memtrans.corpora import read_lines
from memtrans.errors import UserError, main_guard
from memtrans.files import write_bytes, write_text
from memtrans.locks import locked
from memtrans.records import SCHEMA, Corpus, Hardware, Hypotheses, Record, Score
from memtrans.runs import Run, train_arguments

PACKAGES = ("torch", "fairseq", "numpy", "sacrebleu", "sentencepiece", "hydra-core", "omegaconf", "memtrans")


@main_guard
def main() -> None:
    run = Run.read(Path(sys.argv[1]))
    with locked(run.folder / "lock", run.name):
        if run.record() is None:  # else another process has just finished it
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
    arguments = train_arguments(run)
    write_text(run.folder / "command.txt", shlex.join(["memtrans-fairseq", "train", *arguments]) + "\n")
    # W&B continues a run by its id; none of this is read unless tracking.wandb is set
    os.environ |= {
        "WANDB_MODE": run.tracking["wandb"] or "disabled",
        "WANDB_DIR": str(run.folder),
        "WANDB_RUN_ID": run.hash,
        "WANDB_NAME": run.name,
        "WANDB_RESUME": "allow",
        "WANDB_SILENT": "true",
    }
    try:
        memtrans_fairseq.cli.main(["train", *arguments])
    except (SettingError, UnsafeCheckpoint) as error:
        raise UserError(str(error)) from error
    write_text(finished, "")


def _check_device(run: Run) -> None:
    import torch

    precision = run.identity["train"]["precision"]
    if precision != "fp32" and not torch.cuda.is_available():
        raise UserError(f"train.precision={precision} needs a GPU, and there is none here: add train.precision=fp32")


def evaluate(run: Run) -> Record:
    """Translate and score what the protocol names; the record of the run."""
    from memtrans import evaluation

    protocol = run.identity["protocol"]
    checkpoint = evaluation.checkpoint_of(run.checkpoints, protocol["checkpoint"])
    model, task = evaluation.load_model(checkpoint, run.data)
    scores: list[Score] = []
    for split in [protocol["split"], *protocol["extra_splits"]]:
        path = run.folder / f"{split}.hypotheses.txt"
        if not path.exists():
            print(f"translating {split}", flush=True)
            write_text(path, "".join(f"{line}\n" for line in evaluation.translate(model, task, split, protocol)))
        hypotheses = list(read_lines(path))
        sentences = protocol["sentences"] if split == protocol["split"] else None
        chosen = evaluation.draw(len(hypotheses), sentences, protocol["draw_seed"])
        scores += evaluation.score(hypotheses, evaluation.references_of(run, split), split, chosen)
    return _record(run, model, scores)


def _record(run: Run, model: Any, scores: list[Score]) -> Record:
    from fairseq.checkpoint_utils import load_checkpoint_to_cpu

    identity = run.identity
    manifest = json.loads((run.data / "manifest.json").read_text())
    state = load_checkpoint_to_cpu(str(run.checkpoints / "checkpoint_last.pt"))["extra_state"]
    # meters of the whole training, which fairseq saves and restores with every checkpoint
    meters = {name: meter for _, name, _, meter in state["metrics"]["default"]}
    split = identity["protocol"]["split"]
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
        commit=commit(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        hardware=_hardware(),
        versions={"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        updates=int(meters["wpb"]["count"]),
        epochs=round(meters["bsz"]["sum"] / manifest["splits"]["train"]["pairs"], 2),
        tokens=int(meters["wpb"]["sum"]),
        train_seconds=round(float(meters["train_wall"]["sum"]), 2),
        checkpoint=identity["protocol"]["checkpoint"],
        scores=tuple(scores),
        hypotheses=_keep_hypotheses(run, split),
    )


def _keep_hypotheses(run: Run, split: str) -> Hypotheses:
    """Copy the scored translations beside the records."""
    content = (run.folder / f"{split}.hypotheses.txt").read_bytes()
    name = f"hypotheses/{run.hash}.{split}.txt"
    write_bytes(run.results / name, content)
    return Hypotheses(file=name, sha256=hashlib.sha256(content).hexdigest())


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
    """The git commit of the code, with "-dirty" if files had changed; a copy without git takes $MEMTRANS_COMMIT.

    Raises UserError if neither is there: a number without the code that made it is no evidence.
    """
    if given := os.environ.get("MEMTRANS_COMMIT"):
        return given
    try:
        describe = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(
            describe, cwd=Path(__file__).parent, check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        raise UserError(
            "the code's git commit is not known, and records need it: work in a git clone, or set MEMTRANS_COMMIT"
        ) from None


if __name__ == "__main__":
    main()
