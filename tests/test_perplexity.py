"""Perplexity: every token is scored once, with the context that each way promises, and per corpus word."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import memtrans_fairseq  # noqa: F401  (must come before fairseq)

import numpy as np
import pytest
import torch
from toy import DICTIONARY, EOS, PAD

from memtrans import perplexity
from memtrans.errors import UserError
from memtrans.jobs import language_modeling
from memtrans.perplexity import Counted, context, measure, sliding_windows
from memtrans.runs import Run

WAYS = ("segment", "xl_eval", "sliding")


def lengths(rows: int = 3, target: int = 7, window: int = 8, stride: int = 3) -> dict[str, Any]:
    cache = {"target": 4, "memory": 20, "clamp": 10}
    sliding = {"window": window, "stride": stride}
    return {"rows": rows, "segment": {"target": target}, "xl_eval": cache, "sliding": sliding}


def stream(tokens: int) -> np.ndarray:
    return np.random.default_rng(tokens).integers(4, len(DICTIONARY), tokens).astype(np.uint16)


class Clock(torch.nn.Module):
    """A token after c others, in its row and since its model's state began, costs `cost[c]`; c may grow without end."""

    streams = True

    def __init__(self, cost: Any = lambda seen: 1 / (1 + seen)) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.cost, self.asked = cost, None

    def forward(self, src_tokens: torch.Tensor, state: int | None = None) -> tuple[torch.Tensor, dict[str, Any]]:
        seen = (state or 0) + torch.arange(src_tokens.size(1)).expand_as(src_tokens)
        return seen, {"state": (state or 0) + src_tokens.size(1)}

    def places(self, target: torch.Tensor) -> None:
        pass

    def nll(self, seen: torch.Tensor, target: torch.Tensor, places: None) -> torch.Tensor:
        return torch.where(target == PAD, 0.0, self.cost(seen.float()))

    def set_context(self, **asked: Any) -> None:
        self.asked = asked


def one(seen: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(seen)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 26, 64, 65, 1000])
def test_every_token_is_scored_once(way, tokens):
    for rows, target, window, stride in ((1, 1, 1, 1), (1, 5, 6, 6), (3, 7, 8, 3), (10, 150, 150, 32)):
        protocol = lengths(min(rows, tokens), target, window, stride)
        found = measure(Clock(one), stream(tokens), way, protocol, EOS, PAD)
        assert found == Counted(nll=tokens, tokens=tokens)
        assert found.perplexity(tokens) == pytest.approx(math.e)


def test_segments_carry_the_state_of_their_row():
    """26 tokens in 3 rows are 9, 9 and 8; in each the context grows from one segment to the next."""
    found = measure(Clock(), stream(26), "segment", lengths(rows=3, target=4), EOS, PAD)
    assert found.nll == pytest.approx(sum(1 / (1 + seen) for row in (9, 9, 8) for seen in range(row)))


@pytest.mark.parametrize(("window", "stride"), [(8, 1), (8, 3), (8, 8), (5, 2), (150, 32)])
def test_a_sliding_window_gives_the_context_it_promises(window, stride):
    """By hand: the first window counts whole, each next one its last tokens; nothing is carried."""
    tokens, contexts = 100, []
    while len(contexts) < tokens:
        end = min(max(window, len(contexts) + stride), tokens)
        contexts += [place - max(end - window, 0) for place in range(len(contexts), end)]
    assert min(contexts[window:], default=window) >= window - stride
    found = measure(Clock(), stream(tokens), "sliding", lengths(window=window, stride=stride), EOS, PAD)
    assert found.nll == pytest.approx(sum(1 / (1 + seen) for seen in contexts))


def test_windows_hold_the_text_shifted_by_one():
    text = stream(300)
    scored = []
    for inputs, targets in sliding_windows(text, 10, 4, EOS, PAD):
        for given, wanted in zip(inputs.tolist(), targets.tolist(), strict=True):
            start = next(i for i in range(len(text)) if given[1:] == text[i : i + 9].tolist())
            assert given[0] == (text[start - 1] if start else EOS)
            real = [token for token in wanted if token != PAD]
            assert wanted[10 - len(real) :] == real == text[start + 10 - len(real) : start + 10].tolist()
            scored += real
    assert scored == text.tolist()


def test_a_long_cache_is_asked_of_a_copy():
    model = Clock(lambda seen: torch.full_like(seen, 2.0))
    seen: list[dict] = []
    model.set_context = lambda **asked: seen.append(asked)  # type: ignore[method-assign]
    measure(model, stream(50), "xl_eval", lengths(), EOS, PAD)
    assert seen == [{"mem_len": 20, "clamp_len": 10, "same_length": True}]
    model = Clock()
    measure(model, stream(50), "xl_eval", lengths(), EOS, PAD)
    assert model.asked is None, "the model itself is left as it was"


def test_sums_do_not_lose_digits():
    """In float32, a million of 0.1 are 0.1% off."""
    found = measure(
        Clock(lambda seen: torch.full_like(seen, 0.1)), stream(1_000_000), "segment", lengths(target=5000), EOS, PAD
    )
    assert found.nll == pytest.approx(1e6 * float(torch.tensor(0.1)), rel=1e-9)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_model_that_diverged_is_one_line(loss):
    with pytest.raises(UserError, match="training has diverged; lower train.lr"):
        measure(Clock(lambda seen: torch.full_like(seen, loss)), stream(20), "segment", lengths(), EOS, PAD)


def test_contexts_in_words():
    found = [context(way, lengths(rows=10, target=150, window=150, stride=32)) for way in WAYS]
    assert found == [
        "segment: target 150, memory as trained, 10 rows",
        "xl_eval: target 4, memory 20, clamp 10, same length, 10 rows",
        "sliding: window 150, stride 32",
    ]
    assert context("segment", lengths(rows=1)).endswith(", 1 row")


# scores of a split


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run on a corpus of 120 subwords, which are 100 words; its folder is there."""
    manifest = {"corpus": "toy", "splits": {"test": {"tokens": 120, "words": 100}}}
    (tmp_path / "data").mkdir()
    (tmp_path / "data/manifest.json").write_text(json.dumps(manifest))
    identity = {"corpus": {"name": "toy", "task": "language_modeling"}, "model": {"mem_len": 4}, "seed": 1}
    run = Run(identity, "A row", tmp_path / "data", tmp_path / "runs", tmp_path, {})
    run.folder.mkdir(parents=True)
    monkeypatch.setattr("memtrans_fairseq.streaming.read_stream", lambda prefix: stream(120))
    return run


TASK = SimpleNamespace(target_dictionary=DICTIONARY)


def scores(run: Run, model: Any, ways: tuple[str, ...] = WAYS, kept: bool = True) -> list:
    protocol = lengths() | {"perplexity": list(ways)}
    return language_modeling.score_split(run, model, TASK, "test", protocol, run.folder if kept else None)


def test_perplexity_is_per_word_whatever_the_vocabulary(run, capfd):
    first, *others = scores(run, Clock(one))
    assert first.value == pytest.approx(math.exp(120 / 100))
    assert (first.metric, first.split, first.items, first.unit) == ("perplexity", "test", 100, "word")
    assert [score.context.partition(":")[0] for score in (first, *others)] == list(WAYS)
    assert capfd.readouterr().err.splitlines() == [f"scoring test, {way}" for way in WAYS]


def test_what_is_scored_is_not_scored_again(run, capfd, monkeypatch):
    first = scores(run, Clock(), ("segment",))
    capfd.readouterr()
    again = scores(run, Clock())
    assert again[:1] == first
    assert capfd.readouterr().err.splitlines() == ["scoring test, xl_eval", "scoring test, sliding"]
    monkeypatch.setattr(perplexity, "measure", None)  # all is there
    assert scores(run, None) == again


def test_scoring_once_more_keeps_nothing(run):
    assert scores(run, Clock(), kept=False) == scores(run, Clock(), kept=False)
    assert list(run.folder.iterdir()) == []


def test_a_model_without_cache_has_no_long_one(run, capfd):
    run.identity["model"] = {"mem_len": 0}
    assert [score.context.partition(":")[0] for score in scores(run, Clock())] == ["segment", "sliding"]
    assert (
        "test is not scored by xl_eval: it lengthens a model's cache, and this one has none" in capfd.readouterr().err
    )


def test_a_corpus_that_changed_is_noticed(run, monkeypatch):
    monkeypatch.setattr("memtrans_fairseq.streaming.read_stream", lambda prefix: stream(119))
    with pytest.raises(UserError, match="test, segment: 119 tokens were scored, but the corpus has 120"):
        scores(run, Clock())
    assert list(run.folder.iterdir()) == []
