"""What a run remembers its data by: a digest of their contents."""

from __future__ import annotations

import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from .source import Source
from .workers import refusal

_ENDS = 64 << 10  # bytes of a file's beginning and of its end that are looked at
_CHUNK = 256  # files that a thread reads at a time


def fingerprint(source: Source, skip_bad: bool) -> str:
    """Digest of class names, labels and images: of files their names, sizes and both ends.

    It is the same wherever the files are, and whenever they were written.

    Raises
    ------
    DataError
        Files cannot be read, unless `skip_bad`.
    """
    digest = hashlib.sha256("\0".join(source.class_names).encode(errors="surrogateescape"))
    problems: list[str] = []
    for key in ("train", "val", "test"):
        split = getattr(source, key)
        if split is None:
            continue
        digest.update(f"\n{key} {len(split)}\n".encode())
        digest.update(split.labels.astype("<i8").tobytes())
        if split.paths is None:
            digest.update(str(split.images.shape).encode() + split.images.tobytes())
            continue
        chunks = [split.paths[first : first + _CHUNK] for first in range(0, len(split.paths), _CHUNK)]
        with ThreadPoolExecutor(8) as pool:  # disks and networks answer many at once
            contents = chain.from_iterable(pool.map(lambda paths: [*map(_content, paths)], chunks))
            for path, content in zip(split.paths, contents, strict=True):
                name = Path(os.path.relpath(path, source.root)).as_posix()
                digest.update(name.encode(errors="surrogateescape") + b"\0")
                if isinstance(content, bytes):
                    digest.update(content)
                else:
                    problems.append(f"{path}: {content}; remove or repair it")
    if problems and not skip_bad:
        raise refusal(problems)
    return digest.hexdigest()


def _content(path: str) -> bytes | str:
    """A digest of a file's size, beginning and end, or what is wrong with it."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return "not a regular file"  # a pipe would be waited for
        with open(path, "rb", buffering=0) as file:
            digest = hashlib.blake2b(f"{status.st_size}\0".encode(), digest_size=16)
            digest.update(file.read(_ENDS))
            if status.st_size > _ENDS:
                file.seek(max(_ENDS, status.st_size - _ENDS))
                digest.update(file.read(_ENDS))
        return digest.digest()
    except OSError as error:
        return "a link to nothing" if os.path.islink(path) else error.strerror or str(error)
