"""CIFAR-10, CIFAR-100, MNIST, Fashion-MNIST and Food-101: torchvision downloads, checks and reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torchvision import datasets

from ..errors import DataError
from ..fetch import Archive, as_published, obtain
from ..options import DataOptions
from ..source import Source, Split

_CIFAR = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
_MNIST = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}
# torchvision takes the unpacked files of the MNISTs by their names, and both have the same names.
_UNPACKED_MD5 = {
    "mnist": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}
_FOOD_IMAGES = (75_750, 25_250)  # training and test


def load(name: str, root: Path, options: DataOptions) -> Source:
    """The unpacked files in `root`, in torchvision's layout, or its archives there, or a download.

    Raises
    ------
    DataError
        Missing and not to be had, or a file without the published md5.
    """
    if name == "food-101":
        return _food(root)
    return _cifar(_CIFAR[name], root) if name in _CIFAR else _mnist(name, _MNIST[name], root)


def _cifar(cls: type[datasets.CIFAR10], root: Path) -> Source:
    archive = Archive(root / cls.filename, cls.url, cls.tgz_md5)
    train, test = obtain(
        root, [archive], lambda: [cls(root, train=True, download=True), cls(root, train=False)]
    )
    train_split, test_split = (
        # torchvision turns the images to height × width × channel
        Split(np.array(s.targets, dtype=np.int64), np.ascontiguousarray(s.data.transpose(0, 3, 1, 2)))
        for s in (train, test)
    )
    return Source(train_split, test_split, list(train.classes), common_size=32)


def _mnist(name: str, cls: type[datasets.MNIST], root: Path) -> Source:
    raw = root / cls.__name__ / "raw"
    packed = [Archive(raw / file, cls.mirrors[0] + file, md5) for file, md5 in cls.resources]
    unpacked = [
        Archive(raw / file, f"{cls.mirrors[0]}{file}.gz", md5) for file, md5 in _UNPACKED_MD5[name].items()
    ]
    train, test = obtain(
        root, [*packed, *unpacked], lambda: [cls(root, train=True, download=True), cls(root, train=False)]
    )
    train_split, test_split = (
        Split(s.targets.numpy().astype(np.int64), s.data.numpy()[:, None]) for s in (train, test)
    )
    return Source(train_split, test_split, list(cls.classes), common_size=28)


def _food(root: Path) -> Source:
    cls = datasets.Food101
    archive = Archive(root / cls._URL.rpartition("/")[2], cls._URL, cls._MD5)
    found = obtain(root, [archive], lambda: [cls(root, "train", download=True), cls(root, "test")])
    train, test = (
        Split(np.array(s._labels, dtype=np.int64), paths=[str(path) for path in s._image_files])
        for s in found
    )
    folder = root / "food-101"
    missing = next((path for path in (*train.paths, *test.paths) if not Path(path).is_file()), None)
    if missing is not None:
        raise DataError(f"{missing} is missing; remove {folder} to have it unpacked again")
    notes = as_published(folder, train, test, _FOOD_IMAGES)
    return Source(train, test, list(found[0].classes), folder, notes=notes)
