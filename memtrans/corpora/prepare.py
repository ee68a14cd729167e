"""Prepare a corpus: gather its text, train the vocabulary, binarise. Each step is done once, and survives being killed.

What a step does is the task's: see `task`, `translation` and `language_modeling`.
The folder's name holds a fingerprint of everything that decides its content. A step's output appears by renaming, so it
is absent or complete; `manifest.json` is written last.
"""

import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from memtrans.corpora import sources
from memtrans.corpora.language_modeling import LanguageModeling
from memtrans.corpora.task import Task
from memtrans.corpora.translation import Translation
from memtrans.errors import UserError, did_you_mean
from memtrans.files import abandoned, adopt, new_folder, private, write_json
from memtrans.locks import locked
from memtrans.progress import say

PIPELINE = 1  # raise it whenever the same inputs give another output: prepared folders get new names
DECISIVE = ("task", "source_lang", "target_lang", "clean", "vocabulary", "seed", "sizes")  # settings of the content
TASKS: dict[str, type[Task]] = {"translation": Translation, "language_modeling": LanguageModeling}


@dataclass(frozen=True)
class Prepared:
    """A complete prepared corpus: its folder and the content of its manifest.json."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Prepared":
        """Raises UserError if its manifest cannot be read."""
        path = folder / "manifest.json"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(manifest, dict) or not {"corpus", "splits"} <= manifest.keys():
                raise ValueError("it has no corpus or no splits")
            return cls(folder, manifest)
        except FileNotFoundError:
            raise UserError(f"{folder}: no prepared corpus (it has no {path.name}); run scripts.prepare") from None
        except ValueError as error:
            raise UserError(
                f"{path}: cannot be read ({error}); delete its folder, and prepare the corpus again"
            ) from None


def prepare(corpus: DictConfig, data_dir: Path, workers: int | None = None) -> Prepared:
    """Return the prepared corpus, preparing it first if need be, in `data_dir/prepared/<name>-<fingerprint12>/`.

    When it is done already, this is instant and touches no network and no file. It may be killed at any moment and
    called by several processes at once. A large text is encoded by `workers` processes (default: the processors at
    hand), which import the main module, as multiprocessing's spawn does. Raises UserError for what a user can mend.
    """
    task, fingerprint, folder = _identify(corpus, data_dir)
    if prepared := _load(folder):
        return prepared
    try:
        with locked(folder.with_name(f".{folder.name}.lock"), folder.name):
            return _load(folder) or _build(
                task, fingerprint, folder, Path(data_dir) / "downloads", workers or len(os.sched_getaffinity(0))
            )
    except OSError as error:
        raise UserError(f"cannot prepare {folder}: {error}; mend that, and the same command continues") from error


def foresee(corpus: DictConfig, data_dir: Path) -> Prepared:
    """What `prepare` would return, at once and without preparing anything.

    Of a corpus that is not prepared, the manifest holds only what is known beforehand: `splits` has no tokens, and
    "pairs", if known, are those before cleaning; of a text "lines" and "words" are there if known, and so is the size
    of its vocabulary. Raises UserError as `prepare` does.
    """
    task, fingerprint, folder = _identify(corpus, data_dir)
    if prepared := _load(folder):
        return prepared
    manifest = {"corpus": corpus.name, "fingerprint": fingerprint, **task.describe()}
    manifest["splits"] = sources.foreseen_splits(task)
    if vocabulary := task.foresee_vocabulary():
        manifest["vocabulary"] = vocabulary
    return Prepared(folder, manifest)


def pending_downloads(corpus: DictConfig, data_dir: Path) -> dict[str, int]:
    """The files that `prepare` would download, and the bytes that each would bring. Touches no network."""
    _, _, folder = _identify(corpus, data_dir)
    if (folder / "text").exists():  # its sources have served
        return {}
    return sources.pending(corpus, Path(data_dir) / "downloads")


def task_of(corpus: DictConfig) -> Task:
    """The corpus' steps, by its `task` (none: translation). Raises UserError for settings that cannot work."""
    name = corpus.get("task", "translation")
    if name not in TASKS:
        raise UserError(f"corpus {corpus.name}: unknown task {name!r}; {did_you_mean(str(name), TASKS)}")
    task = TASKS[name](corpus)
    task.check()
    return task


def _identify(corpus: DictConfig, data_dir: Path) -> tuple[Task, str, Path]:
    """The corpus' steps, its fingerprint, and the folder in which it is or will be prepared."""
    try:
        task = task_of(corpus)
        checksums = sources.checksums(task)
    except MissingMandatoryValue as error:
        raise UserError(f"corpus={corpus.name} needs {error.full_key}=...; see configs/corpus/") from error
    fingerprint = _fingerprint(corpus, checksums)
    return task, fingerprint, Path(data_dir) / "prepared" / f"{corpus.name}-{fingerprint[:12]}"


def _fingerprint(corpus: DictConfig, checksums: dict[str, dict[str, Any]]) -> str:
    """sha256 over what decides the result; URLs, mirror folders and the places of local files do not."""
    splits = {name: OmegaConf.to_container(spec.parts) for name, spec in corpus.get("splits", {}).items()}
    decisive = {
        "pipeline": PIPELINE,
        "sources": checksums,
        "splits": splits,
        "settings": OmegaConf.to_container(OmegaConf.masked_copy(corpus, [key for key in DECISIVE if key in corpus])),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _load(folder: Path) -> Prepared | None:
    return Prepared.read(folder) if (folder / "manifest.json").exists() else None


def _build(task: Task, fingerprint: str, folder: Path, downloads: Path, workers: int) -> Prepared:
    start = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        report = _run_steps(task, folder, downloads, workers)
    except UserError:
        shutil.rmtree(private(folder / "raw"), ignore_errors=True)
        if not any(folder.iterdir()):
            folder.rmdir()
        raise
    vocabulary = task.finish(folder / "bin", report["splits"])
    manifest = {
        "corpus": task.corpus.name,
        "fingerprint": fingerprint,
        **task.describe(),
        **report,
        "vocabulary": vocabulary,
        "versions": {"pipeline": PIPELINE, **{name: version(name) for name in ("fairseq", "sentencepiece")}},
    }
    write_json(folder / "manifest.json", manifest)
    say(f"prepared {folder} in {time.monotonic() - start:.0f} s")
    return Prepared(folder, manifest)


def _run_steps(task: Task, folder: Path, downloads: Path, workers: int) -> dict[str, Any]:
    """Run each step whose output is not there yet, and return the report of the first."""
    text = folder / "text"
    if not text.exists():
        _write_text(task, downloads, adopt(folder / "raw"), text)
    for raw in (private(folder / "raw"), *abandoned(folder / "raw")):
        shutil.rmtree(raw, ignore_errors=True)
    report = json.loads((text / "report.json").read_text(encoding="utf-8"))
    if not (folder / task.vocabulary_file).exists():
        task.train_vocabulary(folder, report["splits"])
    if not (folder / "bin").exists():
        say("encoding and binarising")
        with new_folder(folder / "bin") as target:
            task.binarise(folder, list(report["splits"]), target, workers)
    return report


def _write_text(task: Task, downloads: Path, raw: Path, text: Path) -> None:
    """Write text/<split>.<side> and text/report.json: {"sources": used files, "splits": counts}."""
    gathered = sources.gather(task, downloads, raw)
    say("reading the text")
    counts: dict[str, dict[str, Any]] = dict.fromkeys(gathered.splits, {})
    with new_folder(text) as folder:
        for split in sorted(gathered.splits, key=lambda name: name == "train"):  # train last: it must know the others
            published, counts[split] = task.write_split(split, gathered.splits[split], folder)
            task.check_published(split, published)
        write_json(folder / "report.json", {"sources": gathered.used, "splits": counts})
