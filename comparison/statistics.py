"""Means, deviations and intervals over seeds."""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

ENOUGH = 3  # seeds: an interval over two is as wide as their luck
ROUNDING = 1e-4  # of a difference of accuracies in percent that metrics.csv keeps with six digits


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

    @property
    def verdict(self) -> str:
        """``"too few"`` seeds for an interval, ``"tie"``, ``"*"`` or ``"**"``."""
        if math.isnan(self.low):
            return "too few"
        return "tie" if self.is_tie else "**" if self.survives else "*"

    def numbers(self) -> dict[str, object]:
        """What table.csv has of it, by the end of the column's name."""
        names = ("mean", "n", "low", "high", "p")
        return {name: getattr(self, name) for name in names} | {"verdict": self.verdict}

    def __str__(self) -> str:
        mean = f"{round(self.mean, 2) + 0.0:+.2f}"  # + 0.0: no -0.00
        left_out = f", without seed {' '.join(map(str, self.left_out))}" if self.left_out else ""
        seeds = f" (n = {self.n}{left_out})" if left_out else ""
        if math.isnan(self.low):
            return f"{mean} (no interval: {'one seed' if self.n == 1 else f'{self.n} seeds are too few'}{left_out})"
        mark = " (tie)" if self.is_tie else f" {self.verdict}"
        return f"{mean} ± {(self.high - self.low) / 2:.2f}{mark}{'' if self.paired else ' (unpaired)'}{seeds}"


@dataclass
class Summary:
    """A figure over seeds.

    Parameters
    ----------
    mean, sd : float
        The latter, with n − 1, is NaN for one seed.
    n : int
        Seeds.
    low, high : float
        Ends of the 95 % interval of the mean (Student's t); NaN without enough seeds.
    digits : int
        After the point, in text.
    never : int
        Further seeds that did not get there, of a time to a target. They are in the mean with their last epoch,
        which makes it a lower bound.
    """

    mean: float
    sd: float
    n: int
    low: float = math.nan
    high: float = math.nan
    digits: int = 2
    never: int = 0

    def numbers(self) -> dict[str, object]:
        """What table.csv has of it, by the end of the column's name."""
        names = ("mean", "sd", "n", "low", "high")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "–"
        mean = f"{self.mean:.{self.digits}f}"
        if self.never:
            return f"≥ {mean} ({self.never} of {self.n + self.never} never)"
        return mean if math.isnan(self.sd) else f"{mean} ± {self.sd:.{self.digits}f}"


@dataclass
class Time(Summary):
    """Epochs or seconds to a target."""

    digits: int = 1

    def numbers(self) -> dict[str, object]:
        """With a seed that never got there, a lower bound instead of mean, deviation and interval."""
        if self.never:
            unknown = dict.fromkeys(super().numbers(), math.nan)
            return unknown | {"n": self.n, "never": self.never, "at_least": self.mean}
        return super().numbers() | {"never": 0, "at_least": math.nan}


def mean_and_std(values) -> tuple[float, float]:
    """Mean and sample standard deviation (n − 1); the latter is NaN for a single value, both for none."""
    values = np.asarray(list(values), dtype=float)
    mean = float(values.mean()) if len(values) else math.nan
    return mean, float(values.std(ddof=1)) if len(values) > 1 else math.nan


def summary(values: Iterable[float], digits: int = 2) -> Summary:
    """Mean, deviation and 95 % interval of the mean of a value for each seed."""
    values = list(values)
    mean, sd = mean_and_std(values)
    n = len(values)
    half = sd / math.sqrt(n) * float(stats.t.ppf(0.975, n - 1)) if n >= ENOUGH else math.nan
    return Summary(mean, sd, n, mean - half, mean + half, digits)


def time_to(reached: Iterable[float | None], ends: Iterable[float]) -> Time:
    """When a target was reached: by seed, None where it never was, and then its last time from `ends`."""
    reached = list(reached)
    never = reached.count(None)
    values = [end if value is None else value for value, end in zip(reached, ends, strict=True)]
    s = summary(values, 1)
    return Time(s.mean, s.sd, s.n - never, s.low, s.high, 1, never)


def difference(a: dict[int, float], b: dict[int, float], resolution: float = 0.0) -> Difference:
    """a − b with a 95 % interval of Student's t: over the seeds that both have, else Welch's.

    Parameters
    ----------
    a, b : dict of int to float
        A value for each seed.
    resolution : float
        What one test image is worth. No interval is narrower than that to either side, however equal the seeds'
        differences are: seeds that all differ by one image are a tie.
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
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)  # equal differences: see below
        test = stats.ttest_rel(x, y) if paired else stats.ttest_ind(x, y, equal_var=False)
        low, high = test.confidence_interval(0.95)
    p = float(test.pvalue)
    if not math.isfinite(p):  # no spread at all
        low = high = mean
        p = 0.0 if mean else 1.0
    if (high - low) / 2 < resolution:
        if abs(mean) <= resolution + ROUNDING:
            low, high, p = min(mean - resolution, 0.0), max(mean + resolution, 0.0), 1.0
        else:
            low, high, p = mean - resolution, mean + resolution, max(p, 0.05 * resolution / abs(mean))
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
