"""Tiny-ImageNet (Stanford CS231N): 200 classes of 64 × 64 JPEGs in the layout of its official zip."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from torchvision.datasets.utils import download_and_extract_archive

from ..errors import DataError, one_line
from ..fetch import Archive, as_published, obtain
from ..images import find_images
from ..options import DataOptions
from ..source import Source, Split

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
SIZE = 248_100_043  # bytes
_TOP = "tiny-imagenet-200"
_SIDE = 64  # pixels
_PUBLISHED = (100_000, 10_000)  # training and test images


def load(name: str, root: Path, options: DataOptions) -> Source:
    """`root` itself or a folder in it that has ``wnids.txt``, the zip there, or a download.

    The test split is the official validation split, as published or sorted into class folders: the official
    test images have no labels.

    Raises
    ------
    DataError
        Missing and not to be had, a zip without the published md5, or files missing from the layout.
    """
    archive = Archive(root / f"{_TOP}.zip", URL, MD5, SIZE)
    top = _find(root) or obtain(root, [archive], lambda: _find(root) or _unpack(archive))
    wnids = _lines(top / "wnids.txt")
    if len(wnids) < 2:
        raise DataError(f"{top / 'wnids.txt'} lists {len(wnids)} class(es), expected two or more")
    words = dict(line.partition("\t")[::2] for line in _lines(top / "words.txt"))
    class_names = [words.get(wnid, wnid) for wnid in wnids]
    train, test = _by_folder(top / "train", wnids), _val(top / "val", wnids)
    return Source(train, test, class_names, top, _SIDE, notes=as_published(top, train, test, _PUBLISHED))


def _unpack(archive: Archive) -> Path:
    folder = archive.path.parent
    with tempfile.TemporaryDirectory(
        dir=folder, prefix=".part-"
    ) as part:  # half of it is never taken for all
        download_and_extract_archive(archive.url, folder, part, archive.path.name, archive.md5)
        os.replace(Path(part) / _TOP, folder / _TOP)
    return folder / _TOP


def _find(root: Path) -> Path | None:
    candidates = [root, root / _TOP]
    if root.is_dir():
        candidates += sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    return next((c for c in candidates if (c / "wnids.txt").is_file()), None)


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {one_line(error)}; unpack {_TOP}.zip again") from error


def _by_folder(folder: Path, wnids: list[str]) -> Split:
    paths: list[str] = []
    labels: list[int] = []
    for label, wnid in enumerate(wnids):
        images = find_images(folder / wnid)
        if not images:
            raise DataError(f"{folder / wnid} has no images in it; unpack {_TOP}.zip again")
        paths += images
        labels += [label] * len(images)
    return Split(np.array(labels, dtype=np.int64), paths=paths)


def _val(val: Path, wnids: list[str]) -> Split:
    if any((val / wnid).is_dir() for wnid in wnids):  # many preparation scripts sort it like train/
        if (val / "images").is_dir() and find_images(val / "images"):
            raise DataError(f"{val} is sorted into classes only in part; unpack {_TOP}.zip again")
        return _by_folder(val, wnids)
    labels_of = {wnid: label for label, wnid in enumerate(wnids)}
    annotations = val / "val_annotations.txt"
    paths: list[str] = []
    labels: list[int] = []
    for line in _lines(annotations):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        path = val / "images" / name
        if wnid not in labels_of or Path(name).name != name:
            raise DataError(f"{annotations}: {line!r} does not name an image and a class of wnids.txt")
        if not path.is_file():
            raise DataError(f"{path} is missing; unpack {_TOP}.zip again")
        paths.append(str(path))
        labels.append(labels_of[wnid])
    if not paths:
        raise DataError(f"{annotations} lists no images; unpack {_TOP}.zip again")
    return Split(np.array(labels, dtype=np.int64), paths=paths)
