"""Which training images there are and what they are called: splits, long tails and wrong labels.

All of it is a pure function of the labels and the seed, so a resumed run finds the same.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from common import did_you_mean

from .errors import DataError, one_line
from .plan import generator

_ROW_SUM = 1e-6  # that a row of a transition matrix may miss 1 by


def _shuffled(indices: np.ndarray, *key: object) -> np.ndarray:
    return indices[torch.randperm(len(indices), generator=generator(*key)).numpy()]


def validation_split(
    labels: np.ndarray, share: float, class_names: Sequence[str], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation indices, both sorted; each class gives its `share`, at least one image.

    Parameters
    ----------
    labels : ndarray of int64, shape (N,)
    share : float
        In (0, 1).
    class_names : sequence of str
    seed : int

    Raises
    ------
    DataError
        A class with fewer than two images, which cannot be in both parts.
    """
    validation = []
    for label, name in enumerate(class_names):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise DataError(
                f"class {name!r} has {len(members)} training image(s): "
                "--val-split needs two of each class or more"
            )
        count = min(max(1, round(share * len(members))), len(members) - 1)
        validation.append(_shuffled(members, "validation split", seed, label)[:count])
    chosen = np.sort(np.concatenate(validation))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def long_tail(labels: np.ndarray, num_classes: int, share: float, seed: int) -> np.ndarray:
    """Sorted indices of a long-tailed part: class c keeps ``share ** (c / (C - 1))`` of its images.

    Parameters
    ----------
    labels : ndarray of int64, shape (N,)
    num_classes : int
        C, two or more.
    share : float
        Of the last class, in (0, 1]; every class keeps one image or more.
    seed : int

    References
    ----------
    Cui et al. 2019, arXiv 1901.05555.
    """
    kept = []
    for label in range(num_classes):
        members = np.flatnonzero(labels == label)
        count = max(1, round(len(members) * share ** (label / (num_classes - 1))))
        kept.append(_shuffled(members, "imbalance", seed, label)[:count])
    return np.sort(np.concatenate(kept))


def noisy_labels(labels: np.ndarray, num_classes: int, share: float, kind: str, seed: int) -> np.ndarray:
    """Change exactly ``round(share * N)`` labels, or each by the chances of a transition matrix.

    Parameters
    ----------
    labels : ndarray of int64, shape (N,)
    num_classes : int
    share : float
        In [0, 1); not used with a matrix.
    kind : str
        'uniform': every other class alike; 'pair': the next class, the first after the last; else a CSV file,
        see `read_transition`.
    seed : int

    Returns
    -------
    ndarray of int64, shape (N,)
        A new array.
    """
    g = generator("label noise", seed)
    if kind not in ("uniform", "pair"):
        steps = np.cumsum(read_transition(kind, num_classes), axis=1)
        drawn = torch.rand(len(labels), generator=g, dtype=torch.float64).numpy()
        # the sums' last column may be a rounding below 1
        return np.minimum((drawn[:, None] >= steps[labels]).sum(axis=1), num_classes - 1).astype(np.int64)
    count = round(share * len(labels))
    chosen = torch.randperm(len(labels), generator=g)[:count].numpy()
    shift = torch.randint(1, num_classes, (count,), generator=g).numpy() if kind == "uniform" else 1
    noisy = labels.copy()
    noisy[chosen] = (noisy[chosen] + shift) % num_classes
    return noisy


def read_transition(file: str, num_classes: int) -> np.ndarray:
    """A class transition matrix: C lines of C numbers; row c are the chances of what label c becomes.

    Raises
    ------
    DataError
        Not readable, another shape, a negative number, or a row whose sum is not 1.
    """
    try:
        matrix = np.loadtxt(file, delimiter=",", ndmin=2, dtype=np.float64, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(
            f"label noise kind {file!r} is not uniform or pair, nor a matrix: {one_line(error)}"
        ) from error
    if matrix.shape != (num_classes, num_classes):
        raise DataError(
            f"{file} has {matrix.shape[0]} × {matrix.shape[1]} numbers, not {num_classes} squared"
        )
    wrong = np.flatnonzero(~((matrix >= 0).all(axis=1) & (abs(matrix.sum(axis=1) - 1) <= _ROW_SUM)))
    if len(wrong):
        raise DataError(
            f"{file}, row {wrong[0] + 1}: not chances that sum to 1 (sum {matrix[wrong[0]].sum():g})"
        )
    return matrix


def read_labels(
    file: str, column: str, class_names: Sequence[str], names: Sequence[str] | int
) -> tuple[np.ndarray, str]:
    """Other labels for the training images, from a CSV file with a header.

    Parameters
    ----------
    file : str
    column : str
        Of the labels; '' where only one column beside the images' is there.
    class_names : sequence of str
        Labels are these names or, where none of a column's labels is one, their indices.
    names : sequence of str, or int
        Paths below ``train/`` of the images (column ``file``), or how many there are (column ``index``).

    Returns
    -------
    labels : ndarray of int64, shape (N,)
    digest : str
        SHA-256 of the file.

    Raises
    ------
    DataError
        A file or column that is not there, an unknown label, or an image named never or twice.
    """
    key = "index" if isinstance(names, int) else "file"
    try:
        content = Path(file).expanduser().read_bytes()
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        reader.fieldnames = header = [name.strip() for name in reader.fieldnames or ()]
        rows = [(reader.line_num, row) for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"labels {file} cannot be read: {one_line(error)}") from error
    if key not in header:
        raise DataError(f"labels {file} has no column {key!r} to name the images; it has {header}")
    others = [name for name in header if name != key]
    if not column and len(others) != 1:
        raise DataError(f"labels {file} has the columns {others}: choose with --label-column")
    column = column or others[0]
    if column not in others:
        raise DataError(
            f"labels {file} has no column {column!r}{did_you_mean(column, others)} (it has {others})"
        )
    twice = [name for name in (key, column) if header.count(name) > 1]
    if twice:
        raise DataError(f"labels {file} has several columns {twice[0]!r}: rename them")
    if isinstance(names, int):
        position = {str(i): i for i in range(names)}
    else:
        position = {name: i for i, name in enumerate(names)}
    texts: list[str | None] = [None] * len(position)
    for line, row in rows:
        name, text = (row[key] or "").strip(), (row[column] or "").strip()
        name = name if name in position else name.removeprefix("./").removeprefix("train/")
        if name not in position:
            raise DataError(f"{file}, line {line}: there is no training image {name!r}")
        if texts[position[name]] is not None:
            raise DataError(f"{file}, line {line}: {name!r} is named twice")
        texts[position[name]] = text
    missing = [name for name, i in position.items() if texts[i] is None]
    if missing:
        raise DataError(f"{file} names no label for {len(missing)} training images, {missing[0]!r} first")
    known = {name: i for i, name in enumerate(class_names)}
    if not any(text in known for text in texts):
        known = {str(i): i for i in range(len(class_names))}
    wrong = next((text for text in texts if text not in known), None)
    if wrong is not None:
        raise DataError(
            f"{file}: label {wrong!r} is no class{did_you_mean(wrong, class_names)}; give names or, for all "
            f"images, indices 0 to {len(class_names) - 1}"
        )
    return np.array([known[text] for text in texts], dtype=np.int64), hashlib.sha256(content).hexdigest()
