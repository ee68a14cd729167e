"""The one place where numbers of several seeds become one."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation (None for a single value) and number of values."""

    mean: float
    spread: float | None
    n: int


def summarise(by_seed: Mapping[int, float], baseline: Mapping[int, float] | None = None) -> Summary | None:
    """Mean and sample standard deviation (n - 1) over seeds; None if there is nothing to average.

    With a `baseline`, of the differences to it, seed by seed, over the seeds that both have.
    """
    if baseline is None:
        values = list(by_seed.values())
    else:
        values = [value - baseline[seed] for seed, value in by_seed.items() if seed in baseline]
    if not values:
        return None
    return Summary(fmean(values), stdev(values) if len(values) > 1 else None, len(values))
