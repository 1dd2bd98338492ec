"""What a file in `data/sources/` hands over: where the images are and what they show."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Split:
    """One split, its images either decoded or still in files.

    Parameters
    ----------
    labels : ndarray of int64, shape (N,)
    images : ndarray of uint8, shape (N, C, H, H), optional
        C is 1 (grey) or 3 (RGB).
    paths : list of str, optional
        One image file a sample, in the order of `labels`.
    index : ndarray of int64, shape (N,), optional
        Position of each sample in the whole split; counted from 0 if not given.
    """

    labels: np.ndarray
    images: np.ndarray | None = None
    paths: list[str] | None = None
    index: np.ndarray | None = None

    def __post_init__(self):
        if self.index is None:
            object.__setattr__(self, "index", np.arange(len(self.labels)))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def pictures(self) -> list[str] | np.ndarray:
        """The files or, where there are none, the arrays."""
        return self.images if self.paths is None else self.paths

    def __getitem__(self, keep: np.ndarray) -> Split:
        """The samples of these sorted, distinct indices; all of them are not copied."""
        if len(keep) == len(self):
            return self
        return Split(
            self.labels[keep],
            None if self.images is None else self.images[keep],
            None if self.paths is None else [self.paths[i] for i in keep],
            self.index[keep],
        )


@dataclass(frozen=True)
class Source:
    """The splits of a data set.

    Parameters
    ----------
    train : Split or None
        None only where there need not be one (`DataOptions.eval_only`).
    test : Split or None
        None only where a part of `train` will be kept (`DataOptions.val_split`).
    class_names : list of str
    root : Path, optional
        Folder that holds all `paths`, for sets that are image files.
    common_size : int
        Side in pixels if all images are squares of one size, else 0.
    val : Split, optional
        The set's own validation split, where it has one beside the test split.
    train_root : Path, optional
        Folder of the training images: ``root / "train"`` if not given.
    notes : list of str
        What was used, and what was left out and how often: a line each.
    """

    train: Split | None
    test: Split | None
    class_names: list[str]
    root: Path | None = None
    common_size: int = 0
    val: Split | None = None
    train_root: Path | None = None
    notes: list[str] = field(default_factory=list)
