"""Means, deviations and intervals over seeds."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass
class Difference:
    """The mean of a minus the mean of b, with the ends of its 95 % interval (NaN without enough seeds)."""

    mean: float
    low: float
    high: float
    paired: bool

    @property
    def is_tie(self) -> bool:
        return self.low <= 0 <= self.high

    def __str__(self) -> str:
        mean = f"{round(self.mean, 2) + 0.0:+.2f}"  # + 0.0: no -0.00
        if math.isnan(self.low):
            return f"{mean} (no interval: one seed)"
        half = f"{mean} ± {(self.high - self.low) / 2:.2f}"
        return half + (" (tie)" if self.is_tie else "") + ("" if self.paired else " (unpaired)")


def mean_and_std(values) -> tuple[float, float]:
    """Mean and sample standard deviation (n − 1); the latter is NaN for a single value."""
    values = np.asarray(list(values), dtype=float)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.nan


def difference(a: dict[int, float], b: dict[int, float]) -> Difference:
    """a − b with a 95 % interval of Student's t: over the seeds that both have, else Welch's.

    Parameters
    ----------
    a, b : dict of int to float
        A value for each seed.
    """
    seeds = sorted(a.keys() & b.keys())
    if len(seeds) > 1:
        d = np.array([a[seed] - b[seed] for seed in seeds])
        half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / math.sqrt(len(d))
        return Difference(float(d.mean()), float(d.mean() - half), float(d.mean() + half), True)
    x, y = np.array(list(a.values())), np.array(list(b.values()))
    mean = float(x.mean() - y.mean())
    if min(len(x), len(y)) < 2:
        return Difference(mean, math.nan, math.nan, False)
    u, v = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
    if u + v == 0:
        return Difference(mean, mean, mean, False)
    freedom = (u + v) ** 2 / (u**2 / (len(x) - 1) + v**2 / (len(y) - 1))
    half = stats.t.ppf(0.975, freedom) * math.sqrt(u + v)
    return Difference(mean, mean - half, mean + half, False)


def first_at(accuracy: list[float], target: float) -> int | None:
    """Index of the first epoch whose accuracy is `target` or more, None if there is none."""
    return next((i for i, value in enumerate(accuracy) if value >= target), None)
