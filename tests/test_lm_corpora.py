"""Preparing running text for language models: your own, generated and, where it is at hand, the real WikiText-2."""

import gzip
import os
import socket
from pathlib import Path

import memtrans_fairseq  # noqa: F401  (must come before fairseq)

import numpy as np
import pytest
import sentencepiece
import torch
from corpora_toys import TEXTS, composed
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset, make_builder
from rich.console import Console

from memtrans.corpora import Prepared, foresee, prepare, show
from memtrans.corpora.binarise import write_lines
from memtrans.errors import UserError

SPLITS = ("train", "valid", "test")
EOS, UNK = 2, 3
# what str.split() takes for whitespace, what it does not, and what a dictionary file might stumble over
SPACES = "a\u00a0b\u2028c\x85d\x1ce\tf\r\n \n\n"
ODD = f"{SPACES}#fairseq:overwrite #fairseq:overwrite 1 1 \ufeffx \x00 \u200b <unk> a<s> <S>\n"


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """Nothing here may open a connection."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def own_texts(folder: Path, *overrides: str, zipped: bool = False, **texts: str):
    """corpus=local_lm with TEXTS, or what `texts` has instead."""
    folder.mkdir(exist_ok=True)
    settings = []
    for split, text in (TEXTS | texts).items():
        path = folder / f"my {split}{'.gz' if zipped else '.txt'}"
        path.write_bytes(gzip.compress(text.encode(), mtime=0) if zipped else text.encode())
        settings.append(f"corpus.{split}='{path}'")
    return composed("local_lm", *settings, *overrides)


def dictionary(prepared: Prepared) -> Dictionary:
    return Dictionary.load(str(prepared.path / "bin/dict.txt"))


def items(prepared: Prepared, split: str) -> list[list[int]]:
    return [item.tolist() for item in MMapIndexedDataset(str(prepared.path / f"bin/{split}"))]


def decoded(prepared: Prepared, split: str) -> list[list[str]]:
    words = dictionary(prepared)
    return [[words[index] for index in item] for item in items(prepared, split)]


def lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n")


# words


@pytest.mark.parametrize("zipped", [False, True])
def test_the_text_is_kept_and_every_line_is_an_item(tmp_path, zipped):
    prepared = prepare(own_texts(tmp_path / "own", zipped=zipped), tmp_path / "data")
    for split, text in TEXTS.items():
        assert (prepared.path / f"text/{split}.txt").read_bytes() == text.encode()
        known = set(dictionary(prepared).symbols)
        expected = [
            [*(word if word in known else "<unk>" for word in line.split()), "</s>"] for line in text.split("\n")
        ]
        assert decoded(prepared, split) == expected[:-1]
    assert {path.name for path in prepared.path.iterdir()} == {"text", "dict.txt", "bin", "manifest.json"}
    assert set(prepared.manifest["sources"]) == {f"{split}.txt{'.gz' * zipped}" for split in SPLITS}


def test_the_manifest_counts(tmp_path):
    manifest = prepare(own_texts(tmp_path / "own"), tmp_path / "data").manifest
    types = {*TEXTS["train"].split()} - {"<unk>"}
    for split, text in TEXTS.items():
        tokens = len(text.split()) + text.count("\n")
        unknown = sum(word not in types | {"<unk>"} for word in text.split())
        counts = {"lines": text.count("\n"), "tokens": tokens, "words": tokens, "unknown": unknown}
        assert manifest["splits"][split] == counts
    assert manifest["splits"]["train"]["unknown"] == manifest["splits"]["valid"]["unknown"] == 0
    assert manifest["splits"]["test"]["unknown"] > 100
    assert manifest["vocabulary"] == len(types) + 2
    assert (manifest["task"], manifest["unit"]) == ("language_modeling", "word")


def test_ids_are_those_of_fairseq_s_own_preprocessing(tmp_path):
    prepared = prepare(own_texts(tmp_path / "own", train=TEXTS["train"] + ODD), tmp_path / "data")
    text, theirs = str(prepared.path / "text/train.txt"), Dictionary()
    Dictionary.add_file_to_dictionary(text, theirs, str.split, num_workers=1)
    theirs.finalize(padding_factor=1)
    ours = dictionary(prepared)
    assert ours == theirs
    assert ours.count[ours.nspecial :] == theirs.count[theirs.nspecial :]
    expected = [theirs.encode_line(line, str.split, add_if_not_exist=False).tolist() for line in _read(text)]
    assert items(prepared, "train") == expected


def _read(path: str) -> list[str]:
    return lines(Path(path).read_bytes().decode())


def test_odd_words_and_empty_lines(tmp_path):
    prepared = prepare(own_texts(tmp_path / "own", train=ODD, valid=ODD, test="no newline"), tmp_path / "data")
    words = ["#fairseq:overwrite", "#fairseq:overwrite", "1", "1", "\ufeffx", "\x00", "\u200b", "<unk>", "a<s>", "<S>"]
    assert decoded(prepared, "train") == [[*"abcdef", "</s>"], ["</s>"], ["</s>"], [*words, "</s>"]]
    assert decoded(prepared, "test") == [["<unk>", "<unk>", "</s>"]]
    assert prepared.manifest["splits"]["valid"] == {"lines": 4, "tokens": 20, "words": 20, "unknown": 0}
    assert prepared.manifest["splits"]["test"] == {"lines": 1, "tokens": 3, "words": 3, "unknown": 2}


def test_a_limited_vocabulary_holds_the_most_frequent_words(tmp_path):
    train = "b b b a a c c d <unk>\n"
    prepared = prepare(own_texts(tmp_path / "own", "corpus.vocabulary.size=2", train=train), tmp_path / "data")
    assert (prepared.path / "bin/dict.txt").read_text() == "b 3\na 2\n"
    assert items(prepared, "train") == [[4, 4, 4, 5, 5, UNK, UNK, UNK, UNK, EOS]]
    assert prepared.manifest["splits"]["train"]["unknown"] == 3  # the text's own <unk> is none
    assert prepared.manifest["vocabulary"] == 4


def test_the_written_files_are_those_of_fairseq_s_builder(tmp_path):
    rng = np.random.default_rng(1)
    for entries in (1000, 70_000):  # 16 and 32 bits
        batches = []
        for count in (3, 1):
            sizes = rng.integers(1, 9, count)
            batches.append((rng.integers(0, entries, sizes.sum()), sizes))
        write_lines(tmp_path / "ours", iter(batches), entries)
        builder = make_builder(str(tmp_path / "theirs.bin"), impl="mmap", vocab_size=entries)
        for ids, sizes in batches:
            for item in np.split(ids, np.cumsum(sizes)[:-1]):
                builder.add_item(torch.from_numpy(item))
        builder.finalize(str(tmp_path / "theirs.idx"))
        for ending in ("bin", "idx"):
            assert (tmp_path / f"ours.{ending}").read_bytes() == (tmp_path / f"theirs.{ending}").read_bytes()


# subwords


@pytest.fixture(scope="module")
def subwords(tmp_path_factory) -> Prepared:
    folder = tmp_path_factory.mktemp("bpe")
    long = " ".join(["word"] * 5000) + " ﬁ½…\n"  # longer than sentencepiece's usual limit; changed by its usual rules
    settings = ("corpus.vocabulary.kind=bpe", "corpus.vocabulary.size=200")
    corpus = own_texts(folder / "own", *settings, train=TEXTS["train"] + long, test=TEXTS["test"] + "語 語\r\n")
    return prepare(corpus, folder / "data")


def test_subwords_are_those_of_the_model_and_spell_the_words(subwords):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(subwords.path / "spm.model"))
    words = dictionary(subwords)
    assert len(words) == len(processor) == 200
    for split in SPLITS:
        encoded = items(subwords, split)
        for line, item in zip(_read(str(subwords.path / f"text/{split}.txt")), encoded, strict=True):
            assert item == [*processor.encode(" ".join(line.split())), EOS]
            if UNK not in item:
                spelt = "".join(words[index] for index in item[:-1])
                assert spelt.replace("▁", " ").split() == line.split()


def test_subwords_are_counted_beside_words(subwords):
    manifest = subwords.manifest
    assert (manifest["unit"], manifest["vocabulary"]) == ("subword", 198)
    for split in SPLITS:
        text = (subwords.path / f"text/{split}.txt").read_text()
        counts = manifest["splits"][split]
        assert counts["words"] == len(text.split()) + text.count("\n")
        assert counts["tokens"] == sum(map(len, items(subwords, split))) > counts["words"]
    assert manifest["splits"]["train"]["unknown"] == 0
    assert manifest["splits"]["test"]["unknown"] == 2
    assert {path.name for path in subwords.path.iterdir()} == {"text", "spm.model", "spm.vocab", "bin", "manifest.json"}


# what goes wrong


@pytest.mark.parametrize(
    ("overrides", "texts", "message"),
    [
        ([], {"train": "a\n<s> b\n"}, r"my train\.txt, line 2: the word <s> is a symbol of fairseq's"),
        ([], {"test": "a\n\nb </s>"}, r"my test\.txt, line 3: the word </s> is"),
        ([], {"valid": "a <pad> b"}, r"my valid\.txt, line 1: the word <pad> is"),
        ([], {"valid": ""}, "local_lm: there is no line in valid"),
        (["corpus.test=/nowhere/test"], {}, "missing file: corpus.test=/nowhere/test; give the path of a text"),
        (["corpus.vocabulary.kind=word"], {}, "corpus.vocabulary.kind=word: did you mean words"),
        (["corpus.vocabulary.size=0"], {}, "corpus.vocabulary.size=0: expected .* at least 1, the number of .* words"),
        (["corpus.vocabulary.kind=bpe"], {}, "corpus.vocabulary.size=None: expected .* at least 1, such as 16000"),
        (["+corpus.task=translating"], {}, "corpus local_lm: unknown task 'translating'; did you mean translation"),
    ],
)
def test_bad_input_is_one_clear_error_and_leaves_nothing(tmp_path, overrides, texts, message):
    overrides = [each.removeprefix("+") for each in overrides]
    with pytest.raises(UserError, match=message) as failure:
        prepare(own_texts(tmp_path / "own", *overrides, **texts), tmp_path / "data")
    assert "\n" not in str(failure.value)
    left = [path for path in (tmp_path / "data").rglob("*") if not path.name.startswith(".")]
    assert left in ([], [tmp_path / "data/prepared"])


def test_text_that_is_not_utf8_is_named(tmp_path):
    corpus = own_texts(tmp_path / "own")
    Path(corpus.valid).write_bytes("gut\nschön\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"my valid\.txt, line 2: invalid UTF-8"):
        prepare(corpus, tmp_path / "data")


def test_too_large_a_subword_vocabulary_is_named(tmp_path):
    corpus = own_texts(tmp_path / "own", "corpus.vocabulary.kind=bpe", "corpus.vocabulary.size=100000")
    with pytest.raises(UserError, match="no vocabulary of 100000 pieces"):
        prepare(corpus, tmp_path / "data")


def test_missing_setting_is_named(tmp_path):
    with pytest.raises(UserError, match=r"corpus=local_lm needs corpus\.train="):
        foresee(composed("local_lm"), tmp_path)


# identity, and what is known beforehand


def test_what_decides_the_content_names_the_folder(tmp_path):
    first = prepare(own_texts(tmp_path / "one"), tmp_path / "data")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    assert prepare(own_texts(tmp_path / "two"), tmp_path / "data") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == before
    others = [("corpus.vocabulary.size=50",), ("corpus.vocabulary.kind=bpe", "corpus.vocabulary.size=200")]
    folders = {prepare(own_texts(tmp_path / "one", *other), tmp_path / "data").path for other in others}
    changed = prepare(own_texts(tmp_path / "three", valid=TEXTS["test"]), tmp_path / "data")
    assert len({first.path, changed.path} | folders) == 4


@pytest.mark.parametrize("overrides", [(), ("corpus.vocabulary.size=50",), ("corpus.vocabulary.size=5000",)])
@pytest.mark.parametrize("name", ["local_lm", "demo_lm"])
def test_what_is_foreseen_comes_true(tmp_path, name, overrides):
    sizes = "corpus.sizes={train: 30, valid: 2, test: 3}"
    local = name == "local_lm"
    corpus = own_texts(tmp_path / "own", *overrides) if local else composed(name, sizes, *overrides)
    foreseen = foresee(corpus, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    prepared = prepare(corpus, tmp_path / "data")
    assert foresee(corpus, tmp_path / "data") == prepared
    assert foreseen.path == prepared.path
    known = {split: dict(counts) for split, counts in prepared.manifest["splits"].items()}
    for counts in known.values():
        del counts["tokens"], counts["unknown"]
    same = ("corpus", "fingerprint", "task", "unit", "vocabulary")
    assert foreseen.manifest == {key: prepared.manifest[key] for key in same} | {"splits": known}


def test_published_counts_are_known_beforehand(tmp_path):
    manifest = foresee(composed("wikitext103"), tmp_path).manifest
    assert manifest["splits"]["train"] == {"lines": 1_801_350, "words": 103_227_021}
    assert manifest["vocabulary"] == 267_735
    assert foresee(composed("wikitext103", "corpus.vocabulary.size=1000"), tmp_path).manifest["vocabulary"] == 1002
    bpe = composed("wikitext103", "corpus.vocabulary.kind=bpe", "corpus.vocabulary.size=32000")
    assert foresee(bpe, tmp_path).manifest["vocabulary"] == 31_998


def test_the_table(tmp_path):
    console = Console(record=True, width=100)
    prepared = prepare(own_texts(tmp_path / "own"), tmp_path / "data")
    show(prepared, console)
    shown = console.export_text()
    assert f"local_lm, a vocabulary of {prepared.manifest['vocabulary']:,} words" in shown
    for counts in prepared.manifest["splits"].values():
        for number in counts.values():
            assert f" {number:,} " in shown


@pytest.mark.skipif("MEMTRANS_MIRROR" not in os.environ, reason="MEMTRANS_MIRROR names no folder with wikitext-2/")
def test_real_wikitext2(tmp_path):
    mirror = Path(os.environ["MEMTRANS_MIRROR"]) / "wikitext-2"
    if not mirror.is_dir():
        pytest.skip(f"no folder {mirror}")
    prepared = prepare(composed("wikitext2"), tmp_path)
    splits = prepared.manifest["splits"]
    assert [splits[split]["lines"] for split in SPLITS] == [36_718, 3_760, 4_358]
    words = [2_088_628, 217_646, 245_569]
    assert [splits[split]["words"] for split in SPLITS] == [splits[split]["tokens"] for split in SPLITS] == words
    assert [splits[split]["unknown"] for split in SPLITS] == [0, 0, 0]
    assert prepared.manifest["vocabulary"] == 33_278
    assert (prepared.path / "bin/dict.txt").read_text(encoding="utf-8").startswith("the 113161\n, 99913\n. 73388\n")
    start = [word for item in decoded(prepared, "test")[:4] for word in item]
    assert start[:6] == ["</s>", "=", "Robert", "<unk>", "=", "</s>"]
    assert not (tmp_path / "downloads").exists()
