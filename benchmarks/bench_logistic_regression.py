"""Time to fit a rooted logistic regression, as a multiple of scikit-learn's ``LogisticRegression``.

    python benchmarks/bench_logistic_regression.py

Same data, same tolerance (scikit-learn's stopping rule in both), same process. One thread and the time it
computes, which a busy machine stretches least, unless OMP_NUM_THREADS asks for more: then what a clock shows.
The two fit in turns and the fastest of each counts. The promise is a ratio of at most 2.
"""

import argparse
import os
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch start their threads

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from logreg.estimator import RootedLogisticRegression


def large(n=100_000, d=100):
    """Two overlapping classes, n × d."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d))
    return X, (X @ rng.normal(size=d) / np.sqrt(d) + rng.normal(size=n) > 0).astype(int)


def data_sets():
    for load in (load_breast_cancer, load_wine, load_digits):
        X, y = load(return_X_y=True)
        yield load.__name__.removeprefix("load_"), StandardScaler().fit_transform(X), y
    yield "100,000 × 100", *large()


def fastest(estimators, X, y, budget):
    """Best fitting time of each estimator in seconds; they take turns until `budget` seconds have gone."""
    clock = time.process_time if os.environ["OMP_NUM_THREADS"] == "1" else time.perf_counter
    best = [np.inf] * len(estimators)
    end = time.perf_counter() + budget
    rounds = 0
    while rounds < 4 or time.perf_counter() < end:
        for i, estimator in enumerate(estimators):
            start = clock()
            estimator.fit(X, y)
            best[i] = min(best[i], clock() - start)
        rounds += 1
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--k", type=float, nargs="+", default=[2.0, 3.0, 10.0])
    parser.add_argument("--tol", type=float, default=1e-6)
    parser.add_argument("--budget", type=float, default=5.0, help="seconds for each data set")
    args = parser.parse_args()
    warnings.simplefilter("error")  # a fit that did not converge would not be comparable
    common = {"tol": args.tol, "max_iter": 1000}
    ours = [RootedLogisticRegression("logistic", **common)]
    ours += [RootedLogisticRegression(k=k, **common) for k in args.k]
    names = ["logistic", *(f"rlo k={k:g}" for k in args.k)]
    print(f"fitting time over scikit-learn's at tol {args.tol:g} (iterations in brackets)")
    print(f"{'data':15}{'scikit-learn':>20}" + "".join(f"{name:>16}" for name in names))
    for data, X, y in data_sets():
        reference = LogisticRegression(**common)
        base, *times = fastest([reference, *ours], X, y, args.budget)
        cells = [f"{t / base:.2f} [{e.n_iter_[0]}]" for t, e in zip(times, ours, strict=True)]
        first = f"{1e3 * base:.1f} ms [{reference.n_iter_[0]}]"
        print(f"{data:15}{first:>20}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
