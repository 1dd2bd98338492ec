"""Fashion-MNIST (Xiao et al. 2017) in its four idx files, with torchvision's names and checksums."""

from __future__ import annotations

import gzip
import hashlib
import zlib

import numpy as np
from torchvision.datasets import FashionMNIST

from .. import fetch
from ..errors import DataError, one_line
from ..source import Request, Source, Split

_SIDE = 28  # pixels
_UNPACKED_MD5 = {
    "train-images-idx3-ubyte.gz": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte.gz": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte.gz": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte.gz": "15d484375f8d13e6eb1aabb0c3f46965",
}
_MAX_BYTES = 64 << 20  # unpacked, against bombs: the largest original has 47 MB


def load(request: Request) -> Source:
    """``FashionMNIST/raw/`` (torchvision's layout) or `data_dir` itself, packed or not; else a download.

    Raises
    ------
    DataError
        Missing and not to be had, damaged, or without the published md5.
    """
    splits = []
    resources = iter(FashionMNIST.resources)
    for images, labels in zip(resources, resources, strict=True):
        # the md5 vouches for the headers
        pixels = np.frombuffer(_read(request, *images), np.uint8, offset=16).reshape(-1, 1, _SIDE, _SIDE)
        classes = np.frombuffer(_read(request, *labels), np.uint8, offset=8)
        splits.append(Split(classes.astype(np.int64), pixels.copy()))
    train, test = splits
    return Source(train, test, list(FashionMNIST.classes), common_size=_SIDE)


def _read(request: Request, filename: str, md5: str) -> bytes:
    raw = request.data_dir / "FashionMNIST" / "raw"
    names = (filename, filename.removesuffix(".gz"))
    path = next((p / name for name in names for p in (raw, request.data_dir) if (p / name).is_file()), None)
    if path is None:
        archive = fetch.Archive(filename, FashionMNIST.mirrors[0] + filename, md5, max_size=_MAX_BYTES)
        path = fetch.obtain(archive, raw, request.progress)
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read(_MAX_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {one_line(error)}; move it away and get it again") from error
    # of the content, so that files which somebody unpacked or compressed anew pass
    found, expected = hashlib.md5(content, usedforsecurity=False).hexdigest(), _UNPACKED_MD5[filename]
    if found != expected:
        raise DataError(
            f"{path} is damaged or not Fashion-MNIST's (MNIST's files have the same names): the md5 of its "
            f"content is {found}, expected {expected}; move it away and get it again"
        )
    return content
