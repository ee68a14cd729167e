"""The vocabulary: deterministic, with fairseq's ids, free of whitespace inside pieces, and clear when it cannot be."""

import random
from functools import partial

import numpy as np
import pytest
import sentencepiece
from corpora_toys import sentences, tree, write_parallel

import memtrans_fairseq  # noqa: F401  # isort: skip  # makes fairseq importable
from fairseq.data import Dictionary

from memtrans.corpora import binarise as module
from memtrans.corpora.binarise import PieceEncoder, binarise, count_tokens
from memtrans.corpora.vocabulary import train_vocabulary
from memtrans.errors import UserError

# what str.split() and text files take for whitespace or line ends, control characters aside (cleaning drops those)
SPACES = "\u00a0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000\t"
MARKUP = "<s> </s> <pad> < / > p"
PAIRS = [(f"{de} x{space}y {MARKUP}", en) for space in SPACES for de, en in sentences(30, seed=5)]


def train(folder, size=300, sample=10_000, pairs=PAIRS):
    folder.mkdir(exist_ok=True)
    write_parallel(folder / "train", pairs)
    texts = [folder / "train.de", folder / "train.en"]
    train_vocabulary(texts, len(pairs), size, sample, folder / "spm.model")
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    processor = train(folder)
    (folder / "bin").mkdir()
    binarise(folder, folder / "spm.model", ("de", "en"), ["train"], folder / "bin", workers=2)
    return folder, processor


def test_same_text_gives_the_same_bytes_wherever_it_lies(tmp_path):
    train(tmp_path / "a")
    train(tmp_path / "b")
    for name in ("spm.model", "spm.vocab"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_ids_are_what_fairseq_reads_from_dictionary_and_pieces(prepared):
    folder, processor = prepared
    dictionary = Dictionary.load(str(folder / "bin/dict.de.txt"))
    assert len(dictionary) == len(processor) == 300
    for german, _ in PAIRS:
        pieces = " ".join(processor.encode(german, out_type=str))
        ids = dictionary.encode_line(pieces, add_if_not_exist=False, append_eos=False)
        assert ids.tolist() == processor.encode(german)


def test_no_piece_holds_whitespace(prepared):
    _, processor = prepared
    pieces = [processor.id_to_piece(index) for index in range(len(processor))]
    assert [piece for piece in pieces if piece.split() != [piece]] == []
    assert len(set(pieces)) == len(pieces)


def test_markup_in_the_text_is_only_text(prepared):
    _, processor = prepared
    assert not {processor.bos_id(), processor.eos_id(), processor.pad_id()} & set(processor.encode("<s> </s> <pad>"))


def test_all_characters_are_covered(prepared):
    _, processor = prepared
    assert processor.unk_id() not in [index for pair in PAIRS for side in pair for index in processor.encode(side)]


def test_binarised_data_holds_every_sentence_and_its_end(prepared):
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    folder, processor = prepared
    for side, language in enumerate(("de", "en")):
        dataset = MMapIndexedDataset(str(folder / f"bin/train.de-en.{language}"))
        assert [item.tolist() for item in dataset] == [[*processor.encode(pair[side]), 2] for pair in PAIRS]
        assert count_tokens(folder / f"bin/train.de-en.{language}", 300) == sum(len(item) for item in dataset)


@pytest.mark.parametrize("remembered", [3, 50, 1 << 18])
def test_text_encoded_by_words_is_that_encoded_by_lines(prepared, monkeypatch, remembered):
    folder, processor = prepared
    monkeypatch.setattr(module, "WORDS", remembered)
    encode = PieceEncoder(folder / "spm.model")
    rng = random.Random(2)
    odd = [*SPACES, *"aeiß ▁½ﬁ中e\u0301\u0308\u200b\x85\x00\x1c", *MARKUP, *"      "]
    lines = [
        "",
        " ",
        "  two  spaces ",
        *(de for de, _ in PAIRS),
        *("".join(rng.choices(odd, k=20)) for _ in range(2000)),
    ]
    for part in (lines, lines[5:50], lines):
        ids, sizes = encode("\n".join([*part, ""]).encode())
        assert [item.tolist() for item in np.split(ids, np.cumsum(sizes)[:-1])] == [
            [*processor.encode(line), processor.eos_id()] for line in part
        ]


def test_several_processes_write_the_same_files(prepared, tmp_path, monkeypatch):
    folder, _ = prepared
    monkeypatch.setattr(module, "WORTH_IT", 1)
    monkeypatch.setattr(module, "read_blocks", partial(module.read_blocks, size=500))
    binarise(folder, folder / "spm.model", ("de", "en"), ["train"], tmp_path, workers=3)
    assert tree(tmp_path) == tree(folder / "bin")


def test_a_sample_is_spread_over_both_languages(tmp_path):
    pairs = [("a b c d e f", "u v w x y z")] * 50 + [("ä ö", "ü ß")] * 50
    processor = train(tmp_path, size=22, sample=8, pairs=pairs)
    assert processor.unk_id() not in processor.encode("a ä", add_bos=False) + processor.encode("z ß")


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_impossible_size(tmp_path, size):
    with pytest.raises(UserError, match=rf"no vocabulary of {size} pieces.*corpus\.vocabulary\.size") as failure:
        train(tmp_path, size=size)
    assert "\n" not in str(failure.value)
