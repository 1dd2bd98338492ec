"""What a file in `data/sources/` hands over: where the images are and what they show."""

from __future__ import annotations

from dataclasses import dataclass
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
    """

    name: str
    data_dir: Path
    path: str = ""
    progress: bool = False


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


@dataclass(frozen=True)
class Source:
    """Both splits of a data set.

    Parameters
    ----------
    train, test : Split
    class_names : list of str
    root : Path, optional
        Folder that holds all `paths`, for sets that are image files.
    common_size : int
        Side in pixels if all images are squares of one size, else 0.
    """

    train: Split
    test: Split
    class_names: list[str]
    root: Path | None = None
    common_size: int = 0
