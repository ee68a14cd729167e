"""Pattern scores on maps whose pattern is known, made with noise from fixed seeds."""

from collections import Counter
from itertools import pairwise

from memtrans_fairseq.analysis.patterns import OBLONG, REACH, SQUARE, _groups, scores

import numpy as np
import pytest

FULL = np.ones((12, 12), dtype=bool)


def normalised(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum(axis=-1, keepdims=True)


def groups_of(n: int, rng: np.random.Generator) -> np.ndarray:
    """Contiguous groups of three to five, the last one up to seven, as labels."""
    ends = np.cumsum(rng.integers(3, 6, size=n))
    return np.searchsorted(ends[ends <= n - 3], np.arange(n), side="right")


def ideal(pattern: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """A row-stochastic n x n map with nothing but the pattern."""
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    if pattern == "sharp_diagonal":
        return np.eye(n)
    if pattern == "blurred_diagonal":
        return normalised((distance <= REACH).astype(float))
    if pattern == "vertical_stripe":
        return np.eye(n)[np.full(n, rng.integers(n))]
    if pattern == "horizontal_strip":  # all others copy from somewhere, each from elsewhere
        weights = np.eye(n)[rng.permutation(n)]
        weights[rng.integers(n)] = 1 / n
        return weights
    if pattern == "blocks":
        labels = groups_of(n, rng)
        return normalised((labels[:, np.newaxis] == labels).astype(float))
    return np.full((n, n), 1 / n)


def noisy(pattern: str, n: int, noise: float, rng: np.random.Generator) -> np.ndarray:
    return (1 - noise) * ideal(pattern, n, rng) + noise * rng.dirichlet(np.ones(n), size=n)


def score(weights: np.ndarray, visible: np.ndarray | None = None) -> dict[str, float]:
    found = scores(weights[np.newaxis], np.ones_like(weights, dtype=bool) if visible is None else visible, square=True)
    return {name: float(value[0]) for name, value in found.items()}


@pytest.mark.parametrize("pattern", SQUARE)
def test_the_pattern_itself_scores_one(pattern):
    found = score(ideal(pattern, 12, np.random.default_rng(3)))
    assert found[pattern] == pytest.approx(1)
    assert all(value < 0.9 for name, value in found.items() if name != pattern)


@pytest.mark.parametrize("visible", [FULL, np.tri(12, dtype=bool)], ids=["full", "causal"])
def test_uniform_attention_scores_zero_also_under_a_causal_mask(visible):
    found = score(normalised(visible.astype(float)), visible)
    assert found == pytest.approx(dict.fromkeys(SQUARE, 0.0), abs=1e-12)


@pytest.mark.parametrize("pattern", ["sharp_diagonal", "vertical_stripe"])
def test_scores_of_copying_are_linear_in_the_share_of_the_pattern(pattern):
    whole = ideal(pattern, 12, np.random.default_rng(1))
    half = 0.5 * whole + 0.5 / 12
    assert score(half)[pattern] == pytest.approx(0.5)


def test_known_values():
    """By hand: 4 elements, each with 0.7 on itself and 0.1 on the others."""
    found = score(np.full((4, 4), 0.1) + 0.6 * np.eye(4))
    assert found["sharp_diagonal"] == pytest.approx((0.7 - 0.25) / 0.75)
    assert found["vertical_stripe"] == pytest.approx(0)
    assert found["horizontal_strip"] == pytest.approx(0)
    # groups {0, 1} and {2, 3}: 0.8 within, 0.5 by chance; 7/8 and 1/8 of it are 0.5436 as even as halves
    even = -(7 / 8 * np.log(7 / 8) + 1 / 8 * np.log(1 / 8)) / np.log(2)
    assert found["blocks"] == pytest.approx((0.8 - 0.5) / 0.5 * even)


def test_a_row_with_little_mass_in_the_block_is_no_strip():
    """Two rows spread evenly, but one puts a hundredth of its attention into this block."""
    weights = np.array([[[0.9, 0, 0], [0, 0.9, 0], [0.01 / 3] * 3, [0, 0, 0.9]]])
    assert scores(weights, np.ones((4, 3), bool), square=False)["horizontal_strip"][0] == pytest.approx(0.01 / 0.9)


def test_scores_do_not_depend_on_how_much_of_the_rows_is_in_the_block():
    weights = noisy("blocks", 10, 0.3, np.random.default_rng(5))
    assert score(0.01 * weights) == pytest.approx(score(weights))


def test_oblong_blocks_have_no_diagonal():
    found = scores(np.full((2, 3, 7), 0.1), np.ones((3, 7), bool), square=False)
    assert tuple(found) == OBLONG
    assert all(value.shape == (2,) for value in found.values())


def test_what_has_no_mass_has_no_pattern():
    found = scores(np.zeros((1, 5, 5)), np.ones((5, 5), bool), square=True)
    assert all(np.isnan(value).all() for value in found.values())


def test_the_groups_are_the_best_of_all():
    """Against every way to cut nine positions into groups of two or more."""
    rng = np.random.default_rng(7)
    gain = rng.normal(size=(20, 9, 9))

    def cuts(n: int) -> list[list[int]]:
        if n == 0:
            return [[0]]
        return [[*rest, n] for last in range(2, n + 1) for rest in cuts(n - last)]

    for matrix, labels in zip(gain, _groups(gain), strict=True):
        best = max(sum(matrix[a:b, a:b].sum() for a, b in pairwise(cut)) for cut in cuts(9))
        assert (matrix * (labels[:, np.newaxis] == labels)).sum() == pytest.approx(best)
        assert min(Counter(labels.tolist()).values()) >= 2


def confusion(noise: float, each: int = 40) -> dict[str, Counter]:
    """The pattern with the highest score, or none where all are below 0.15, of maps of 8 to 24 elements."""
    rng, found = np.random.default_rng(11), {}
    for pattern in (*SQUARE, "none"):
        names = Counter[str]()
        for _ in range(each):
            got = score(noisy(pattern, int(rng.integers(8, 25)), noise, rng))
            names[max(got, key=lambda name: got[name]) if max(got.values()) >= 0.15 else "none"] += 1
        found[pattern] = names
    return found


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.4])
def test_known_patterns_are_told_apart(noise):
    matrix = confusion(noise)
    assert matrix == {pattern: {pattern: 40} for pattern in matrix}


def test_with_more_noise_than_pattern_the_strip_is_the_first_to_be_missed():
    matrix = confusion(0.6)
    strip = matrix.pop("horizontal_strip")
    assert matrix == {pattern: {pattern: 40} for pattern in matrix}
    assert strip == {"horizontal_strip": 37, "none": 3}
