"""What a file in `data/sources/` hands over: where the images are and what they show."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Split:
    """One split, its images either decoded or still in files."""

    labels: np.ndarray  # int64, shape (N,)
    images: np.ndarray | None = None  # uint8, shape (N, C, H, H); C is 1 (grey) or 3 (RGB)
    paths: list[str] | None = None  # one image file a sample, in the order of `labels`
    index: np.ndarray | None = None  # position of each sample in the whole split; counted from 0 if not given

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
    """The splits of a data set."""

    train: Split | None  # None only where there need not be one (`DataOptions.eval_only`)
    test: Split | None  # None only where a part of `train` will be kept (`DataOptions.val_split`)
    class_names: list[str]
    root: Path | None = None  # folder that holds all files
    common_size: int = 0  # side in pixels if all images are squares of one size
    val: Split | None = None  # the set's own validation split, where it has one beside the test split
    train_root: Path | None = None  # folder of the training images: root / "train" if not given
    notes: list[str] = field(default_factory=list)  # what was used, and what was left out and how often
