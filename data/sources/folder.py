"""Image folders: ``train/<class>/*`` and ``val/<class>/*`` (or ``test/``), images of any kind and size."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..images import common_square_size, find_images
from ..source import Request, Source, Split

_LAYOUT = "expected train/<class>/* and val/<class>/* (or test/<class>/*)"


def load(request: Request) -> Source:
    """Classes are the sorted folder names of ``train/``; images may lie deeper.

    Raises
    ------
    DataError
        No such folder, a split or its images missing, fewer than two classes, an empty class, or a
        class that only the test split has.
    """
    root = Path(os.path.expanduser(request.path))
    if not root.is_dir():
        what = "is a file, not a folder" if root.is_file() else "does not exist"
        raise DataError(f"folder {root} {what}; {_LAYOUT} in it")
    test_folder = next((root / name for name in ("val", "test") if (root / name).is_dir()), None)
    if not (root / "train").is_dir():
        raise DataError(f"folder {root} has no train/ in it; {_LAYOUT}")
    if test_folder is None:
        raise DataError(f"folder {root} has neither val/ nor test/ in it; {_LAYOUT}")

    class_names = _classes(root / "train")
    if len(class_names) < 2:
        raise DataError(
            f"{root / 'train'} has {len(class_names)} class folder(s) in it, training needs two or more; "
            + _LAYOUT
        )
    test_classes = _classes(test_folder)
    unknown = [name for name in test_classes if name not in class_names]
    if unknown:
        raise DataError(
            f"class {unknown[0]!r} is in {test_folder} but not in {root / 'train'}; "
            "remove it or add training images"
        )
    if not test_classes:
        raise DataError(f"{test_folder} has no class folders in it; {_LAYOUT}")
    train = _split(root / "train", class_names, class_names)
    test = _split(test_folder, test_classes, class_names)
    return Source(train, test, class_names, root, common_square_size(train.paths, test.paths))


def _classes(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _split(folder: Path, present: list[str], class_names: list[str]) -> Split:
    paths: list[str] = []
    labels: list[int] = []
    for name in present:
        images = find_images(folder / name)
        if not images:
            raise DataError(
                f"class folder {folder / name} has no images in it; add some or remove the folder"
            )
        paths += images
        labels += [class_names.index(name)] * len(images)
    return Split(np.array(labels, dtype=np.int64), paths=paths)
