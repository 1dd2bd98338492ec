"""Image folders: ``train/<class>/*`` with ``val/<class>/*``, ``test/<class>/*`` or both, of any kind."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..images import EXTENSIONS, common_square_size, find_images, is_system_folder, suffixes
from ..options import DataOptions
from ..source import Source, Split

# What the folders of the splits are called, in any case.
_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
_LAYOUT = "expected train/<class>/* and val/<class>/* (or test/<class>/*, or both)"


def load(name: str, root: Path, options: DataOptions) -> Source:
    """Classes are the sorted folder names of ``train/``; images may lie deeper.

    With both ``val/`` and ``test/`` the first is the validation split. A folder of class folders alone is
    training data where a part of it will be kept for validation, test data where nothing is trained.

    Raises
    ------
    DataError
        No such folder, a split or its images missing, fewer than two classes, an empty class, or a
        class that only another split has.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.is_file() else "does not exist"
        raise DataError(f"folder {root} {what}; {_LAYOUT} in it")
    folders = _splits(root, options)
    train_root = folders.get("train")
    class_names = list(_classes(train_root)) if train_root else [_form(n) for n in options.class_names]
    if len(class_names) < 2:
        raise DataError(
            f"{train_root} has {len(class_names)} class folder(s) in it, training needs two or more; "
            + _LAYOUT
        )
    left_out: Counter[str] = Counter()
    splits = {key: _read(folder, class_names, train_root, left_out) for key, folder in folders.items()}
    sizes = ", ".join(f"{len(splits[key]):,} in {folder.name}/ ({key})" for key, folder in folders.items())
    others = f"; left out: {suffixes(left_out)}" if left_out else ""
    for key, split in splits.items():
        absent = [name for i, name in enumerate(class_names) if i not in split.labels]
        others += (
            f"; no image of {', '.join(map(repr, absent[:5]))} in {folders[key].name}/" if absent else ""
        )
    return Source(
        splits.get("train"),
        splits.get("test"),
        class_names,
        root,
        common_square_size(*(split.paths for split in splits.values())),
        splits.get("val"),
        train_root,
        [f"images: {sizes}{others}"],
    )


def _splits(root: Path, options: DataOptions) -> dict[str, Path]:
    """Which folder is the training, validation and test split."""
    alone = options.val_split > 0
    folders = {}
    for key, names in _NAMES.items():
        found = sorted(p for p in root.iterdir() if p.is_dir() and p.name.lower() in names)
        if len(found) > 1:
            both = " and ".join(f"{folder.name}/" for folder in found)
            raise DataError(f"folder {root} has {both} in it: which one is meant? Rename or remove the other")
        if found:
            folders[key] = found[0]
    if "test" not in folders and "val" in folders:
        folders["test"] = folders.pop("val")
    if not folders and (alone or options.eval_only):
        folders = {"train" if alone else "test": root}
    if "train" not in folders and not options.eval_only:
        raise DataError(f"folder {root} has no train/ in it; {_LAYOUT}")
    if "train" not in folders and not options.class_names:
        raise DataError(f"folder {root} has no train/ in it, and the weights do not know their class names")
    if "test" not in folders and not alone:
        raise DataError(
            f"folder {root} has neither val/ nor test/ in it; {_LAYOUT}; "
            "or keep a part of train/: --val-split 0.2"
        )
    return folders


def _form(name: str) -> str:
    """One of the two ways in which Unicode writes accents: file systems differ."""
    return unicodedata.normalize("NFC", name)


def _classes(folder: Path) -> dict[str, Path]:
    """The class folders by name, sorted."""
    found: dict[str, Path] = {}
    for path in folder.iterdir():
        if is_system_folder(path.name):
            continue
        if path.is_symlink() and not path.exists():
            raise DataError(f"{path} is a link to nothing: remove or repair it")
        if path.is_dir():
            if _form(path.name) in found:
                raise DataError(f"{folder} has two folders {path.name!r}, written differently in Unicode")
            found[_form(path.name)] = path
    return dict(sorted(found.items()))


def _read(folder: Path, class_names: list[str], train_root: Path | None, left_out: Counter[str]) -> Split:
    """The images and labels of a split; counts files that are no images, or are in no class, in `left_out`."""
    present = _classes(folder)
    if not present:
        raise DataError(f"{folder} has no class folders in it; {_LAYOUT}")
    unknown = [name for name in present if name not in class_names]
    if unknown and train_root is not None:
        raise DataError(
            f"class {unknown[0]!r} is in {folder} but not in {train_root}; remove it or add training images"
        )
    if unknown:
        absent = [name for name in class_names if name not in present]
        renamed = f" (there is no {absent[0]!r}: was it renamed?)" if absent else ""
        raise DataError(f"class {unknown[0]!r} is in {folder}, but the run has no such class{renamed}")
    paths: list[str] = []
    labels: list[int] = []
    for name, class_folder in present.items():
        others: Counter[str] = Counter()
        images = find_images(class_folder, others)
        if not images:
            raise DataError(
                f"class folder {class_folder} has no images in it; add some or remove the folder"
                + (f" ({suffixes(others)} left out)" if others else "")
            )
        left_out += others
        paths += images
        labels += [class_names.index(name)] * len(images)
    for path in folder.iterdir():
        if path.is_file() and path.name.lower().endswith(EXTENSIONS) and not path.name.startswith("."):
            left_out[f"{path.suffix.lower()} in no class folder"] += 1
    return Split(np.array(labels, dtype=np.int64), paths=paths)
