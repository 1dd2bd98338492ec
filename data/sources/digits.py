"""scikit-learn's handwritten digits: 1,797 real grey images of 8 × 8 pixels that need no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..options import DataOptions
from ..source import Source, Split

SPLIT_SEED = 0  # never the run's seed: the test images must be the same in every run


def load(name: str, root: Path, options: DataOptions) -> Source:
    """1,437 training and 360 test images, stratified by class."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    # pixel values are 0 … 16
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=SPLIT_SEED
    )
    return Source(
        train=Split(labels[train], images=images[train]),
        test=Split(labels[test], images=images[test]),
        class_names=[str(name) for name in digits.target_names],
        common_size=8,
    )
