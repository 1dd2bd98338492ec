"""Means, deviations and intervals over seeds."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

ENOUGH = 3  # seeds: an interval over two is as wide as their luck


@dataclass
class Difference:
    """The mean of a minus the mean of b, and how sure that is.

    Parameters
    ----------
    mean : float
    low, high : float
        Ends of the 95 % interval; NaN without enough seeds.
    paired : bool
        Over the seeds that both have, rather than Welch's.
    n : int
        Seeds that it is over, of the smaller side.
    p : float
        Two-sided p value of no difference; NaN without enough seeds.
    left_out : tuple of int
        Seeds that only one side has.
    survives : bool
        Whether it is still different from zero after Holm's correction over the table (see `holm`).
    """

    mean: float
    low: float
    high: float
    paired: bool
    n: int = 1
    p: float = math.nan
    left_out: tuple[int, ...] = ()
    survives: bool = False

    @property
    def is_tie(self) -> bool:
        return self.low <= 0 <= self.high

    def __str__(self) -> str:
        mean = f"{round(self.mean, 2) + 0.0:+.2f}"  # + 0.0: no -0.00
        left_out = f", without seed {' '.join(map(str, self.left_out))}" if self.left_out else ""
        seeds = f" (n = {self.n}{left_out})" if left_out else ""
        if math.isnan(self.low):
            return f"{mean} (no interval: {'one seed' if self.n == 1 else f'{self.n} seeds are too few'}{left_out})"
        mark = " (tie)" if self.is_tie else " **" if self.survives else " *"
        return f"{mean} ± {(self.high - self.low) / 2:.2f}{mark}{'' if self.paired else ' (unpaired)'}{seeds}"


def mean_and_std(values) -> tuple[float, float]:
    """Mean and sample standard deviation (n − 1); the latter is NaN for a single value."""
    values = np.asarray(list(values), dtype=float)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.nan


def difference(a: dict[int, float], b: dict[int, float], resolution: float = 0.0) -> Difference:
    """a − b with a 95 % interval of Student's t: over the seeds that both have, else Welch's.

    Parameters
    ----------
    a, b : dict of int to float
        A value for each seed.
    resolution : float
        What one test image is worth. Each mean is a multiple of it over n, so that no interval is narrower than
        half of it to either side, however equal the seeds' differences are.
    """
    both = sorted(a.keys() & b.keys())
    left_out = tuple(sorted(a.keys() ^ b.keys()))
    paired = len(both) > 1
    if paired:
        x, y = ([side[seed] for seed in both] for side in (a, b))
    else:
        x, y, left_out = list(a.values()), list(b.values()), ()
    mean, n = float(np.mean(x) - np.mean(y)), min(len(x), len(y))
    if n < ENOUGH:
        return Difference(mean, math.nan, math.nan, paired, n, math.nan, left_out)
    with np.errstate(divide="ignore", invalid="ignore"):
        test = stats.ttest_rel(x, y) if paired else stats.ttest_ind(x, y, equal_var=False)
        low, high = test.confidence_interval(0.95)
    p = float(test.pvalue)
    if not math.isfinite(p):  # no spread at all
        low = high = mean
        p = 0.0 if mean else 1.0
    floor = resolution / 2
    if (high - low) / 2 < floor:
        low, high = mean - floor, mean + floor
        p = 1.0 if low <= 0 <= high else max(p, 0.05 * floor / abs(mean))
    return Difference(mean, float(low), float(high), paired, n, p, left_out)


def holm(differences: Iterable[Difference | None], level: float = 0.05) -> None:
    """Mark those that survive Holm's correction (Holm 1979) for all of them together."""
    tested = sorted((d for d in differences if d is not None and not math.isnan(d.p)), key=lambda d: d.p)
    for rank, d in enumerate(tested):
        if d.p > level / (len(tested) - rank):
            return
        d.survives = not d.is_tie


def first_at(accuracy: Sequence[float], target: float) -> int | None:
    """Index of the first epoch whose accuracy is `target` or more, None if there is none."""
    return next((i for i, value in enumerate(accuracy) if value >= target), None)
