"""Prepare a corpus: gather, clean, train the vocabulary, binarise. Each step is done once, and survives being killed.

The folder's name holds a fingerprint of everything that decides its content. A step's output appears by renaming, so it
is absent or complete; `manifest.json` is written last.
"""

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from memtrans.corpora import sources
from memtrans.corpora.binarise import binarise, count_tokens
from memtrans.corpora.clean import Rules, clean
from memtrans.corpora.text import read_pairs
from memtrans.corpora.vocabulary import train_vocabulary
from memtrans.errors import UserError
from memtrans.files import new_folder, write_json
from memtrans.locks import locked
from memtrans.progress import say

PIPELINE = 1  # raise it whenever the same inputs give another output: prepared folders get new names
DECISIVE = ("source_lang", "target_lang", "clean", "vocabulary", "seed", "sizes")  # settings that decide the content


@dataclass(frozen=True)
class Prepared:
    """A complete prepared corpus: its folder and the content of its manifest.json."""

    path: Path
    manifest: dict[str, Any]


def prepare(corpus: DictConfig, data_dir: Path, workers: int | None = None) -> Prepared:
    """Return the prepared corpus, preparing it first if need be, in `data_dir/prepared/<name>-<fingerprint12>/`.

    When it is done already, this is instant and touches no network and no file. It may be killed at any moment and
    called by several processes at once. `workers` threads encode the text (default: the processors at hand). Raises
    UserError for what a user can mend.
    """
    fingerprint, folder = _identify(corpus, data_dir)
    if prepared := _load(folder):
        return prepared
    try:
        with locked(folder.with_name(f".{folder.name}.lock"), folder.name):
            return _load(folder) or _build(
                corpus, fingerprint, folder, Path(data_dir) / "downloads", workers or len(os.sched_getaffinity(0))
            )
    except OSError as error:
        raise UserError(f"cannot prepare {folder}: {error}; mend that, and the same command continues") from error


def foresee(corpus: DictConfig, data_dir: Path) -> Prepared:
    """What `prepare` would return, at once and without preparing anything.

    Of a corpus that is not prepared, the manifest holds only what is known beforehand: `splits` has no tokens, and
    "pairs", if known, are those before cleaning. Raises UserError as `prepare` does.
    """
    fingerprint, folder = _identify(corpus, data_dir)
    if prepared := _load(folder):
        return prepared
    manifest = {
        "corpus": corpus.name,
        "fingerprint": fingerprint,
        "source_lang": corpus.source_lang,
        "target_lang": corpus.target_lang,
        "splits": sources.foreseen_splits(corpus),
        "vocabulary": corpus.vocabulary.size,
    }
    return Prepared(folder, manifest)


def pending_downloads(corpus: DictConfig, data_dir: Path) -> dict[str, int]:
    """The files that `prepare` would download, and the bytes that each would bring. Touches no network."""
    _, folder = _identify(corpus, data_dir)
    if (folder / "text").exists():  # its sources have served
        return {}
    return sources.pending(corpus, Path(data_dir) / "downloads")


def _identify(corpus: DictConfig, data_dir: Path) -> tuple[str, Path]:
    """The corpus' fingerprint, and the folder in which it is or will be prepared."""
    try:
        checksums = sources.checksums(corpus)
    except MissingMandatoryValue as error:
        raise UserError(f"corpus={corpus.name} needs {error.full_key}=...; see configs/corpus/") from error
    fingerprint = _fingerprint(corpus, checksums)
    return fingerprint, Path(data_dir) / "prepared" / f"{corpus.name}-{fingerprint[:12]}"


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
    manifest = folder / "manifest.json"
    return Prepared(folder, json.loads(manifest.read_text(encoding="utf-8"))) if manifest.exists() else None


def _build(corpus: DictConfig, fingerprint: str, folder: Path, downloads: Path, workers: int) -> Prepared:
    start = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        report = _run_steps(corpus, folder, downloads, workers)
    except UserError:
        shutil.rmtree(folder / "raw", ignore_errors=True)
        if not any(folder.iterdir()):
            folder.rmdir()
        raise
    languages = (corpus.source_lang, corpus.target_lang)
    for split, counts in report["splits"].items():
        counts["source_tokens"], counts["target_tokens"] = count_tokens(folder / "bin", languages, split)
    manifest = {
        "corpus": corpus.name,
        "fingerprint": fingerprint,
        "source_lang": languages[0],
        "target_lang": languages[1],
        **report,
        "vocabulary": corpus.vocabulary.size,
        "versions": {"pipeline": PIPELINE, **{name: version(name) for name in ("fairseq", "sentencepiece")}},
    }
    write_json(folder / "manifest.json", manifest)
    say(f"prepared {folder} in {time.monotonic() - start:.0f} s")
    return Prepared(folder, manifest)


def _run_steps(corpus: DictConfig, folder: Path, downloads: Path, workers: int) -> dict[str, Any]:
    """Run each step whose output is not there yet, and return the report of the first."""
    text, model, languages = folder / "text", folder / "spm.model", (corpus.source_lang, corpus.target_lang)
    if not text.exists():
        _write_text(corpus, downloads, folder / "raw", text)
    shutil.rmtree(folder / "raw", ignore_errors=True)
    report = json.loads((text / "report.json").read_text(encoding="utf-8"))
    if not model.exists():
        say(f"training a vocabulary of {corpus.vocabulary.size} pieces")
        texts = [text / f"train.{language}" for language in languages]
        lines = report["splits"]["train"]["pairs"]
        train_vocabulary(texts, lines, corpus.vocabulary.size, corpus.vocabulary.sample, model)
    if not (folder / "bin").exists():
        say("encoding and binarising")
        with new_folder(folder / "bin") as target:
            binarise(text, model, languages, list(report["splits"]), target, workers)
    return report


def _write_text(corpus: DictConfig, downloads: Path, raw: Path, text: Path) -> None:
    """Write text/<split>.<lang> and text/report.json: {"sources": used files, "splits": counts}."""
    gathered = sources.gather(corpus, downloads, raw)
    say("cleaning")
    counts: dict[str, dict[str, Any]] = dict.fromkeys(gathered.splits, {})
    evaluation: set[tuple[str, str]] = set()
    with new_folder(text) as folder:
        for split in sorted(gathered.splits, key=lambda name: name == "train"):  # train last: it must know the others
            counts[split] = _write_split(corpus, split, gathered.splits[split], evaluation, folder)
        write_json(folder / "report.json", {"sources": gathered.used, "splits": counts})


def _write_split(
    corpus: DictConfig, split: str, parts: list[tuple[Path, Path]], evaluation: set[tuple[str, str]], folder: Path
) -> dict[str, Any]:
    published, written = 0, 0  # published counts leave out pairs with an empty side
    dropped: Counter[str] = Counter()

    def read() -> Iterator[tuple[str, str]]:
        nonlocal published
        for source, target in parts:
            for pair in read_pairs(source, target):
                published += all(pair)
                yield pair[0].rstrip(), pair[1].rstrip()

    rules = Rules(corpus.clean.max_characters, corpus.clean.max_ratio)
    kept = clean(read(), rules, evaluation, dropped) if split == "train" else read()
    names = (folder / f"{split}.{language}" for language in (corpus.source_lang, corpus.target_lang))
    sources_file, targets_file = (path.open("w", encoding="utf-8", newline="\n") for path in names)
    with sources_file, targets_file:
        for source, target in kept:
            written += 1
            sources_file.write(f"{source}\n")
            targets_file.write(f"{target}\n")
            if split != "train":
                evaluation.add((source, target))
    expected = corpus.splits[split].get("pairs") if "splits" in corpus else None
    if expected is not None and published != expected:
        raise UserError(
            f"{corpus.name}: {split} has {published} pairs, expected {expected} (corpus.splits.{split}.pairs); "
            f"if that is intended, set corpus.splits.{split}.pairs=null"
        )
    if not written:
        raise UserError(f"{corpus.name}: no pair left in {split} of {published} read ({dict(dropped)})")
    return {"pairs": written, "dropped": dict(sorted(dropped.items()))}
