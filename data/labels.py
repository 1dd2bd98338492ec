"""Which training images there are and what they are called: splits, long tails and wrong labels.

All of it is a pure function of the labels and the seed, so a resumed run finds the same.
"""

from __future__ import annotations

import hashlib
import io
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from common import did_you_mean

from .errors import DataError, one_line
from .plan import generator

NO_LABEL = -1  # of an image that a label file leaves out


def _shuffled(indices: np.ndarray, *key: object) -> np.ndarray:
    return indices[torch.randperm(len(indices), generator=generator(*key)).numpy()]


def validation_split(
    labels: np.ndarray, share: float, class_names: Sequence[str], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation indices, both sorted; each class gives its `share`, at least one image.

    A class with fewer than two images cannot be in both parts: `DataError`.
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

    Of the C classes each keeps one image or more (Cui et al. 2019, arXiv 1901.05555).
    """
    kept = []
    for label in range(num_classes):
        members = np.flatnonzero(labels == label)
        count = max(1, round(len(members) * share ** (label / (num_classes - 1))))
        kept.append(_shuffled(members, "imbalance", seed, label)[:count])
    return np.sort(np.concatenate(kept))


def noisy_labels(labels: np.ndarray, num_classes: int, share: float, kind: str, seed: int) -> np.ndarray:
    """A copy with exactly ``round(share * N)`` labels changed.

    `kind` 'uniform': to every other class alike; 'pair': to the next class, the first after the last.
    """
    g = generator("label noise", seed)
    count = round(share * len(labels))
    chosen = torch.randperm(len(labels), generator=g)[:count].numpy()
    shift = torch.randint(1, num_classes, (count,), generator=g).numpy() if kind == "uniform" else 1
    noisy = labels.copy()
    noisy[chosen] = (noisy[chosen] + shift) % num_classes
    return noisy


def read_labels(
    file: str, column: str, class_names: Sequence[str], names: Sequence[str] | int
) -> tuple[np.ndarray, str]:
    """Other labels for the training images, from a CSV file with a header.

    Parameters
    ----------
    file : str
    column : str
        Of the labels; '': the column ``label`` or, without one, the only column beside the images'.
    class_names : sequence of str
        Labels are these names. Where none of them is, and no class is called by a number, they are indices from 0.
    names : sequence of str, or int
        Paths below ``train/`` of the images (column ``file``), or how many there are (column ``index``).

    Returns
    -------
    labels : ndarray of int64, shape (N,)
        `NO_LABEL` where the cell is empty: the image is to be left out.
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
        table = pd.read_csv(
            io.BytesIO(content), dtype=str, keep_default_na=False, header=None, encoding="utf-8-sig"
        )
    except (OSError, ValueError) as error:  # pandas' own errors are of these
        raise DataError(f"--train-labels {file} cannot be read: {one_line(error)}") from error
    header = [name.strip() for name in table.iloc[0].fillna("")]
    others = [name for name in header if name != key]
    column = column or ("label" if "label" in others else others[0] if len(others) == 1 else "")
    if key not in header:
        raise DataError(f"--train-labels {file} has no column {key!r} to name the images; it has {header}")
    if not column:
        raise DataError(f"--train-labels {file} has the columns {others}: choose with --label-column")
    if column not in others:
        raise DataError(
            f"--train-labels {file} has no column {column!r}{did_you_mean(column, others)} (it has {others})"
        )
    twice = [name for name in (key, column) if header.count(name) > 1]
    if twice:
        raise DataError(f"--train-labels {file} has several columns {twice[0]!r}: rename them")

    keys = [str(i) for i in range(names)] if isinstance(names, int) else [_form(name) for name in names]
    position = {name: i for i, name in enumerate(keys)}
    texts: list[str | None] = [None] * len(keys)
    cells = table.iloc[1:, [header.index(key), header.index(column)]].fillna("")
    for line, (name, text) in enumerate(cells.itertuples(index=False), 2):
        name = _form(name.strip())
        name = name if name in position else name.removeprefix("./").removeprefix("train/")
        if name not in position:
            raise DataError(f"{file}, line {line}: there is no training image {name!r}")
        if texts[position[name]] is not None:
            raise DataError(f"{file}, line {line}: {name!r} is named twice")
        texts[position[name]] = _form(text.strip())
    missing = [name for name, text in zip(keys, texts, strict=True) if text is None]
    if missing:
        raise DataError(f"{file} names no label for {len(missing)} training images, {missing[0]!r} first")
    return _numbers(file, [text or "" for text in texts], class_names), hashlib.sha256(content).hexdigest()


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _numbers(file: str, texts: list[str], class_names: Sequence[str]) -> np.ndarray:
    """The classes' numbers of labels that are names, or indices where no class is called by a number."""
    number = {name: i for i, name in enumerate(class_names)}
    indices = ""
    if not any(name.isdecimal() for name in class_names):
        indices = f" or, for all images, indices 0 to {len(class_names) - 1}"
        if not any(text in number for text in texts):
            number = {str(i): i for i in range(len(class_names))}
    number[""] = NO_LABEL
    wrong = next((text for text in texts if text not in number), None)
    if wrong is not None:
        raise DataError(
            f"{file}: label {wrong!r} is no class{did_you_mean(wrong, class_names)}; "
            f"give the names of classes{indices}"
        )
    return np.array([number[text] for text in texts], dtype=np.int64)
