"""What a few seeds say."""

import statistics
from typing import NamedTuple

from scipy.special import stdtrit


class Summary(NamedTuple):
    """The mean over seeds, and a 95 % interval of it; None where fewer than three seeds allow none."""

    mean: float
    interval: tuple[float, float] | None
    values: list[float]


def summarize(values: list[float]) -> Summary:
    """Return the mean of at least one value and its Student's t interval.

    The bootstrap would not do: of three values its interval is the least and the greatest, which hold the mean of
    three in four such samples and not of 95 in 100.
    """
    mean, count = statistics.fmean(values), len(values)
    if count < 3:
        return Summary(mean, None, values)
    half = float(stdtrit(count - 1, 0.975)) * statistics.stdev(values) / count**0.5
    return Summary(mean, (mean - half, mean + half), values)
