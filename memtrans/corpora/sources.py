"""Which files a corpus is made of: published ones (fetched), the user's own, or generated ones.

A published part may name several alternatives, each a mapping from language to `file` or `archive!member`. The first
whose files are at hand is taken, else the first that can be fetched: their content is the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from memtrans.corpora import extract, fetch
from memtrans.corpora.text import read_lines
from memtrans.errors import UserError, did_you_mean
from memtrans.files import checksum, write_bytes
from memtrans.progress import say

KINDS = ("published", "local", "demo")
GENERATOR = Path(__file__).parent / "demo"


@dataclass
class Gathered:
    """Files on this machine: of each split the (source, target) parts; and the checksums of all that are used."""

    splits: dict[str, list[tuple[Path, Path]]] = field(default_factory=dict)
    used: dict[str, dict[str, Any]] = field(default_factory=dict)


def checksums(corpus: DictConfig) -> dict[str, dict[str, Any]]:
    """{"bytes", "sha256"} of every file that decides the corpus, without touching the network.

    For a generated corpus these are the generator's own source files: hashing them is instant, generating is not.
    """
    kind = corpus.get("kind")
    if kind not in KINDS:
        raise UserError(f"corpus {corpus.name}: unknown kind {kind!r}; {did_you_mean(str(kind), KINDS)}")
    if corpus.source_lang == corpus.target_lang:
        raise UserError(f"corpus {corpus.name}: source_lang and target_lang are both {corpus.source_lang}")
    if kind == "published":
        return {name: {"bytes": file.bytes, "sha256": file.sha256} for name, file in corpus.files.items()}
    if kind == "local":
        return {name: checksum(path) for name, path in _local_files(corpus).items()}
    return {path.name: checksum(path) for path in sorted(GENERATOR.glob("*.py"))}


def gather(corpus: DictConfig, downloads: Path, raw: Path) -> Gathered:
    """Bring all files of the corpus to this machine: downloads go to `downloads`, members of archives to `raw`."""
    languages = (corpus.source_lang, corpus.target_lang)
    if corpus.kind == "published":
        return _gather_published(corpus, languages, downloads, raw)
    files = _local_files(corpus) if corpus.kind == "local" else _generated_files(corpus, raw)
    gathered = Gathered(used={name: checksum(path) for name, path in files.items()})
    for split in ("train", "valid", "test"):
        source, target = (path for name, path in files.items() if name.startswith(f"{split}."))
        gathered.splits[split] = [(source, target)]
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


def foreseen_splits(corpus: DictConfig) -> dict[str, dict[str, Any]]:
    """The splits that the corpus will have, each with "pairs", before cleaning, if that is known beforehand."""
    if corpus.kind == "published":
        return {str(name): {"pairs": spec.pairs} if spec.get("pairs") else {} for name, spec in corpus.splits.items()}
    if corpus.kind == "demo":
        return {str(name): {"pairs": size} for name, size in corpus.sizes.items()}
    files = _local_files(corpus)
    counts = {name.split(".")[0]: sum(1 for _ in read_lines(path)) for name, path in files.items()}
    return {split: {"pairs": pairs} for split, pairs in counts.items()}


def _local_files(corpus: DictConfig) -> dict[str, Path]:
    """The user's files by role, such as `train.de.gz`; found as <prefix>.<lang> or <prefix>.<lang>.gz."""
    files = {}
    for split in ("train", "valid", "test"):
        prefix = Path(corpus[split]).expanduser()
        for language in (corpus.source_lang, corpus.target_lang):
            plain, zipped = Path(f"{prefix}.{language}"), Path(f"{prefix}.{language}.gz")
            path = plain if plain.is_file() else zipped
            if not path.is_file():
                raise UserError(
                    f"missing file: corpus.{split}={prefix} needs {plain} or {zipped}; "
                    f"give the path without .{language}, and the languages as corpus.source_lang and corpus.target_lang"
                )
            files[f"{split}.{language}{'.gz' if path is zipped else ''}"] = path
    return files


def _generated_files(corpus: DictConfig, raw: Path) -> dict[str, Path]:
    """The generated text by role, such as `train.de`, written to `raw`."""
    from memtrans.corpora import demo

    raw.mkdir(parents=True, exist_ok=True)
    files = {}
    for split, pairs in demo.generate(
        corpus.seed, {str(name): int(size) for name, size in corpus.sizes.items()}
    ).items():
        for side, language in enumerate((corpus.source_lang, corpus.target_lang)):
            files[f"{split}.{language}"] = raw / f"{split}.{language}"
            write_bytes(files[f"{split}.{language}"], "".join(f"{pair[side]}\n" for pair in pairs).encode())
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


def _gather_published(corpus: DictConfig, languages: tuple[str, str], downloads: Path, raw: Path) -> Gathered:
    remotes = _remotes(corpus)
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

    source, target = languages
    splits = {split: [(place(part[source]), place(part[target])) for part in parts] for split, parts in chosen.items()}
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
