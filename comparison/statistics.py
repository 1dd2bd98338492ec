"""Means over seeds, differences from a baseline, and how sure both are."""

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

ENOUGH = 3  # seeds: an interval over two is as wide as their luck
ROUNDING = 1e-4  # of a difference of accuracies in percent that metrics.csv keeps with six digits


def summary(values: Sequence[float]) -> dict[str, float]:
    """``mean``, ``sd`` (with n − 1), ``n``, and ``low`` and ``high``, the ends of the mean's 95 % interval
    (Student's t). Too few seeds for a deviation or an interval make it NaN."""
    x = np.asarray(values, dtype=float)
    n, mean = len(x), x.mean()
    sd = x.std(ddof=1) if n > 1 else math.nan
    half = sd / math.sqrt(n) * stats.t.ppf(0.975, n - 1) if n >= ENOUGH else math.nan
    return {"mean": mean, "sd": sd, "n": n, "low": mean - half, "high": mean + half}


def difference(a: Mapping[int, float], b: Mapping[int, float], resolution: float = 0.0) -> dict[str, object]:
    """The mean of `a` minus the mean of `b`, and how sure that is.

    The t test is paired over the seeds that both have, or where those are fewer than `ENOUGH`, Welch's over all.

    Parameters
    ----------
    a, b : mapping of int to float
        A value for each seed.
    resolution : float
        What one test image is worth. No interval is shown narrower than that to either side: seeds that all differ
        by one image are a tie. It does not touch p.

    Returns
    -------
    dict
        ``difference``; ``difference_n``, the seeds of the smaller side; ``test`` (``"paired"``, ``"Welch"`` or
        ``""``); ``left_out``, the seeds that a paired test lacks on one side; the ends of the 95 % interval
        ``difference_low``, ``difference_high`` and the two-sided ``p``, NaN where there are too few seeds.
    """
    both = sorted(a.keys() & b.keys())
    paired = len(both) >= ENOUGH
    x, y = ([side[seed] for seed in (both if paired else side)] for side in (a, b))
    mean, n = float(np.mean(x) - np.mean(y)), min(len(x), len(y))
    low = high = p = math.nan
    if n >= ENOUGH:
        with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Precision loss", RuntimeWarning
            )  # of seeds that all differ alike
            test = stats.ttest_rel(x, y) if paired else stats.ttest_ind(x, y, equal_var=False)
            (low, high), p = map(float, test.confidence_interval(0.95)), float(test.pvalue)
        if not math.isfinite(p):  # no spread at all: scipy divides zero by zero
            low, high, p = mean, mean, 0.0 if mean else 1.0
        if high - low < 2 * resolution:
            half = max(resolution, abs(mean)) if abs(mean) <= resolution + ROUNDING else resolution
            low, high = mean - half, mean + half
    return {
        "difference": mean,
        "difference_n": n,
        "difference_low": low,
        "difference_high": high,
        "p": p,
        "test": "" if math.isnan(p) else "paired" if paired else "Welch",
        "left_out": " ".join(map(str, sorted(a.keys() ^ b.keys()))) if paired else "",
    }


def holm(p: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which p values survive Holm's correction for all of them together (Holm 1979); NaN are not counted."""
    tested = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    survivors = set()
    for rank, (value, i) in enumerate(tested):
        if value > level / (len(tested) - rank):
            break
        survivors.add(i)
    return [i in survivors for i in range(len(p))]
