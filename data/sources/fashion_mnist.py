"""Fashion-MNIST (Xiao et al. 2017) in its four idx files, with torchvision's names and checksums."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from torchvision.datasets import FashionMNIST

from .. import fetch
from ..errors import DataError, one_line
from ..source import Request, Source, Split

_UBYTE = 0x08  # idx: element type in the third byte of the magic number, dimensions in the fourth
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
        Missing and not to be had, without the published md5, or no idx file of the shape expected.
    """
    arrays = [_read(request, filename, md5) for filename, md5 in FashionMNIST.resources]
    splits = []
    for images, labels in (arrays[:2], arrays[2:]):
        square = images.ndim == 3 and images.shape[1] == images.shape[2] > 0
        if not square or not len(images) or labels.shape != images.shape[:1]:
            raise DataError(f"fashion-mnist: images {images.shape} and labels {labels.shape} do not match")
        if labels.max(initial=0) >= len(FashionMNIST.classes):
            raise DataError(f"fashion-mnist: label {labels.max()} is not one of its ten classes")
        splits.append(Split(labels.astype(np.int64), images[:, None]))
    train, test = splits
    return Source(train, test, list(FashionMNIST.classes), common_size=train.images.shape[-1])


def _read(request: Request, filename: str, md5: str) -> np.ndarray:
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
    # Debian compresses the same files anew; for unpacked ones torchvision has no checksum either
    if path.suffix == ".gz" and _md5(content) != _UNPACKED_MD5[filename]:
        fetch.verify(path, md5)
    return _idx(content, path)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _idx(content: bytes, path: Path) -> np.ndarray:
    try:
        zeros, kind, dimensions = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{dimensions}I", content, 4)
    except struct.error as error:
        raise DataError(f"{path} is damaged: {one_line(error)}; move it away and get it again") from error
    start = 4 + 4 * dimensions
    if zeros or kind != _UBYTE or dimensions > 3 or len(content) != start + math.prod(shape):
        raise DataError(f"{path} is damaged: its header and its length differ; move it away and get it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()
