"""A run: what identifies it, where it lies, and the fairseq command that trains it. No torch is imported here."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from memtrans.corpora import Prepared
from memtrans.errors import UserError
from memtrans.files import write_json
from memtrans.jobs import Job, job_of
from memtrans.records import Record
from memtrans.sweeps_spec import row_label

PRECISIONS = {"fp32": None, "fp16": "--fp16", "bf16": "--bf16", "amp": "--amp"}
# what `train_arguments`, or whoever starts a training, tells fairseq of a run's other settings
OURS = (
    *("arch", "task", "source_lang", "target_lang", "seed", "fp16", "bf16", "amp", "finetune_from_model", "save_dir"),
    *("no_epoch_checkpoints", "keep_last_epochs", "keep_interval_updates", "log_format", "log_interval"),
    *("num_workers", "device_id", "ddp_backend", "distributed_backend", "distributed_world_size"),
    *("distributed_rank", "distributed_init_method", "distributed_no_spawn"),
)


@dataclass(frozen=True)
class Run:
    """One training and its evaluation. `identity` is all that its result depends on; the rest says where things lie."""

    identity: dict[str, Any]
    label: str  # its row in tables
    data: Path  # the prepared corpus
    runs: Path  # folder of all runs
    results: Path  # folder of records
    tracking: dict[str, Any]
    gpus: int = 1  # as many processes train it, each with a GPU of its own if there are any
    accumulate: int = 1  # parts that each of them takes its share of a batch in, for small GPUs

    @property
    def hash(self) -> str:
        return _hash(self.identity)

    @property
    def setting(self) -> str:
        """The hash without the seed: runs that differ only by seed share it, and so do those that continue such."""
        shared = {key: value for key, value in self.identity.items() if key != "seed"}
        if "parent" in shared:
            shared["parent"] = {key: value for key, value in shared["parent"].items() if key != "run"}
        return _hash(shared)

    @property
    def seed(self) -> int:
        return self.identity["seed"]

    @property
    def job(self) -> Job:
        return job_of(self.identity["corpus"])

    @property
    def name(self) -> str:
        return f"{self.label}, seed {self.seed}"

    @property
    def tracked(self) -> bool:
        """Whether a tracker is switched on."""
        return bool(self.tracking["wandb"] or self.tracking["tensorboard"])

    @property
    def folder(self) -> Path:
        return self.runs / self.hash

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def attention(self) -> Path:
        """Maps of some sentences, if a tracker was to show them."""
        return self.folder / "attention.json"

    @property
    def start(self) -> Path:
        """The checkpoint that it starts from, if it continues another run (see `extending`)."""
        return self.folder / "start.pt"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def record_path(self) -> Path:
        return self.results / "records" / f"{self.hash}.json"

    def manifest(self) -> dict[str, Any]:
        """Of the prepared corpus. Raises UserError if it cannot be read."""
        return Prepared.read(self.data).manifest

    def record(self) -> Record | None:
        """The record of this run, or None if it has not finished."""
        return Record.load(self.record_path) if self.record_path.exists() else None

    def write(self) -> Path:
        """Write the run's own description, from which a worker in another process reads it back."""
        content = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        path = self.folder / "run.json"
        write_json(path, content)
        return path

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """The run whose folder this is, also if it was moved there. Raises UserError if it cannot be."""
        path = folder / "run.json"
        try:
            content = json.loads(path.read_text())
            top = _called_from(folder, Path(content.get("runs", "")), Path(content["data"]))
            places = {"data": top / content["data"], "results": top / content["results"], "runs": folder.parent}
            run = cls(**content | places)
            named = folder if folder.name == run.hash else folder.resolve()  # it may be a link, or "."
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{folder}: not a run's folder (it has no run.json); give one of runs/") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: cannot be read ({error}); the command that made the run writes it again"
            ) from None
        if named.name != run.hash:
            raise UserError(f"{folder}: holds the run {run.hash}; give the folder that name")
        return replace(run, runs=named.parent)


def _called_from(folder: Path, runs: Path, data: Path) -> Path:
    """Where the command was called that made a run's `folder` in `runs`: paths in it are relative to that.

    The working directory, where that does not show: the folder was moved out of `runs`, say, or copied with it to where
    its corpus, `data`, is not.
    """
    here, parts = folder.resolve().parent, runs.parts
    if runs.is_absolute() or not parts or ".." in parts or here.parts[-len(parts) :] != parts:
        return Path()
    top = here.parents[len(parts) - 1]
    return Path() if top == Path.cwd() or not (top / data).exists() else top


def _hash(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def plan_run(config: DictConfig, prepared: Prepared) -> Run:
    """The run that a config describes, on a prepared corpus. Raises UserError for settings that cannot work."""
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    manifest = prepared.manifest
    identity = {
        "corpus": job_of(manifest).corpus_identity(manifest),
        "size": values["size"]["name"],
        "variant": values["variant"]["name"],
        "arch": values["variant"]["arch"],
        "model": values["model"],
        "train": values["train"],
        "protocol": values["protocol"],
        "seed": values["seed"],
    }
    _check(values, manifest)
    row = {
        "variant": values["variant"]["name"],
        "memory_tokens": values["model"].get("memory_tokens"),
        "label": values["label"] if values["label"] is None else str(values["label"]),
    }
    launcher = values.get("launcher") or {}
    return Run(
        identity=identity,
        label=row_label(row, {values["variant"]["name"]: values["variant"]["label"]}),
        data=prepared.path,
        runs=Path(values["paths"]["runs"]),
        results=Path(values["paths"]["results"]),
        tracking=values["tracking"],
        gpus=launcher.get("gpus") or 1,
        accumulate=launcher.get("accumulate") or 1,
    )


def _check(values: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    seed = values["seed"]
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise UserError(f"seed={seed}: expected a whole number from 0 to {2**32 - 1}")
    check_training(values["train"])
    tokens = values["model"].get("memory_tokens", 0)
    if type(tokens) is not int or tokens < 0:
        raise UserError(f"model.memory_tokens={tokens}: expected a whole number of at least 0")
    _check_own(values)
    check_protocol(values, manifest)
    if values["tracking"]["wandb"] not in (None, "offline", "online"):
        raise UserError(f"tracking.wandb={values['tracking']['wandb']}: expected null, offline or online")


def check_training(train: Mapping[str, Any]) -> None:
    """Refuse a `train` that cannot train. Raises UserError."""
    if train["precision"] not in PRECISIONS:
        raise UserError(f"train.precision={train['precision']}: expected {', '.join(PRECISIONS)}")
    for key in ("max_update", "max_epoch"):
        if (value := train[key]) is not None and (type(value) is not int or value < 1):
            raise UserError(f"train.{key}={value}: expected null or a whole number of at least 1")
    for key in ("update_freq", "max_tokens", "batch_size"):
        if type(value := train.get(key)) is int and value < 1:
            raise UserError(f"train.{key}={value}: expected a whole number of at least 1")
    for value in train["lr"] if isinstance(train["lr"], list) else [train["lr"]]:
        if type(value) in (int, float) and not value > 0:
            raise UserError(f"train.lr={value}: expected a number above 0")
    if not train["max_update"] and not train["max_epoch"]:
        raise UserError("neither train.max_update nor train.max_epoch is set: training would never end; set one")


def _check_own(values: Mapping[str, Any]) -> None:
    for group in ("model", "train"):
        if overruled := [key for key in OURS if key in values[group]]:
            others = "seed, corpus, variant, train.precision, protocol, paths and launcher"
            raise UserError(f"{group}.{overruled[0]}: not an option of its own; it follows from {others}")


def check_device(run: Run, gpus: bool) -> None:
    """Refuse a run that only a GPU can train where there is none. Raises UserError."""
    precision = run.identity["train"]["precision"]
    if precision != "fp32" and not gpus:
        raise UserError(f"train.precision={precision} needs a GPU, and there is none here: add train.precision=fp32")


def check_protocol(values: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Refuse a `protocol` that cannot score this corpus with this `model` and `train`. Raises UserError."""
    protocol = values["protocol"]
    splits = [protocol["split"], *protocol["extra_splits"]]
    for split in splits:
        if split not in manifest["splits"]:
            known = ", ".join(manifest["splits"])
            raise UserError(f"protocol: corpus {manifest['corpus']} has no split {split!r}; it has {known}")
        if splits.count(split) > 1:
            others = ",".join(dict.fromkeys(each for each in splits if each != protocol["split"]))
            raise UserError(f"protocol: split {split!r} would be scored twice: add protocol.extra_splits=[{others}]")
    averaged_checkpoints(protocol["checkpoint"])
    job_of(manifest).check(values)


def averaged_checkpoints(choice: str) -> int:
    """N of "average N", 0 for "best" and "last". Raises UserError for anything else."""
    if choice in ("best", "last"):
        return 0
    word, _, number = str(choice).partition(" ")
    if word != "average" or not number.isdecimal() or int(number) < 2:
        raise UserError(f"protocol.checkpoint={choice}: expected best, last or 'average N' with N at least 2")
    return int(number)


def train_arguments(run: Run) -> list[str]:
    """The arguments of `memtrans-fairseq train` for this run: a command that can be run by hand."""
    identity = run.identity
    train = dict(identity["train"])
    precision = PRECISIONS[train.pop("precision")]
    of_packed = {key: train.pop(key, False) for key in ("compile", "cuda_graphs")}
    if train.pop("packed", False):
        train |= {"criterion": f"packed_{train['criterion']}", **of_packed}
    averaged = averaged_checkpoints(identity["protocol"]["checkpoint"])
    arguments = [*run.job.task_arguments(run), "--arch", identity["arch"], *_flags(identity["model"]), *_flags(train)]
    arguments += [precision] if precision else []
    arguments += ["--seed", str(run.seed), "--save-dir", str(run.checkpoints)]
    arguments += ["--keep-last-epochs", str(averaged)] if averaged else ["--no-epoch-checkpoints"]
    arguments += ["--keep-interval-updates", str(max(averaged, 1))]
    arguments += ["--log-format", "json", "--log-interval", "20"]
    arguments += ["--finetune-from-model", str(run.start)] if "parent" in identity else []
    return arguments


def _flags(options: Mapping[str, Any]) -> list[str]:
    """fairseq command-line flags: `a_b: 1` is `--a-b 1`, true is a bare flag, false and null are left out."""
    flags: list[str] = []
    for key, value in options.items():
        if value is None or value is False:
            continue
        flags.append("--" + key.replace("_", "-"))
        if value is not True:
            flags.append(json.dumps(value) if isinstance(value, list) else str(value))
    return flags
