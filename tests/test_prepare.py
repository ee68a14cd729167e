"""Preparing a user's own files, the demo corpus and, where it is at hand, the real Multi30k."""

import gzip
import json
import os
import socket
from pathlib import Path

import pytest
from corpora_toys import composed, sentences, write_parallel
from rich.console import Console

from memtrans.corpora import prepare, read_lines, show
from memtrans.errors import UserError

TRAIN, VALID, TEST = sentences(400, seed=123), sentences(20, seed=2), sentences(25, seed=3)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """Nothing here may open a connection."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def own_files(folder: Path, zipped=False, languages=("de", "en"), train=TRAIN):
    folder.mkdir(exist_ok=True)
    for split, pairs in (("train", train), ("valid", VALID), ("test", TEST)):
        write_parallel(folder / split, pairs, languages, zipped)
    splits = [f"corpus.{split}={folder / split}" for split in ("train", "valid", "test")]
    languages = [f"corpus.source_lang={languages[0]}", f"corpus.target_lang={languages[1]}"]
    return composed("local", "corpus.vocabulary.size=200", *splits, *languages)


def text(prepared, split, language):
    return list(read_lines(prepared.path / f"text/{split}.{language}"))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("languages", [("de", "en"), ("kk", "sl")])
def test_own_files(tmp_path, zipped, languages):
    prepared = prepare(own_files(tmp_path / "own", zipped, languages), tmp_path / "data")
    for split, pairs in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        for side, language in enumerate(languages):
            assert text(prepared, split, language) == [pair[side] for pair in pairs]
        assert (prepared.path / f"bin/{split}.{'-'.join(languages)}.{languages[0]}.idx").exists()
    manifest = json.loads((prepared.path / "manifest.json").read_text())
    assert manifest == prepared.manifest
    assert prepared.path == tmp_path / "data/prepared" / f"local-{manifest['fingerprint'][:12]}"
    assert {split: counts["pairs"] for split, counts in manifest["splits"].items()} == {
        "train": 400,
        "valid": 20,
        "test": 25,
    }
    assert set(manifest["sources"]) == {
        f"{split}.{language}{'.gz' * zipped}" for split in ("train", "valid", "test") for language in languages
    }


def test_fairseq_reads_it(tmp_path):
    from fairseq.tasks.translation import TranslationConfig, TranslationTask

    prepared = prepare(own_files(tmp_path / "own"), tmp_path / "data")
    config = TranslationConfig(
        data=str(prepared.path / "bin"),
        source_lang="de",
        target_lang="en",
        dataset_impl="mmap",
        required_seq_len_multiple=1,
    )
    task = TranslationTask.setup_task(config)
    task.load_dataset("test")
    assert len(task.source_dictionary) == len(task.target_dictionary) == prepared.manifest["vocabulary"] == 200
    assert task.source_dictionary == task.target_dictionary
    for example, (german, english) in zip(task.datasets["test"], TEST, strict=True):
        assert task.source_dictionary.string(example["source"], "sentencepiece") == german
        assert task.target_dictionary.string(example["target"], "sentencepiece") == english


def test_second_call_touches_nothing(tmp_path):
    corpus = own_files(tmp_path / "own")
    first = prepare(corpus, tmp_path / "data")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    assert prepare(corpus, tmp_path / "data") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == before


def test_same_content_elsewhere_is_the_same_corpus_and_a_change_is_another(tmp_path):
    first = prepare(own_files(tmp_path / "one"), tmp_path / "data")
    moved = own_files(tmp_path / "two")
    assert prepare(moved, tmp_path / "data") == first
    moved.vocabulary.size = 208
    assert prepare(moved, tmp_path / "data").path != first.path
    changed = own_files(tmp_path / "two", train=TRAIN[::-1])
    assert prepare(changed, tmp_path / "data").path != first.path


def test_drops_are_counted_by_reason_and_shown(tmp_path):
    bad = [("", "empty"), ("\x93Quote\x94", "Quote"), ("a" * 1001, "b" * 1001), ("a", "a bad ratio"), TEST[3], VALID[0]]
    prepared = prepare(own_files(tmp_path / "own", train=[*TRAIN, *bad]), tmp_path / "data")
    expected = {"bad_ratio": 1, "control_characters": 1, "empty": 1, "in_evaluation": 2, "too_long": 1}
    assert prepared.manifest["splits"]["train"]["dropped"] == expected
    assert text(prepared, "train", "de") == [german for german, _ in TRAIN]
    console = Console(record=True, width=120)
    show(prepared, console)
    shown = console.export_text()
    assert all(reason in shown for reason in expected)


def test_evaluation_sets_stay_as_published(tmp_path):
    corpus = own_files(tmp_path / "own")
    published = [("", "empty"), ("kurz", "a very long side, far beyond any ratio"), ("zwei\u2028Zeilen", "one  line")]
    write_parallel(tmp_path / "own/test", published)
    prepared = prepare(corpus, tmp_path / "data")
    assert list(zip(text(prepared, "test", "de"), text(prepared, "test", "en"), strict=True)) == published


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train.de", b"gut\n" * 3 + "schön\n".encode("latin-1"), r"train\.de, line 4: invalid UTF-8"),
        ("valid.en", b"only one line\n", r"valid\.de has 20 lines, \S*valid\.en has 1"),
        ("test.en", b"x\n" * 24, r"test\.de has 25 lines, \S*test\.en has 24"),
        ("test.de", None, r"missing file: corpus\.test=\S*test needs \S*test\.de or \S*test\.de\.gz"),
    ],
)
def test_bad_input_is_one_clear_error_and_leaves_nothing(tmp_path, file, content, message):
    corpus = own_files(tmp_path / "own")
    path = tmp_path / "own" / file
    path.write_bytes(content) if content else path.unlink()
    with pytest.raises(UserError, match=message) as failure:
        prepare(corpus, tmp_path / "data")
    assert "\n" not in str(failure.value)
    left = [path for path in (tmp_path / "data").rglob("*") if not path.name.startswith(".")]
    assert left in ([], [tmp_path / "data/prepared"])


def test_missing_setting_is_named(tmp_path):
    with pytest.raises(UserError, match=r"corpus=local needs corpus\.\w+="):
        prepare(composed("local"), tmp_path)


def test_unwritable_folder_is_one_clear_error(tmp_path):
    (tmp_path / "data").write_text("a file, not a folder")
    with pytest.raises(UserError, match="cannot prepare"):
        prepare(own_files(tmp_path / "own"), tmp_path / "data")


def test_demo(tmp_path):
    corpus = composed("demo", "corpus.sizes={train: 2000, valid: 50, test: 60}", "corpus.vocabulary.size=400")
    prepared = prepare(corpus, tmp_path)
    splits = prepared.manifest["splits"]
    assert {split: counts["pairs"] for split, counts in splits.items()} == {"train": 2000, "valid": 50, "test": 60}
    assert splits["train"]["dropped"] == {}
    assert prepare(composed("demo", *OVERRIDES), tmp_path) == prepared
    corpus.seed = 2
    assert prepare(corpus, tmp_path).path != prepared.path


OVERRIDES = ("corpus.sizes={train: 2000, valid: 50, test: 60}", "corpus.vocabulary.size=400")


@pytest.mark.skipif("MEMTRANS_MIRROR" not in os.environ, reason="MEMTRANS_MIRROR names no folder with multi30k/")
def test_real_multi30k(tmp_path):
    mirror = Path(os.environ["MEMTRANS_MIRROR"]) / "multi30k"
    if not mirror.is_dir():
        pytest.skip(f"no folder {mirror}")
    prepared = prepare(composed("multi30k"), tmp_path)
    splits = prepared.manifest["splits"]
    read = {split: counts["pairs"] + sum(counts["dropped"].values()) for split, counts in splits.items()}
    assert read == {
        "train": 29_000,
        "valid": 1_014,
        "test": 1_000,
        "test_2017_flickr": 1_000,
        "test_2017_mscoco": 461,
        "test_2018_flickr": 1_071,
    }
    assert splits["train"]["dropped"] == {"bad_ratio": 2}  # two English captions whose German side is "@@"
    assert prepared.manifest["vocabulary"] == 8000
    published = gzip.decompress((mirror / "test_2016_flickr.en.gz").read_bytes())
    assert (prepared.path / "text/test.en").read_bytes().split() == published.split()
    assert not (tmp_path / "downloads").exists()
