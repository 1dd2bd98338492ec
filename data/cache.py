"""Decoded small images on disk, so that the second start, and the other processes, skip the decoding.

One file ``<data_dir>/cache/<set>-<size>.npz`` with the arrays, what is wrong with bad files, and a key of the
files' contents. Nothing in it can run (no pickle), and every byte is under the zip format's CRC.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from common import UserError, one_line, write_atomically

VERSION = 1  # of the decoding: raise it when the same files would give other pixels
_log = logging.getLogger(__name__)
Decoded = dict[str, tuple[np.ndarray, dict[int, str]]]  # a split's images, and what is wrong with bad ones


def read(file: Path, key: str) -> Decoded | None:
    """What was written under this key, or None."""
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            problems = json.loads(str(stored["problems"]))
            return {
                name: (stored[name], {int(i): x for i, x in bad.items()}) for name, bad in problems.items()
            }
    except Exception as error:  # a torn file can fail in any layer: zip, the array's header, memory
        _log.warning("%s is damaged (%s); decoding the images again", file, one_line(error))
        return None


def write(file: Path, key: str, decoded: Decoded) -> None:
    """Write the cache file, whole or not at all; where it cannot be written one warning says so."""
    problems = {name: bad for name, (_, bad) in decoded.items()}
    arrays: dict[str, Any] = {name: images for name, (images, _) in decoded.items()}
    arrays |= {"key": np.array(key), "problems": np.array(json.dumps(problems))}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda out: np.savez(out, **arrays))
    except (OSError, UserError) as error:
        _log.warning("decoded images are not cached: %s", one_line(error))
