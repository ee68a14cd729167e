"""Comparing translations sentence by sentence with sacreBLEU: paired tests of each seed, a bootstrap of their mean."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

SAMPLES = 2000  # of each bootstrap
TRIALS = 10_000  # of approximate randomisation: sacreBLEU's default
SEED = 12345  # sacreBLEU's default
KEPT = 200  # equally probable values that stand for a bootstrap distribution


class Tested(NamedTuple):
    """Two systems, sentence by sentence: scores, p-values, and sacreBLEU's signatures of how they were found."""

    difference: float
    bootstrap_p: float
    randomisation_p: float
    signatures: tuple[str, str]


def paired_tests(system: Sequence[str], baseline: Sequence[str], references: Sequence[str]) -> Tested:
    """sacreBLEU's paired bootstrap and approximate randomisation of `system` against `baseline`."""
    logging.getLogger("sacrebleu").setLevel(logging.WARNING)  # it tells of every step
    found: dict[str, Any] = {}
    signatures = {}
    for kind, samples in (("bs", SAMPLES), ("ar", TRIALS)):
        test = PairedTest(
            [("baseline", baseline), ("system", system)], {"BLEU": BLEU()}, [references], kind, n_samples=samples
        )
        signature, scores = test()
        signatures[kind], found[kind] = str(signature["BLEU"]), scores["BLEU"]
    base, own = found["bs"]
    return Tested(own.score - base.score, own.p_value, found["ar"][1].p_value, (signatures["bs"], signatures["ar"]))


def statistics(system: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """What BLEU is a function of, per sentence: sentences x (system length, reference length, 4 matches, 4 totals)."""
    return np.array(BLEU()._extract_corpus_statistics(system, [references]), dtype=np.float64)


def bleu(sums: np.ndarray) -> np.ndarray:
    """BLEU of summed statistics, ... x 10. Equal to sacreBLEU's where every order of n-grams matched at all."""
    lengths, matches, totals = sums[..., :2], sums[..., 2:6], sums[..., 6:10]
    with np.errstate(divide="ignore"):
        precision = np.log(matches / totals).mean(-1)
    return 100 * np.exp(precision + np.minimum(0, 1 - lengths[..., 1] / lengths[..., 0]))


def resample(systems: Sequence[np.ndarray], baselines: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    """Bootstrap over sentences, the same for all seeds. Each argument: the `statistics` of a row, one array per seed.

    Returns the mean difference on resampled sentences as KEPT equally probable values, and the standard deviation over
    sentences of a single seed's difference (root mean square over seeds).
    """
    sentences = len(systems[0])
    draws = np.random.default_rng(SEED).multinomial(sentences, np.full(sentences, 1 / sentences), size=SAMPLES)
    pairs = zip(systems, baselines, strict=True)
    differences = np.stack([bleu(draws @ one) - bleu(draws @ other) for one, other in pairs])
    probabilities = (np.arange(KEPT) + 0.5) / KEPT
    return np.quantile(differences.mean(0), probabilities), float(np.sqrt(differences.var(1).mean()))
