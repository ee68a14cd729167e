"""The paired tests of lesions: what they must say of equal, of different and of merely noisy models."""

import random

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from memtrans.analysis.lesions import RESAMPLES, compare_losses, compare_translations


def losses(segments: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    words = rng.integers(10, 33, size=segments).astype(float)
    return words * rng.gamma(8.0, 0.4, size=segments), words


def test_a_model_is_not_different_from_itself():
    intact, words = losses()
    (same,) = compare_losses(intact, [intact.copy()], words)
    assert (same.value, same.p, same.low, same.high) == (np.exp(intact.sum() / words.sum()), 1, 0, 0)


def test_a_difference_in_every_segment_is_found_and_held_by_its_interval():
    intact, words = losses()
    (worse,) = compare_losses(intact, [intact + 0.05 * words], words)
    difference = worse.value - np.exp(intact.sum() / words.sum())
    assert worse.value == pytest.approx(np.exp(intact.sum() / words.sum() + 0.05))
    assert worse.p == 1 / (RESAMPLES + 1)
    assert worse.low is not None
    assert worse.high is not None
    assert 0 < worse.low < difference < worse.high


def test_noise_is_called_a_difference_as_seldom_as_the_test_says():
    intact, words = losses()
    rng = np.random.default_rng(3)
    noise = [intact + words * rng.normal(0, 0.2, size=len(intact)) for _ in range(400)]
    found = sum(tested.p < 0.05 for tested in compare_losses(intact, noise, words))
    assert 0.02 < found / 400 < 0.09


def test_translations_are_compared_by_sacrebleu():
    rng = random.Random(4)
    words = ["ein", "Haus", "am", "See", "steht", "nicht", "weit", "vom", "alten", "Wald"]
    references = [" ".join(rng.choices(words, k=9)) for _ in range(80)]
    intact = [line.replace("See", "Meer") for line in references]
    worse = [" ".join(word for word in line.split() if rng.random() < 0.8) for line in intact]
    test, (same, lesioned) = compare_translations(intact, [list(intact), worse], references)
    assert same == (pytest.approx(BLEU().corpus_score(intact, [references]).score), 1.0, None, None)
    assert lesioned.value == pytest.approx(BLEU().corpus_score(worse, [references]).score)
    assert lesioned.p == pytest.approx(1 / (RESAMPLES + 1))
    assert test.startswith("sacreBLEU's paired bootstrap, nrefs:1|bs:1000|seed:12345|")
