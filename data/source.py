"""What a file in `data/sources/` hands over: where the images are and what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Request:
    """What a source is asked for.

    Parameters
    ----------
    name : str
        Key in `DATASETS`.
    data_dir : Path
        Where files are looked for, and the only place where any may be written.
    path : str
        The path of ``folder:<path>``, else ''.
    progress : bool
        Whether a progress bar may be shown on a terminal.
    eval_only : bool
        Whether a set without training images will do.
    class_names : sequence of str, optional
        What the classes are to be called, if known.
    one_split : bool
        Whether an image folder with one split will do, since a part of it will be kept for validation.
    """

    name: str
    data_dir: Path
    path: str = ""
    progress: bool = False
    eval_only: bool = False
    class_names: Sequence[str] | None = None
    one_split: bool = False


@dataclass(frozen=True)
class Split:
    """One split, its images either decoded or still in files.

    Parameters
    ----------
    labels : ndarray of int64, shape (N,)
    images : ndarray of uint8, shape (N, C, H, W), optional
        C is 1 (grey) or 3 (RGB).
    paths : list of str, optional
        One image file a sample, in the order of `labels`.
    """

    labels: np.ndarray
    images: np.ndarray | None = None
    paths: list[str] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, keep: np.ndarray) -> Split:
        """The samples of these sorted, distinct indices; all of them are not copied."""
        if len(keep) == len(self):
            return self
        return replace(
            self,
            labels=self.labels[keep],
            images=None if self.images is None else self.images[keep],
            paths=None if self.paths is None else [self.paths[i] for i in keep],
        )


@dataclass(frozen=True)
class Source:
    """The splits of a data set.

    Parameters
    ----------
    train : Split or None
        None only where it was not asked for (`Request.eval_only`).
    test : Split or None
        None only where `Request.one_split` allows it.
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
        What was guessed, or left out and how often: a line each.
    """

    train: Split | None
    test: Split | None
    class_names: list[str]
    root: Path | None = None
    common_size: int = 0
    val: Split | None = None
    train_root: Path | None = None
    notes: list[str] = field(default_factory=list)


def as_published(root: Path, train: Split, test: Split, published: tuple[int, int]) -> list[str]:
    """A note where an unpacked set, which no checksum vouches for, has other numbers of images than `published`."""
    found = len(train), len(test)
    if found == published:
        return []
    now, then = (f"{a:,} training and {b:,} test images" for a, b in (found, published))
    return [f"{root} is not the set that was published: it has {now}, not {then}"]
