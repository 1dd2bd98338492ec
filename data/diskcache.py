"""Decoded images of a data set on disk, so that the second start skips the decoding.

One file ``<data_dir>/cache/<set>-<size>.npz``: the splits' uint8 tensors, which files were bad, and a
fingerprint of the files. Nothing in it can run (no pickle), every byte is under the zip format's CRC, and it
appears under its name only when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import UserError, write_atomically

from .errors import one_line

VERSION = 2  # of the decoding: raise it when the same files would give other pixels
_log = logging.getLogger(__name__)


def fingerprint(root: str | os.PathLike, splits: Sequence[Sequence[str]], how: object) -> str:
    """Digest of what decoding depends on: each file's path below `root`, size and time, and `how`.

    Parameters
    ----------
    root : path
    splits : sequence of sequence of str
        Image files of the training and of the test split, in order.
    how : Decoding
        Its text enters the digest.
    """
    digest = hashlib.sha256(f"version {VERSION}, {how}\n".encode())
    for paths in splits:
        digest.update(f"{len(paths)} files\n".encode())
        for path in paths:
            try:
                status = os.stat(path)
                size, time = status.st_size, status.st_mtime_ns
            except OSError:  # a link to nothing: decoding says what is wrong with it
                size = time = -1
            line = f"{os.path.relpath(path, root)}\0{size}\0{time}\n"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def read(
    file: Path, wanted: str, shapes: Sequence[tuple[int, ...]]
) -> tuple[list[np.ndarray], list[dict[int, str]]] | None:
    """The cached splits and their bad files, or None if there are none that can be trusted.

    Parameters
    ----------
    file : Path
    wanted : str
        The `fingerprint` of the files as they are now.
    shapes : sequence of tuple
        Expected shape of each split.
    """
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as stored:
            if str(stored["fingerprint"]) != wanted:
                return None
            splits = [stored[f"split{i}"] for i in range(len(shapes))]
            bad = [{int(i): text for i, text in part.items()} for part in json.loads(str(stored["bad"]))]
    except Exception as error:  # a torn file can fail in any layer: zip, zlib, the array's header, memory
        _log.warning("%s is damaged (%s); decoding the images again", file, one_line(error))
        return None
    if any(s.shape != shape or s.dtype != np.uint8 for s, shape in zip(splits, shapes, strict=True)):
        _log.warning("%s does not hold what its fingerprint says; decoding the images again", file)
        return None
    return splits, bad


def write(file: Path, digest: str, splits: Sequence[np.ndarray], bad: Sequence[dict[int, str]]) -> None:
    """Write the cache file, whole or not at all; where it cannot be written one warning says so."""
    arrays: dict[str, Any] = {f"split{i}": split for i, split in enumerate(splits)}
    known: dict[str, Any] = {"fingerprint": np.array(digest), "bad": np.array(json.dumps(list(bad)))}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda out: np.savez(out, **known, **arrays))
    except (OSError, UserError) as error:
        _log.warning("decoded images are not cached: %s", one_line(error))
