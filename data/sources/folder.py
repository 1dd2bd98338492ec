"""Image folders: ``train/<class>/*`` with ``val/<class>/*``, ``test/<class>/*`` or both, of any kind."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..images import EXTENSIONS, common_square_size, find_images
from ..source import Request, Source, Split

_VALIDATION = ("val", "valid", "validation")  # one of them
_LAYOUT = "expected train/<class>/* and val/<class>/* (or test/<class>/*, or both)"


def load(request: Request) -> Source:
    """Classes are the sorted folder names of ``train/``; images may lie deeper.

    With both ``val/`` and ``test/`` the first is the validation split. A folder of class folders alone is
    training data where a part of it will be kept for validation, test data where nothing is trained.

    Raises
    ------
    DataError
        No such folder, a split or its images missing, fewer than two classes, an empty class, or a
        class that only another split has.
    """
    root = Path(os.path.expanduser(request.path))
    if not root.is_dir():
        what = "is a file, not a folder" if root.is_file() else "does not exist"
        raise DataError(f"folder {root} {what}; {_LAYOUT} in it")
    folders = _folders(root, request)
    train_root = folders.get("train")
    if train_root is not None:
        class_names = _classes(train_root)
    else:
        class_names = list(request.class_names)
    if len(class_names) < 2:
        raise DataError(
            f"{train_root} has {len(class_names)} class folder(s) in it, training needs two or more; "
            + _LAYOUT
        )
    notes: list[str] = []
    splits = {key: _split(folder, class_names, train_root, notes) for key, folder in folders.items()}
    sizes = ", ".join(f"{len(splits[key]):,} in {folder.name}/ ({key})" for key, folder in folders.items())
    notes.insert(0, f"images: {sizes}")
    return Source(
        splits.get("train"),
        splits.get("test"),
        class_names,
        root,
        common_square_size(*(split.paths for split in splits.values())),
        splits.get("val"),
        train_root,
        notes,
    )


def _folders(root: Path, request: Request) -> dict[str, Path]:
    """Which folder is the training, validation and test split."""
    train, test = root / "train", root / "test"
    found = [root / name for name in _VALIDATION if (root / name).is_dir()]
    if len(found) > 1:
        both = " and ".join(f"{folder.name}/" for folder in found)
        raise DataError(
            f"folder {root} has {both} in it: which one is for validation? Rename or remove the other"
        )
    folders = {"val": found[0]} if found else {}
    if test.is_dir():
        folders["test"] = test
    elif found:
        folders = {"test": found[0]}
    if train.is_dir():
        folders = {"train": train, **folders}
    elif not folders and request.one_split:
        folders = {"train": root}
    elif not folders and request.eval_only:
        folders = {"test": root}
    elif not request.eval_only:
        raise DataError(f"folder {root} has no train/ in it; {_LAYOUT}")
    if "train" not in folders and not request.class_names:
        raise DataError(f"folder {root} has no train/ in it, and the weights do not know their class names")
    if "test" not in folders and not request.one_split:
        raise DataError(
            f"folder {root} has neither val/ nor test/ in it; {_LAYOUT}; "
            "or keep a part of train/: --val-split 0.2"
        )
    return folders


def _classes(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _split(folder: Path, class_names: list[str], train_root: Path | None, notes: list[str]) -> Split:
    present = _classes(folder)
    if not present:
        raise DataError(f"{folder} has no class folders in it; {_LAYOUT}")
    unknown = [name for name in present if name not in class_names]
    absent = [name for name in class_names if name not in present]
    if unknown and train_root is not None:
        raise DataError(
            f"class {unknown[0]!r} is in {folder} but not in {train_root}; remove it or add training images"
        )
    if unknown:
        renamed = f" (there is no {absent[0]!r}: was it renamed?)" if absent else ""
        raise DataError(f"class {unknown[0]!r} is in {folder}, but the run has no such class{renamed}")
    if absent:
        notes.append(f"no class folder in {folder.name}/ for {_some(absent)}")
    number = {name: i for i, name in enumerate(class_names)}
    left_out: Counter[str] = Counter()
    paths: list[str] = []
    labels: list[int] = []
    classes: list[str] = []
    for name in present:
        before = left_out.total()
        images = find_images(folder / name, left_out)
        if left_out.total() > before:
            classes.append(name)
        if not images:
            raise DataError(
                f"class folder {folder / name} has no images in it; add some or remove the folder"
                + (f" ({_suffixes(left_out)} left out)" if left_out else "")
            )
        paths += images
        labels += [number[name]] * len(images)
    if left_out:
        notes.append(
            f"left out of {folder.name}/ for their suffix: {_suffixes(left_out)} of {_some(classes)}"
        )
    outside = [p.name for p in folder.iterdir() if p.is_file() and p.name.lower().endswith(EXTENSIONS)]
    outside = [name for name in outside if not name.startswith(".")]
    if outside:
        notes.append(f"left out of {folder.name}/: {len(outside)} images in no class folder")
    return Split(np.array(labels, dtype=np.int64), paths=paths)


def _suffixes(counts: Counter[str]) -> str:
    files = "file" if counts.total() == 1 else "files"
    kinds = ", ".join(f"{n} {suffix or 'without one'}" for suffix, n in counts.most_common())
    return f"{counts.total()} {files} ({kinds})"


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
