"""Means, deviations, intervals and differences over seeds."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

ENOUGH = 3  # seeds: an interval over two is as wide as their luck
ROUNDING = 1e-4  # of a difference of accuracies in percent that metrics.csv keeps with six digits


@dataclass
class Summary:
    """A figure over seeds.

    Parameters
    ----------
    mean, sd : float
        The latter, with n − 1, is NaN for one seed.
    n : int
        Seeds that have it.
    low, high : float
        Ends of the 95 % interval of the mean (Student's t); NaN without enough seeds.
    digits : int
        After the point, in text.
    never : int, optional
        Of a time to a target: further seeds that did not get there. They are in the mean with their last epoch,
        which makes it a lower bound.
    """

    mean: float
    sd: float
    n: int
    low: float
    high: float
    digits: int = 2
    never: int | None = None

    def numbers(self) -> dict[str, object]:
        """What table.csv has of it, by the end of the column's name; a lower bound instead of a mean if need be."""
        numbers = {name: getattr(self, name) for name in ("mean", "sd", "n", "low", "high")}
        if self.never is None:
            return numbers
        if self.never:
            numbers |= dict.fromkeys(("mean", "sd", "low", "high"), math.nan)
        return numbers | {"never": self.never, "at_least": self.mean if self.never else math.nan}

    def __str__(self) -> str:
        mean = f"{self.mean:.{self.digits}f}"
        if self.never:
            return f"≥ {mean} ({self.never} of {self.n + self.never} never)"
        return mean if math.isnan(self.sd) else f"{mean} ± {self.sd:.{self.digits}f}"


@dataclass
class Difference:
    """The mean of a minus the mean of b, and how sure that is.

    Parameters
    ----------
    mean : float
    low, high : float
        Ends of the 95 % interval as it is shown; NaN without enough seeds.
    paired : bool
        Over the seeds that both have, rather than Welch's over all.
    n : int
        Seeds that it is over, of the smaller side.
    p : float
        Two-sided p value of no difference; NaN without enough seeds.
    left_out : tuple of int
        Seeds that only one side of a paired difference has.
    survives : bool
        Whether it is still different from zero after Holm's correction (see `holm`).
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
        numbers = {name: getattr(self, name) for name in ("mean", "n", "low", "high", "p")}
        test = "" if math.isnan(self.low) else "paired" if self.paired else "welch"
        return numbers | {"verdict": self.verdict, "test": test}

    def __str__(self) -> str:
        mean = f"{round(self.mean, 2) + 0.0:+.2f}"  # + 0.0: no -0.00
        if math.isnan(self.low):
            return f"{mean} (no interval: {'one seed' if self.n == 1 else f'{self.n} seeds are too few'})"
        mark = "(tie)" if self.is_tie else self.verdict
        text = f"{mean} ± {(self.high - self.low) / 2:.2f} {mark}"
        if not self.paired:
            return f"{text} (Welch)"
        left_out = f" (n = {self.n}, without seed {' '.join(map(str, self.left_out))})"
        return text + (left_out if self.left_out else "")


def summary(values: Sequence[float], digits: int = 2, never: int | None = None) -> Summary:
    """Mean, deviation and 95 % interval of the mean of a value for each seed, `never` of them a last epoch's."""
    values = np.asarray(values, dtype=float)
    n = len(values)
    sd = values.std(ddof=1) if n > 1 else math.nan
    half = sd / math.sqrt(n) * stats.t.ppf(0.975, n - 1) if n >= ENOUGH else math.nan
    mean = values.mean()
    return Summary(mean, sd, n - (never or 0), mean - half, mean + half, digits, never)


def difference(a: Mapping[int, float], b: Mapping[int, float], resolution: float = 0.0) -> Difference:
    """a − b with a 95 % interval: Student's t over the seeds that both have, or where those are fewer than
    `ENOUGH`, Welch's over all.

    Parameters
    ----------
    a, b : mapping of int to float
        A value for each seed.
    resolution : float
        What one test image is worth. No interval is shown narrower than that to either side, however equal the
        seeds' differences are: seeds that all differ by one image are a tie. The p value is the test's own.
    """
    both = sorted(a.keys() & b.keys())
    paired = len(both) >= ENOUGH
    x, y = ([side[seed] for seed in (both if paired else side.keys())] for side in (a, b))
    mean, n = float(np.mean(x) - np.mean(y)), min(len(x), len(y))
    if n < ENOUGH:
        return Difference(mean, math.nan, math.nan, paired, n)
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)  # of seeds that all differ alike
        test = stats.ttest_rel(x, y) if paired else stats.ttest_ind(x, y, equal_var=False)
        low, high = test.confidence_interval(0.95)
    p = float(test.pvalue)
    if not math.isfinite(p):  # no spread at all: scipy divides zero by zero
        low, high, p = mean, mean, 0.0 if mean else 1.0
    if (high - low) / 2 < resolution:
        half = max(resolution, abs(mean)) if abs(mean) <= resolution + ROUNDING else resolution
        low, high = mean - half, mean + half
    left_out = tuple(sorted(a.keys() ^ b.keys())) if paired else ()
    return Difference(mean, float(low), float(high), paired, n, p, left_out)


def holm(differences: Sequence[Difference], level: float = 0.05) -> None:
    """Mark those that survive Holm's correction (Holm 1979) for all of them together."""
    tested = sorted((d for d in differences if not math.isnan(d.p)), key=lambda d: d.p)
    for rank, d in enumerate(tested):
        if d.p > level / (len(tested) - rank):
            break
        d.survives = not d.is_tie
