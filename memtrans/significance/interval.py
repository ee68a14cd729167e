"""From the differences of a few seeds, on a sample of sentences, to an interval, a p-value and a plan.

Two things are drawn at random: the seeds that were trained and the sentences of the test set. Sentences are resampled
(bootstrap), the same ones for all seeds, since all are scored on the same set. Seeds are too few for that: resampling
three values gives intervals that cover 82% instead of 95% where seeds differ more than sentences do
(`tests/test_significance.py` measures it). Their part is drawn from Student's t distribution instead, which holds for
any number of seeds from two on. Together: mean difference on resampled sentences + t(n - 1) x s / sqrt(n).

The spread s over seeds holds what the sentences do to each seed on its own, so of the resampled means only the part
that all seeds share is taken: their deviations from their mean are shrunk to its variance. With both, intervals would
cover 98 to 99%.

References: Koehn 2004 (bootstrap over sentences), Owen 2007 (two crossed factors), Hesterberg 2015 (few values),
Holm 1979.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct, t

LEVEL = 0.05  # of all tests: intervals are of 95%
POWER = 0.8  # of the plan: the chance to see a difference that is there
MOST_SEEDS = 1000  # more are as good as impossible
TINY = 1e-9  # points: seeds that agree to the last digit still have a distribution


@dataclass(frozen=True)
class Difference:
    """The difference between two rows by seed, in points of the metric.

    `resampled` is how their mean moves over resampled sentences: equally probable values, empty where the sentences
    were not kept (perplexity). `one` is the standard deviation over sentences of a single seed's difference; without
    it, all of that movement counts as shared.
    """

    by_seed: Mapping[int, float]
    resampled: Sequence[float] = ()
    one: float | None = None

    @property
    def n(self) -> int:
        return len(self.by_seed)

    @property
    def mean(self) -> float:
        return fmean(self.by_seed.values())

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds; None for one seed."""
        return stdev(self.by_seed.values()) if self.n > 1 else None

    @property
    def testable(self) -> bool:
        """Whether anything says how much the difference could move: more than one seed, or sentences."""
        return self.n > 1 or bool(self.resampled)

    @property
    def over(self) -> str:
        """What the interval is over."""
        if self.n > 1:
            return "seeds and sentences" if self.resampled else "seeds"
        return "sentences, one seed" if self.resampled else "nothing"

    @cached_property
    def _centres(self) -> np.ndarray:
        """The mean difference on resampled sentences, as far as they move all seeds alike; of one seed, all of it."""
        centres = np.asarray(self.resampled or [self.mean])
        if self.n == 1 or not (variance := float(np.var(centres))):
            return centres
        return centres.mean() + (centres - centres.mean()) * math.sqrt(self._shared / variance)

    @cached_property
    def _shared(self) -> float:
        """The variance over sentences that all seeds share.

        From Var(one) = own + shared and Var(mean of n) = own / n + shared.
        """
        mean = float(np.var(self.resampled)) if self.resampled else 0.0
        if self.one is None:
            return mean
        return min(max(0.0, (self.n * mean - self.one**2) / (self.n - 1)), mean)

    def below(self, point: float) -> float:
        """The share of the distribution below `point`."""
        if self.n == 1:  # sentences alone
            return (float(np.sum(self._centres < point)) + 0.5) / (len(self._centres) + 1)
        scale = max(self.spread or 0.0, TINY) / math.sqrt(self.n)
        return float(np.mean(t.cdf((point - self._centres) / scale, self.n - 1)))

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """The two-sided interval of 1 - level; None if nothing says how wide."""
        if not self.testable:
            return None
        if self.n == 1:
            low, high = np.quantile(self._centres, [level / 2, 1 - level / 2])
            return float(low), float(high)
        reach = t.ppf(1 - level / 4, self.n - 1) * max(self.spread or 0.0, TINY) / math.sqrt(self.n)
        ends = float(min(self._centres) - reach), float(max(self._centres) + reach)
        low, high = (brentq(lambda x, p=p: self.below(x) - p, *ends, xtol=1e-9) for p in (level / 2, 1 - level / 2))
        return low, high

    def p_value(self, point: float = 0.0) -> float | None:
        """Two-sided: how surprising the data would be if the true difference were `point`."""
        if not self.testable:
            return None
        below = self.below(point)
        return min(1.0, 2 * min(below, 1 - below))

    def seeds_for(self, effect: float, level: float) -> float | None:
        """How many seeds see a true difference of `effect` at `level` in 80% of cases; infinity if not even 1,000 do.

        With the spread over seeds and sentences found here, taken as known; None where there is none. More seeds
        average out what seeds, and seeds on given sentences, do; what the sentences do to all seeds alike stays, and
        only a larger test set could lessen it.
        """
        if self.n < 2:
            return None
        seeds = max(self.spread or 0.0, TINY) ** 2

        def power(n: int) -> float:
            strength = abs(effect) / math.sqrt(seeds / n + self._shared)
            return float(nct.sf(t.ppf(1 - level / 2, n - 1), n - 1, strength))

        if power(MOST_SEEDS) < POWER:
            return math.inf
        low, high = 1, MOST_SEEDS  # power grows with n: halve
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if power(middle) >= POWER else (middle, high)
        return high


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: the chance of one false finding among all stays below the level."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted
