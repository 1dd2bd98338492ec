"""Tiny-ImageNet (Stanford CS231N): 200 classes of 64 × 64 JPEGs in the layout of its official zip."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import fetch
from ..errors import DataError, one_line
from ..images import find_images
from ..source import Request, Source, Split, as_published

ARCHIVE = fetch.Archive(
    "tiny-imagenet-200.zip",
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    "90528d7ca1a48142e341f4ef8d21d0de",
    size=248_100_043,
    max_unpacked=2 << 30,
)
_TOP = "tiny-imagenet-200"
_SIDE = 64  # pixels
_PUBLISHED = (100_000, 10_000)  # training and test images


def load(request: Request) -> Source:
    """`data_dir` itself or a folder in it that has ``wnids.txt``, the zip there, or a download.

    The test split is the official validation split, as published or sorted into class folders: the official
    test images have no labels.

    Raises
    ------
    DataError
        Missing and not to be had, a zip without the published size and md5, or files missing from the
        layout.
    """
    root = _find(request.data_dir)
    if root is None:
        packed = fetch.obtain(ARCHIVE, request.data_dir, request.progress)
        root = fetch.unpack(packed, ARCHIVE, _TOP, request.data_dir)
    wnids = _lines(root / "wnids.txt")
    if len(wnids) < 2:
        raise DataError(f"{root / 'wnids.txt'} lists {len(wnids)} class(es), expected two or more")
    words = dict(line.partition("\t")[::2] for line in _lines(root / "words.txt"))
    class_names = [words.get(wnid, wnid) for wnid in wnids]
    train, test = _by_folder(root / "train", wnids), _val(root, wnids)
    notes = as_published(root, train, test, _PUBLISHED)
    return Source(train, test, class_names, root, common_size=_SIDE, notes=notes)


def _find(data_dir: Path) -> Path | None:
    candidates = [data_dir, data_dir / _TOP]
    if data_dir.is_dir():
        candidates += sorted(p for p in data_dir.iterdir() if p.is_dir() and not p.name.startswith("."))
    return next((c for c in candidates if (c / "wnids.txt").is_file()), None)


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} cannot be read: {one_line(error)}; unpack {ARCHIVE.filename} again"
        ) from error


def _by_folder(folder: Path, wnids: list[str]) -> Split:
    paths: list[str] = []
    labels: list[int] = []
    for label, wnid in enumerate(wnids):
        images = find_images(folder / wnid)
        if not images:
            raise DataError(f"{folder / wnid} has no images in it; unpack {ARCHIVE.filename} again")
        paths += images
        labels += [label] * len(images)
    return Split(np.array(labels, dtype=np.int64), paths=paths)


def _val(root: Path, wnids: list[str]) -> Split:
    val = root / "val"
    if any((val / wnid).is_dir() for wnid in wnids):  # many preparation scripts sort it like train/
        if find_images(val / "images"):
            raise DataError(f"{val} is sorted into classes only in part; unpack {ARCHIVE.filename} again")
        return _by_folder(val, wnids)
    labels_of = {wnid: label for label, wnid in enumerate(wnids)}
    annotations = root / "val" / "val_annotations.txt"
    paths: list[str] = []
    labels: list[int] = []
    for line in _lines(annotations):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in labels_of or Path(name).name != name:
            raise DataError(f"{annotations}: {line!r} does not name an image and a class of wnids.txt")
        path = root / "val" / "images" / name
        if not path.is_file():
            raise DataError(f"{path} is missing; unpack {ARCHIVE.filename} again")
        paths.append(str(path))
        labels.append(labels_of[wnid])
    if not paths:
        raise DataError(f"{annotations} lists no images; unpack {ARCHIVE.filename} again")
    return Split(np.array(labels, dtype=np.int64), paths=paths)
