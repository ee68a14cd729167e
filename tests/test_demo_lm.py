"""The demo corpus of language models: the same everywhere, and exact about what memory is worth."""

import hashlib
import math
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
from corpora_toys import composed

from memtrans.corpora.demo_lm import (
    BODY,
    CHATTER,
    CLOSING,
    FACTS,
    LENGTHS,
    OPENING,
    OPTIONS,
    Document,
    generate,
    perplexity,
    recalled,
)
from memtrans.errors import UserError

CONFIG = composed("demo_lm")
SIZES = dict(CONFIG.sizes)
WINDOWS = (None, 256, 128, 64, 32, 16, 0)
KIND = {word: kind for kind in FACTS for word in OPTIONS[kind]}


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[Document]]:
    return generate(CONFIG.seed, SIZES)


@pytest.fixture(scope="module")
def documents(corpus) -> list[Document]:
    return [document for split in corpus.values() for document in split]


def words(document: Document) -> list[str]:
    return [word for line in document.lines for word in (*line.split(), "\n")]


def digest(corpus: dict[str, list[Document]]) -> str:
    text = "\n".join(line for split in corpus.values() for document in split for line in document.lines)
    return hashlib.sha256(text.encode()).hexdigest()


# the corpus itself


def test_sizes(corpus):
    assert {split: len(documents) for split, documents in corpus.items()} == SIZES
    assert sum(document.words for document in corpus["train"]) == pytest.approx(120_000, rel=0.02)
    for split in ("valid", "test"):
        assert sum(document.words for document in corpus[split]) == pytest.approx(8_000, rel=0.05)


def test_documents_differ_and_are_of_a_few_hundred_words(documents):
    assert len({document.lines for document in documents}) == len(documents)
    lengths = [document.words for document in documents]
    assert 150 < min(lengths) < 200 < sum(lengths) / len(lengths) < 250 < max(lengths) < 300
    assert all(document.words == len(words(document)) for document in documents)


def test_a_small_vocabulary_all_of_it_in_train(corpus):
    known = {word for document in corpus["train"] for word in words(document)}
    assert len(known) < 300
    assert known >= {word for split in ("valid", "test") for document in corpus[split] for word in words(document)}


def test_the_same_arguments_give_the_same_documents_and_another_seed_others():
    assert generate(7, {"train": 5, "test": 2}) == generate(7, {"train": 5, "test": 2})
    assert generate(7, {"train": 5}) != generate(8, {"train": 5})


@pytest.mark.parametrize("hash_seed", ["1", "4242"])
def test_a_fresh_process_gives_the_same_documents(hash_seed):
    code = (
        "import sys; sys.path.insert(0, 'tests'); from test_demo_lm import digest, generate;"
        "print(digest(generate(3, {'train': 50})))"
    )
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    command, here = [sys.executable, "-c", code], Path(__file__).parents[1]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest(generate(3, {"train": 50}))


def test_every_python_version_gives_these_documents():
    """A change here is a change of the corpus: numbers from before it cannot be compared with those after."""
    assert digest(generate(1, {"train": 20})) == "5eb1afb5225974795f7456c07527df830c757f6720062a8dd6259f823f1503b5"


@pytest.mark.parametrize("sizes", [{"train": 0}, {"train": 5, "test": -1}])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(UserError, match="demo corpus sizes") as refusal:
        generate(1, sizes)
    assert "\n" not in str(refusal.value)


# its probabilities, read from the text alone


def cost(line: str, patterns: tuple[str, ...]) -> tuple[int, float]:
    """Which pattern a line is of, and the nats that its chatter costs. There must be one reading only."""
    readings = []
    for number, pattern in enumerate(patterns):
        expression = re.sub("[A-Z]+", lambda kind: f"({'|'.join(OPTIONS[kind[0]])})", re.escape(pattern))
        if re.fullmatch(expression, line):
            chatter = [kind for kind in re.findall("[A-Z]+", pattern) if kind in CHATTER]
            readings.append((number, sum(math.log(len(OPTIONS[kind])) for kind in chatter)))
    assert len(readings) == 1, line
    return readings[0]


def test_every_option_belongs_to_one_kind_and_is_no_other_word():
    options = list(chain.from_iterable(OPTIONS.values()))
    fixed = {word for pattern in (*OPENING, *BODY, *CLOSING) for word in pattern.split() if word not in OPTIONS}
    assert len(set(options)) == len(options)
    assert fixed.isdisjoint(options)
    assert {len(OPTIONS[kind]) for kind in FACTS} == {16}


def test_the_opening_says_every_fact_once_and_every_fact_comes_again():
    assert sorted(re.findall("[A-Z]+", " ".join(OPENING))) == sorted(FACTS)
    assert min(Counter(re.findall("[A-Z]+", " ".join(BODY)))[kind] for kind in FACTS) >= 3


def test_a_document_s_cost_is_minus_its_log_probability(documents):
    for document in documents[:100]:
        body = document.lines[len(OPENING) : -len(CLOSING)]
        nats = len(FACTS) * math.log(16) + math.log(len(LENGTHS))
        nats += sum(math.log(len(BODY)) + cost(line, BODY)[1] for line in body)
        assert document.nats == pytest.approx(nats)
        for line, pattern in zip(document.lines, (*OPENING, *[""] * len(body), *CLOSING), strict=True):
            assert line in body or cost(line, (pattern,)) == (0, 0.0)


def test_a_fact_never_changes_and_its_recalls_are_those_of_the_text(documents):
    for document in documents:
        text, recalls = words(document), []
        assert max(Counter(KIND[word] for word in set(text) & KIND.keys()).values()) == 1
        for place, word in enumerate(text):
            if word in KIND and word in text[:place]:
                recalls.append((place - max(i for i in range(place) if text[i] == word), 16))
        assert document.recalls == tuple(recalls)


def test_facts_are_drawn_evenly(documents):
    counts = Counter(word for document in documents for word in set(words(document)) & KIND.keys())
    assert set(counts) == set(KIND)
    for kind in FACTS:  # chi-square of 15 degrees of freedom: above 44 once in 10,000
        each = len(documents) / 16
        assert sum((counts[word] - each) ** 2 / each for word in OPTIONS[kind]) < 44


def test_what_is_near_does_not_tell_a_fact(corpus):
    """Counts of a fact beside the fact before it, of another kind, predict it no better than 1 of 16."""

    def pairs(documents):
        for document in documents:
            text = [word for word in words(document) if word in KIND]
            yield from ((before, word) for before, word in zip(text, text[1:], strict=False) if word != before)

    counts: dict[tuple[str, str], Counter[str]] = {}
    for before, word in pairs(corpus["train"]):
        counts.setdefault((before, KIND[word]), Counter())[word] += 1
    nats = []
    for before, word in pairs(corpus["test"]):
        seen = counts.get((before, KIND[word]), Counter())
        nats.append(-math.log((seen[word] + 10) / (seen.total() + 160)))
    assert sum(nats) / len(nats) > math.log(16) - 0.02


# what memory is worth


def test_the_bound_by_hand():
    document = Document(lines=("a b c", "a"), nats=3.0, recalls=((4, 16),))
    assert document.words == 6
    assert perplexity([document]) == perplexity([document], 4) == pytest.approx(math.exp(3 / 6))
    assert perplexity([document], 3) == pytest.approx(math.exp((3 + math.log(16)) / 6))
    assert perplexity([document, document], 0) == perplexity([document], 0)
    assert recalled([document]) == recalled([document], 3) == pytest.approx(1 / 6)
    assert recalled([document], 4) == 0


def test_a_longer_window_is_worth_more(corpus):
    for documents in corpus.values():
        bounds = [perplexity(documents, window) for window in WINDOWS]
        assert bounds == sorted(bounds)


def test_the_numbers_of_the_readme(corpus):
    readme = (Path(__file__).parents[1] / "data/README.md").read_text()
    for split in ("valid", "test"):
        numbers = [f"{perplexity(corpus[split], window):.2f}" for window in WINDOWS]
        assert f"| {split} | {' | '.join(numbers)} |" in readme
    share, far = recalled(corpus["test"]), recalled(corpus["test"], 32)
    assert f"{share:.1%} of the test set's words repeat one, {far:.1%} last said more" in " ".join(readme.split())
