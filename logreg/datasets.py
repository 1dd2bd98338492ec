"""Classification data sets by name or file: split, standardised, ready for full-batch regression.

A new one is a function ``seed → X, y`` and a line in ``SKLEARN``, or a branch of :func:`load`.
"""

import http.client
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import UserError, did_you_mean, one_line

from . import NAMES
from .tables import check_size, read_files


@dataclass
class Dataset:
    """Features (n, d) in float64, standardised on the training part, and classes 0 … C − 1."""

    name: str
    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    classes: list
    index: np.ndarray  # of the training samples in the whole data set or file, from 0
    summary: str = ""  # how a file was read

    def __str__(self) -> str:
        return (
            f"{self.name}: {len(self.y_train)} training and {len(self.y_test)} test samples, "
            f"{self.X_train.shape[1]} features, {len(self.classes)} classes"
        )


def synthetic(seed, n=500, d=2, margin=0.0, condition=10.0):
    """Two Gaussian classes, y = ±1, on both sides of a random hyperplane through 0 with unit normal u.

    The signed distance y u·x is N(1, 1): the classes overlap, the best possible accuracy is 84.1 %. With
    `margin` > 0 it is the part of N(1, 1) above `margin`: separable, every sample at least that far on its
    side. Across the normal x is N(0, λ_j), with λ_j spaced evenly in the logarithm from 1 to 1/`condition`,
    in random directions.

    Returns
    -------
    X : ndarray of float64, shape (n, d)
    y : ndarray of int, shape (n,)
        0 or 1, half of each (up to one).
    """
    from scipy.stats import truncnorm

    check_size(max(n, d), d, "synthetic: --n and --d")
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    low = margin - 1 if margin > 0 else -np.inf
    distance = truncnorm(low, np.inf, loc=1.0, scale=1.0).rvs(n, random_state=rng)
    spread = np.sqrt(np.geomspace(1.0, 1.0 / condition, d)[1:])
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    X = np.column_stack([np.where(y == 1, distance, -distance), rng.normal(size=(n, d - 1)) * spread])
    return X @ rotation.T, y


def _madelon(seed):
    from sklearn.datasets import make_classification

    return make_classification(
        n_samples=2000, n_features=500, n_informative=5, n_redundant=15, n_clusters_per_class=16,
        hypercube=True, random_state=seed,
    )  # fmt: skip


def _toy(name):
    def load_toy(seed):
        from sklearn import datasets

        return getattr(datasets, f"load_{name}")(return_X_y=True)

    return load_toy


SKLEARN = {"madelon": _madelon, **{name: _toy(name) for name in ("wine", "breast_cancer", "digits")}}


def _openml(name, data_dir):
    from sklearn.datasets import fetch_openml

    # Any other name could lead out of the address of the query, and out of the directory of downloads.
    if not re.fullmatch(r"[\w.()+,-]{1,200}", name, re.ASCII):
        raise UserError(f"openml: needs a name, as in openml:diabetes, or a number, not {name!r:.60}")
    which = {"data_id": int(name)} if name.isdigit() else {"name": name}
    try:
        with warnings.catch_warnings():  # retries, and several active versions
            warnings.simplefilter("ignore")
            bunch = fetch_openml(
                **which, data_home=str(data_dir), as_frame=False, parser="liac-arff", n_retries=1, delay=0.5
            )
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise UserError(
            f"cannot fetch openml:{name} ({getattr(error, 'reason', error)}); with no network, only sets already "
            f"in {data_dir} can be used; or give a local file"
        ) from None
    except ValueError as error:
        raise UserError(f"openml:{name}: {one_line(error)}") from None
    X, y = bunch.data, bunch.target
    if y is None or np.ndim(y) != 1:
        raise UserError(f"openml:{name} has no single target column; save it as a table and give --target")
    missing = sum(label is None or label != label for label in y)
    if missing:
        raise UserError(f"openml:{name}: the target of {missing} of {len(y)} samples is missing")
    words = [column for column in bunch.feature_names if column in (bunch.categories or ())]
    if words:
        raise UserError(f"openml:{name} has columns that are not numeric: {', '.join(words[:5])}")
    return np.asarray(X.toarray() if hasattr(X, "toarray") else X, dtype=np.float64), y


def load(name, *, data_dir="datasets", test_file=None, rule=None, test_size=0.25, seed=0, **options):
    """The data set called `name`, split and standardised.

    Parameters
    ----------
    name : str
        One of ``NAMES``, ``openml:<name or number>``, or the path of a file that ``read_files`` can read.
    data_dir : path
        Where downloads from OpenML are kept.
    test_file : path, optional
        The test part; otherwise a stratified share `test_size` of the samples, drawn with `seed`.
    rule : logreg.tables.Rule, optional
        How tables are written.
    **options
        `n`, `d`, `margin`, `condition` of :func:`synthetic`.

    Raises
    ------
    UserError
        For data that cannot be used, with the reason in one line.
    """
    tests, summary, title = [], "", name
    if name.startswith("openml:"):
        X, y = _openml(name.removeprefix("openml:"), data_dir)
    elif name == "synthetic":
        X, y = synthetic(seed, **options)
    elif name in SKLEARN:
        X, y = SKLEARN[name](seed)
    elif Path(name).suffix or "/" in name or Path(name).exists():
        ((X, y), *tests), summary = read_files(name, test_file, rule)
        title = Path(name).stem.encode(errors="replace").decode()  # names of files need not be text
    else:
        known = f"{', '.join(NAMES)}, openml:<name>, or a .csv, .data or .svm file"
        raise UserError(f"unknown data set {name!r}{did_you_mean(name, NAMES)}; known: {known}")

    X, (classes, y) = np.asarray(X, dtype=np.float64), np.unique(y, return_inverse=True)
    _check(name, X, classes)
    index = np.arange(len(y))
    if tests:
        X_test, y_test = tests[0][0], _codes(test_file, classes, tests[0][1])
    else:
        index, rest = _split(name, y, test_size, seed)
        X, y, X_test, y_test = X[index], y[index], X[rest], y[rest]
    with np.errstate(all="ignore"):
        mean, scale, spread = X.mean(axis=0), X.std(axis=0), np.ptp(X, axis=0)
        is_wrong = ~np.isfinite(scale) | ((scale == 0) & (spread > 0))
        scale[scale <= 1e-12 * np.abs(mean)] = 1.0  # constant: rounding must not become unit variance
        X, X_test = (X - mean) / scale, (X_test - mean) / scale
    if is_wrong.any() or not np.isfinite(X_test).all():
        raise UserError(f"{name}: numbers too large or too small to be standardised; rescale them first")
    return Dataset(title, X, y, X_test, y_test, [str(c) for c in classes], index, summary)


def _check(name, X, classes):
    if len(X) < 2:
        raise UserError(f"{name}: {len(X)} sample, at least two are needed; add some")
    if not np.isfinite(X).all():
        row, column = np.argwhere(~np.isfinite(X))[0]
        raise UserError(f"{name}: feature {column} of sample {row} is missing or not finite")
    if len(classes) < 2:
        raise UserError(f"{name}: one class only ({str(classes[0])!r:.40}), two are needed; give --target")
    if len(classes) > max(2, len(X) // 2):
        raise UserError(
            f"{name}: the target has {len(classes)} values in {len(X)} samples, too many for classes; give another "
            "--target"
        )


def _codes(path, classes, labels):
    codes = {label: code for code, label in enumerate(classes)}
    unknown = sorted(set(labels) - codes.keys())
    if unknown:
        names = ", ".join(label[:40] for label in unknown[:5])
        raise UserError(f"{path} has classes that the training file lacks: {names}; remove their samples")
    return np.array([codes[label] for label in labels])


def _split(name, y, test_size, seed):
    """Indices of the training and of the test samples, stratified."""
    from sklearn.model_selection import train_test_split

    if np.bincount(y).min() < 2:
        raise UserError(f"{name}: a class has one sample only; a split needs two, or give --test-file")
    try:
        return train_test_split(np.arange(len(y)), test_size=test_size, stratify=y, random_state=seed)
    except ValueError as error:
        raise UserError(
            f"{name}: cannot split {len(y)} samples: {error}; choose another --test-size, or give --test-file"
        ) from None
