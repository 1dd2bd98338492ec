"""Fashion-MNIST (Xiao et al. 2017) in its four idx files, with torchvision's names and checksums."""

from __future__ import annotations

import gzip
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
        if images.ndim != 3 or labels.shape != images.shape[:1] or images.shape[1] != images.shape[2]:
            raise DataError(f"fashion-mnist: images {images.shape} and labels {labels.shape} do not match")
        splits.append(Split(labels.astype(np.int64), images[:, None]))
    train, test = splits
    return Source(train, test, list(FashionMNIST.classes), common_size=train.images.shape[-1])


def _read(request: Request, filename: str, md5: str) -> np.ndarray:
    raw = request.data_dir / "FashionMNIST" / "raw"
    plain = next((p / filename[:-3] for p in (raw, request.data_dir) if (p / filename[:-3]).is_file()), None)
    packed = [p for p in (raw, request.data_dir) if (p / filename).is_file()]
    if plain is not None and not packed:
        return _idx(plain)
    archive = fetch.Archive(filename, FashionMNIST.mirrors[0] + filename, md5, max_size=_MAX_BYTES)
    return _idx(fetch.obtain(archive, raw, request.progress, also_in=[request.data_dir]))


def _idx(path: Path) -> np.ndarray:
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read(_MAX_BYTES)
        zeros, kind, dimensions = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{dimensions}I", content, 4)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"{path} is damaged: {one_line(error)}; move it away and get it again") from error
    start = 4 + 4 * dimensions
    if zeros or kind != _UBYTE or len(content) != start + math.prod(shape):
        raise DataError(f"{path} is damaged: not an idx file of {shape} bytes; move it away and get it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()
