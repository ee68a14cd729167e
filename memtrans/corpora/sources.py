"""Which files a corpus is made of: published ones (fetched), the user's own, or generated ones.

A published part may name several alternatives, each a mapping from side to `file` or `archive!member`. The first
whose files are at hand is taken, else the first that can be fetched: their content is the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from memtrans.corpora import extract, fetch
from memtrans.corpora.task import SPLITS, Counts, Part, Task
from memtrans.errors import UserError, did_you_mean
from memtrans.files import checksum, write_text
from memtrans.progress import say

KINDS = ("published", "local", "demo")


@dataclass
class Gathered:
    """Files on this machine: the parts of each split; and the checksums of all that are used."""

    splits: dict[str, list[Part]] = field(default_factory=dict)
    used: dict[str, dict[str, Any]] = field(default_factory=dict)


def checksums(task: Task) -> dict[str, dict[str, Any]]:
    """{"bytes", "sha256"} of every file that decides the corpus, without touching the network.

    For a generated corpus these are the generator's own source files: hashing them is instant, generating is not.
    """
    corpus = task.corpus
    kind = corpus.get("kind")
    if kind not in KINDS:
        raise UserError(f"corpus {corpus.name}: unknown kind {kind!r}; {did_you_mean(str(kind), KINDS)}")
    if kind == "published":
        return {name: {"bytes": file.bytes, "sha256": file.sha256} for name, file in corpus.files.items()}
    if kind == "local":
        return {name: checksum(path) for name, path in _local_files(task).items()}
    return {path.name: checksum(path) for path in task.generator}


def gather(task: Task, downloads: Path, raw: Path) -> Gathered:
    """Bring all files of the corpus to this machine: downloads go to `downloads`, members of archives to `raw`."""
    if task.corpus.kind == "published":
        return _gather_published(task, downloads, raw)
    files = _local_files(task) if task.corpus.kind == "local" else _generated_files(task, raw)
    gathered = Gathered(used={name: checksum(path) for name, path in files.items()})
    for split in SPLITS:
        gathered.splits[split] = [tuple(path for name, path in files.items() if name.startswith(f"{split}."))]
    return gathered


def pending(corpus: DictConfig, downloads: Path) -> dict[str, int]:
    """Bytes still to come of each file that `gather` would download, of the alternatives that it would try first."""
    if corpus.kind != "published":
        return {}
    remotes, folder = _remotes(corpus), downloads / corpus.name
    waiting: dict[str, int] = {}
    for spec in corpus.splits.values():
        for part in spec.parts:
            missing = [[name for name in _names(option) if not fetch.at_hand(remotes[name], folder)] for option in part]
            chosen = next((names for names in missing if not names), missing[0])
            waiting |= {name: fetch.missing_bytes(remotes[name], folder) for name in chosen}
    return waiting


def foreseen_splits(task: Task) -> dict[str, Counts]:
    """The splits that the corpus will have, each with its counts before cleaning, if known beforehand."""
    if task.corpus.kind == "published":
        known = {str(name): spec for name, spec in task.corpus.splits.items()}
        return {name: {unit: spec[unit] for unit in task.published if spec.get(unit)} for name, spec in known.items()}
    return task.foresee_splits()


def _local_files(task: Task) -> dict[str, Path]:
    """The user's files by role, such as `train.de.gz`."""
    return {
        f"{split}.{side}{'.gz' if path.suffix == '.gz' else ''}": path
        for split in SPLITS
        for side, path in zip(task.sides, task.local_files(split), strict=True)
    }


def _generated_files(task: Task, raw: Path) -> dict[str, Path]:
    """The generated text by role, such as `train.de`, written to `raw`."""
    files = {}
    for split, lines in task.generate().items():
        for number, side in enumerate(task.sides):
            files[f"{split}.{side}"] = raw / f"{split}.{side}"
            write_text(files[f"{split}.{side}"], "".join(f"{line[number]}\n" for line in lines))
    return files


def _remotes(corpus: DictConfig) -> dict[str, fetch.Remote]:
    return {
        str(name): fetch.Remote(
            corpus.name, str(name), file.bytes, file.sha256, tuple(file.urls), file.get("mirror", corpus.name)
        )
        for name, file in corpus.files.items()
    }


def _names(alternative: Mapping[Any, str]) -> list[str]:
    """The files of an alternative, each once: `archive!member` is in the file `archive`."""
    return list(dict.fromkeys(location.partition("!")[0] for location in alternative.values()))


def _gather_published(task: Task, downloads: Path, raw: Path) -> Gathered:
    corpus, remotes = task.corpus, _remotes(task.corpus)
    chosen: dict[str, list[dict[str, str]]] = {}
    paths: dict[str, Path] = {}
    for split, spec in corpus.splits.items():
        for part in spec.parts:
            alternatives = [{str(key): str(location) for key, location in option.items()} for option in part]
            alternative, found = _choose(alternatives, remotes, downloads / corpus.name)
            chosen.setdefault(str(split), []).append(alternative)
            paths |= found
    for name, path in paths.items():
        members = sorted(
            member
            for parts in chosen.values()
            for part in parts
            for archive, _, member in (location.partition("!") for location in part.values())
            if archive == name and member
        )
        if members and not (raw / name).exists():
            say(f"extracting {len(members)} files from {path}")
            extract.extract(path, members, raw / name)

    def place(location: str) -> Path:
        name, _, member = location.partition("!")
        return raw / name / member if member else paths[name]

    splits = {
        split: [tuple(place(part[side]) for side in task.sides) for part in parts] for split, parts in chosen.items()
    }
    used = {name: {"bytes": remotes[name].bytes, "sha256": remotes[name].sha256} for name in paths}
    return Gathered(splits, used)


def _choose(
    part: list[dict[str, str]], remotes: dict[str, fetch.Remote], downloads: Path
) -> tuple[dict[str, str], dict[str, Path]]:
    """The first alternative whose files are all at hand, else the first that can be fetched; with its files' paths."""
    needed = [_names(alternative) for alternative in part]
    for alternative, names in zip(part, needed, strict=True):
        local = {name: fetch.at_hand(remotes[name], downloads) for name in names}
        if all(local.values()):
            return alternative, {name: path for name, path in local.items() if path}
    reasons = []
    for alternative, names in zip(part, needed, strict=True):
        try:
            return alternative, {name: fetch.fetch(remotes[name], downloads) for name in names}
        except UserError as error:
            reasons.append(str(error))
    raise UserError("; or else: ".join(reasons))
