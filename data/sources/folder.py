"""Image folders: ``train/<class>/*`` with ``val/<class>/*``, ``test/<class>/*`` or both, of any kind."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..images import EXTENSIONS, common_square_size, find_images, is_hidden, suffixes
from ..source import Request, Source, Split

# What the folders of the splits are called, in any case.
_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
_PURPOSE = {"train": "training", "val": "validation", "test": "testing"}
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
    unused = [name for name in _classes(root) if root / name not in folders.values()]
    if unused and root not in folders.values():
        notes.append(
            f"not used: the folder{'s' * (len(unused) > 1)} {_some(unused)} beside {train_root or root}"
        )
    notes += _alike(class_names)
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
    folders = {}
    for key, names in _NAMES.items():
        found = sorted(p for p in root.iterdir() if p.is_dir() and p.name.lower() in names)
        if len(found) > 1:
            both = " and ".join(f"{folder.name}/" for folder in found)
            raise DataError(
                f"folder {root} has {both} in it: which one is for {_PURPOSE[key]}? Rename or remove the other"
            )
        if found:
            folders[key] = found[0]
    if "test" not in folders and "val" in folders:
        folders["test"] = folders.pop("val")
    if not folders and (request.one_split or request.eval_only):
        folders = {"train" if request.one_split else "test": root}
    if "train" not in folders and not request.eval_only:
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
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name))


def _alike(names: list[str]) -> list[str]:
    """A note for class names that look the same: in another case, of other Unicode, with a blank at the end."""
    spellings: dict[str, list[str]] = {}
    for name in names:
        spellings.setdefault(unicodedata.normalize("NFKC", name).casefold().strip(), []).append(name)
    return [
        f"{' and '.join(map(ascii, same))} are classes of their own: if they are one, move their images together"
        for same in spellings.values()
        if len(same) > 1
    ]


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
    below: set[tuple[str, ...]] = set()  # the folders that the images of a class lie in
    for name in present:
        before = left_out.total()
        images = find_images(folder / name, left_out)
        if left_out.total() > before:
            classes.append(name)
        if not images:
            raise DataError(
                f"class folder {folder / name} has no images in it; add some or remove the folder"
                + (f" ({suffixes(left_out)} left out)" if left_out else "")
            )
        start = len(str(folder / name)) + 1
        below.add(tuple(sorted({path[start:].rpartition(os.sep)[0].partition(os.sep)[0] for path in images})))
        paths += images
        labels += [number[name]] * len(images)
    if left_out:
        notes.append(f"left out of {folder.name}/ for their suffix: {suffixes(left_out)} of {_some(classes)}")
    if len(below) == 1 and len(deeper := below.pop()) > 1 and "" not in deeper:
        notes.append(
            f"every class of {folder.name}/ has its images in {_some(list(deeper))}: if those are the classes, "
            "give the folder that holds them"
        )
    outside = [p.name for p in folder.iterdir() if p.is_file() and p.name.lower().endswith(EXTENSIONS)]
    outside = [name for name in outside if not name.startswith(".")]
    if outside:
        notes.append(f"left out of {folder.name}/: {len(outside)} images in no class folder")
    return Split(np.array(labels, dtype=np.int64), paths=paths)


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
