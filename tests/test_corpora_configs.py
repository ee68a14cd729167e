"""Every file of configs/corpus: it composes, every line says what it means, and what it names exists in it."""

import re

import pytest
from corpora_toys import CONFIGS, composed
from omegaconf import OmegaConf

from memtrans.corpora.clean import Rules
from memtrans.corpora.prepare import task_of
from memtrans.corpora.sources import KINDS

NAMES = sorted(path.stem for path in (CONFIGS / "corpus").glob("*.yaml"))


@pytest.fixture(params=NAMES)
def corpus(request):
    return composed(request.param)


def test_the_promised_corpora_are_there():
    assert {"wmt14_deen", "multi30k", "local", "demo"} <= set(NAMES)
    assert {"wikitext103", "wikitext2", "local_lm", "demo_lm"} <= set(NAMES)


def test_common_keys(corpus):
    assert corpus.kind in KINDS
    assert corpus.extra_splits is not None
    if corpus.get("task") == "language_modeling":
        assert corpus.vocabulary.kind == "words"
        assert corpus.vocabulary.size is None
        assert corpus.vocabulary.sample == 500_000
        assert "clean" not in corpus
    else:
        assert "task" not in corpus
        assert corpus.vocabulary.size % 8 == 0
        assert corpus.vocabulary.sample >= 1_000_000
        assert Rules(**corpus.clean).max_ratio > 1


@pytest.mark.parametrize("name", NAMES)
def test_every_line_is_commented(name):
    text = (CONFIGS / "corpus" / f"{name}.yaml").read_text()
    assert [line for line in text.splitlines() if line.strip() and "# " not in line] == []


@pytest.mark.parametrize("name", [name for name in NAMES if composed(name).kind == "published"])
def test_published_files(name):
    corpus = composed(name)
    named = {
        location.partition("!")[0]
        for split in corpus.splits.values()
        for part in split.parts
        for alternative in part
        for location in alternative.values()
    }
    assert named == set(corpus.files)
    for file, spec in corpus.files.items():
        assert re.fullmatch("[0-9a-f]{64}", spec.sha256)
        assert spec.bytes > 1000
        assert spec.urls
        assert all(url.startswith("http") and url.endswith(f"/{file}") for url in spec.urls)
    assert len({spec.sha256 for spec in corpus.files.values()}) == len(corpus.files)
    for split in corpus.splits.values():
        sides = {frozenset(alternative) for part in split.parts for alternative in part}
        assert sides == {frozenset(task_of(corpus).sides)}


def test_wmt_counts_and_second_sources():
    corpus = composed("wmt14_deen")
    assert [corpus.splits[split].pairs for split in ("train", "valid", "test")] == [4_508_785, 3_000, 3_003]
    assert all(len(part) >= 2 for split in corpus.splits.values() for part in split.parts)


def test_wikitext_counts():
    """As published: words with one end-of-line a line, and a vocabulary that holds <unk> and the end-of-line too."""
    for name, train, vocabulary in (("wikitext2", 2_088_628, 33_278), ("wikitext103", 103_227_021, 267_735)):
        corpus = composed(name)
        assert [corpus.splits[split].words for split in ("train", "valid", "test")] == [train, 217_646, 245_569]
        assert corpus.splits.train.types + 2 == vocabulary


@pytest.mark.parametrize(("name", "languages"), [("local", ("source_lang", "target_lang")), ("local_lm", ())])
def test_local_asks_for_its_files(name, languages):
    keys = (*languages, "train", "valid", "test")
    assert set(OmegaConf.missing_keys(composed(name))) == {f"corpus.{key}" for key in keys}
