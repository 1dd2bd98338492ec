"""Food-101 (Bossard et al. 2014): 101,000 photos; address and checksum are torchvision's."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import numpy as np
from torchvision.datasets import Food101

from .. import fetch
from ..errors import DataError, one_line
from ..source import Request, Source, Split, as_published

_TOP = "food-101"
_PUBLISHED = (75_750, 25_250)  # training and test images


def load(request: Request) -> Source:
    """``food-101/`` in `data_dir` (or `data_dir` itself), or its archive there, or a download.

    Raises
    ------
    DataError
        Missing and not to be had, an archive without the published md5, or damaged lists.
    """
    candidates = (request.data_dir / _TOP, request.data_dir)
    root = next((c for c in candidates if (c / "meta").is_dir() and (c / "images").is_dir()), None)
    if root is None:
        if candidates[0].exists():
            raise DataError(
                f"{candidates[0]} has no meta/ and images/ in it; remove it to have it unpacked again"
            )
        archive = fetch.Archive(f"{_TOP}.tar.gz", Food101._URL, Food101._MD5)
        packed = fetch.obtain(archive, request.data_dir, request.progress)
        root = fetch.unpack(packed, archive, _TOP, request.data_dir)
    lists = {split: _list(root, split) for split in ("train", "test")}
    class_names = sorted(lists["train"])
    train, test = (_split(root, lists[split], class_names) for split in ("train", "test"))
    return Source(train, test, class_names, root, notes=as_published(root, train, test, _PUBLISHED))


def _list(root: Path, split: str) -> dict[str, list[str]]:
    file = root / "meta" / f"{split}.json"
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
        good = isinstance(names, dict) and all(
            isinstance(name, str) and ".." not in PurePosixPath(name).parts and not name.startswith("/")
            for images in names.values()
            for name in images
        )
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{file} cannot be read: {one_line(error)}") from error
    if not good or len(names) < 2:
        raise DataError(f"{file} is damaged: expected a list of image names for each of two or more classes")
    return names


def _split(root: Path, images: dict[str, list[str]], class_names: list[str]) -> Split:
    unknown = sorted(set(images) - set(class_names))
    if unknown:
        raise DataError(f"class {unknown[0]!r} is in {root / 'meta' / 'test.json'} but not in train.json")
    labels = [class_names.index(name) for name, files in images.items() for _ in files]
    paths = [str(root / "images" / f"{file}.jpg") for files in images.values() for file in files]
    missing = next((path for path in paths if not Path(path).is_file()), None)
    if missing is not None:
        raise DataError(f"{missing} is missing; unpack {_TOP}.tar.gz again")
    return Split(np.array(labels, dtype=np.int64), paths=paths)
