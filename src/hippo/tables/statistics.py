"""What a few seeds say."""

import statistics
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap


class Summary(NamedTuple):
    """The mean over seeds, and a 95 % interval of it; None where fewer than three seeds allow none."""

    mean: float
    interval: tuple[float, float] | None
    values: list[float]


def summarize(values: list[float]) -> Summary:
    """Return the mean of at least one value and its percentile-bootstrap interval (10,000 resamples)."""
    interval = None
    if len(values) >= 3:
        draws = bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(0))
        interval = (float(draws.confidence_interval.low), float(draws.confidence_interval.high))
    return Summary(statistics.fmean(values), interval, values)
