"""From a trained run to the record of its lesions: BLEU or perplexity of each, and a paired test against none."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from memtrans_fairseq.analysis.lesions import Lesion, Means, gathering_means, lesioned, lesions
from memtrans_fairseq.compat import quiet
from memtrans_fairseq.streaming import token_losses
from memtrans_fairseq.variants import SettingError

import numpy as np
import torch
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from memtrans import evaluation, perplexity
from memtrans.analysis.lesion_record import SCHEMA, LesionRecord, Measured
from memtrans.analysis.run import DRAW_SEED, Opened, check_split, open_run, sentence_batches, stream_of
from memtrans.corpora import read_lines
from memtrans.errors import UserError
from memtrans.progress import say
from memtrans.records import Score

RESAMPLES = 1000  # of the paired bootstrap: sacreBLEU's default
SEED = 12345  # of the same


class Tested(NamedTuple):
    """A lesion's score and its paired test."""

    value: float
    p: float
    low: float | None = None
    high: float | None = None


def compare_translations(
    intact: Sequence[str], others: Sequence[Sequence[str]], references: Sequence[str]
) -> tuple[str, list[Tested]]:
    """sacreBLEU's paired bootstrap of each against `intact`; and the test in words, with its signature.

    Its p has one tail: how often a resampled distance is farther above their mean than the measured one above 0. It
    would call two equal systems significantly different: there, p is 1.
    """
    logging.getLogger("sacrebleu").setLevel(logging.WARNING)  # it tells of every step
    systems = [("intact", intact), *((str(number), other) for number, other in enumerate(others))]
    paired = PairedTest(systems, {"BLEU": BLEU()}, [references], "bs", n_samples=RESAMPLES)
    signatures, scores = paired()
    first, *rest = (found for found in scores["BLEU"] if not isinstance(found, str))
    tested = [Tested(one.score, 1.0 if one.score == first.score else float(one.p_value or 1)) for one in rest]
    return f"sacreBLEU's paired bootstrap, {signatures['BLEU']}", tested


def compare_losses(intact: np.ndarray, others: Sequence[np.ndarray], words: np.ndarray) -> list[Tested]:
    """Paired bootstrap of perplexities over segments, given each segment's loss in nats and its number of words.

    p has two tails, unlike sacreBLEU's: how often a resampled difference is as far from their mean, to either side, as
    the measured one is from 0.
    """
    count = len(intact)
    times = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    resampled_words, base = times @ words, np.exp(intact.sum() / words.sum())
    resampled = np.exp(times @ intact / resampled_words)
    tested = []
    for other in others:
        value = np.exp(other.sum() / words.sum())
        differences = np.exp(times @ other / resampled_words) - resampled
        beyond = np.abs(differences - differences.mean()) >= np.abs(value - base)
        low, high = np.percentile(differences, [2.5, 97.5])
        tested.append(Tested(float(value), float((beyond.sum() + 1) / (RESAMPLES + 1)), float(low), float(high)))
    return tested


class Bench(Protocol):
    """How a kind of model is run and compared."""

    test: str

    def run(self) -> Any:
        """What the model does, as it is now."""

    def read(self) -> None:
        """Let the model read what it is scored on, once."""

    def score(self, intact: Any) -> Score: ...

    def compare(self, intact: Any, others: Sequence[Any]) -> list[Tested]: ...


def analyse(folder: Path, split: str | None, sentences: int, kinds: tuple[Any, ...]) -> LesionRecord:
    """Score a run intact and with every lesion of these kinds, on so many sentences (0: all).

    Raises UserError if it has no memory.
    """
    opened = open_run(folder, in_half=True)  # as it was scored
    if not opened.memory_tokens:
        raise UserError(f"{folder}: this model has no memory to take away; give a run with model.memory_tokens")
    split = split or opened.run.identity["protocol"]["split"]
    check_split(opened, split)
    bench: Any = _Perplexity(opened, split, sentences) if opened.streams else _Bleu(opened, split, sentences)
    if bench.sentences < 2:
        raise UserError(f"{bench.sentences} {opened.unit}: lesions are compared over several; give more sentences")
    say(f"{opened.run.name}: intact")
    intact = bench.run()
    planned = _planned(opened, kinds)
    means = _means(opened, bench) if any(lesion.kind == "frozen" for lesion in planned) else None
    done, left_out = _run_all(opened, bench, planned, means)
    score = bench.score(intact)
    tested = bench.compare(intact, [outcome for _, outcome in done])
    return LesionRecord(
        schema=SCHEMA,
        subject=opened.subject(split, bench.sentences, bench.drawn),
        intact=score,
        test=bench.test,
        lesions=tuple(_measured(lesion, score, found) for (lesion, _), found in zip(done, tested, strict=True)),
        left_out=left_out,
    )


def _planned(opened: Opened, kinds: tuple[Any, ...]) -> list[Lesion]:
    model = opened.run.identity["model"]
    if opened.streams:
        return lesions(opened.memory_tokens, model["decoder_layers"], None, kinds)
    return lesions(opened.memory_tokens, model["encoder_layers"], model.get("decoder_reads", "all"), kinds)


def _means(opened: Opened, bench: Bench) -> Means:
    with quiet(), gathering_means(opened.model) as means:
        bench.read()
    return means


def _run_all(
    opened: Opened, bench: Bench, planned: list[Lesion], means: Means | None
) -> tuple[list[tuple[Lesion, Any]], dict[str, str]]:
    done, left_out = [], {}
    for lesion in planned:
        say(f"{opened.run.name}: {lesion.name}")
        try:
            with lesioned(opened.model, lesion, means):
                done.append((lesion, bench.run()))
        except SettingError as error:
            left_out[lesion.name] = str(error)
    if not done:
        raise UserError(f"{opened.run.name}: no lesion could be made: {'; '.join(left_out.values())}")
    return done, left_out


def _measured(lesion: Lesion, intact: Score, tested: Tested) -> Measured:
    return Measured(**asdict(lesion), **tested._asdict(), difference=tested.value - intact.value)


class _Bleu:
    """Translations of sentences, scored and compared with sacreBLEU."""

    def __init__(self, opened: Opened, split: str, sentences: int) -> None:
        self.opened, self.split = opened, split
        data = opened.task.dataset(split)
        self.chosen = evaluation.draw(len(data), sentences or None, DRAW_SEED)
        self.by_length = sorted(self.chosen, key=data.num_tokens)
        self.sentences = len(self.chosen)
        self.drawn = "all" if self.sentences == len(data) else f"drawn at random, seed {DRAW_SEED}"
        target = opened.run.identity["corpus"]["languages"][1]
        lines = list(read_lines(opened.run.data / "text" / f"{split}.{target}"))
        self.references = [lines[i] for i in self.chosen]
        self.test = ""

    def run(self) -> list[str]:
        opened = self.opened
        batches = sentence_batches(opened, self.split, self.by_length)
        found = evaluation.decode(opened.model, opened.task, batches, opened.run.identity["protocol"])
        return [found[i] for i in self.chosen]

    def read(self) -> None:
        for sample in sentence_batches(self.opened, self.split, self.by_length):
            self.opened.model(**sample["net_input"])

    def score(self, intact: list[str]) -> Score:
        return evaluation.score(intact, self.references, self.split, range(self.sentences))[0]

    def compare(self, intact: list[str], others: Sequence[list[str]]) -> list[Tested]:
        self.test, tested = compare_translations(intact, others, self.references)
        return tested


class _Perplexity:
    """The losses of a text's segments, as the run's protocol scores it segment by segment."""

    def __init__(self, opened: Opened, split: str, sentences: int) -> None:
        self.opened, self.split = opened, split
        self.stream = stream_of(opened, split)
        rows = self.stream.rows
        self.segments = min(len(self.stream), -(-sentences // rows)) if sentences else len(self.stream)
        self.sentences = self.segments * rows
        self.drawn = "all" if self.segments == len(self.stream) else "the first of the text, in its rows"
        self.test = f"paired bootstrap over segments, {RESAMPLES} resamples, seed {SEED}"
        counts = opened.run.manifest()["splits"][split]
        tokens = np.concatenate([self._real(number) for number in range(self.segments)])
        self.words = tokens * (counts["words"] / counts["tokens"])  # of each segment of each row

    def _real(self, number: int) -> np.ndarray:
        return (self.stream[number]["target"] != self.stream.pad).sum(dim=1).numpy()

    @torch.no_grad()
    def run(self) -> np.ndarray:
        """The summed negative log-likelihood of each segment of each row, in nats."""
        model, state, found = self.opened.model, None, []
        device = next(model.parameters()).device
        with quiet():
            for number in range(self.segments):
                sample = self.stream[number]
                words, target = sample["net_input"]["src_tokens"].to(device), sample["target"].to(device)
                losses, state = token_losses(model, words, target, state)
                found.append(losses.double().sum(dim=1).cpu().numpy())
        return np.concatenate(found)

    def read(self) -> None:
        self.run()

    def score(self, intact: np.ndarray) -> Score:
        return Score(
            metric="perplexity",
            value=float(np.exp(intact.sum() / self.words.sum())),
            split=self.split,
            items=round(self.words.sum()),
            unit="word",
            context=perplexity.context("segment", self.opened.run.identity["protocol"]),
        )

    def compare(self, intact: np.ndarray, others: Sequence[np.ndarray]) -> list[Tested]:
        return compare_losses(intact, others, self.words)
