"""Archives by torchvision's hands: each under its checksum, and what goes wrong in one line."""

from __future__ import annotations

import http.client
import io
import lzma
import socket
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torchvision.datasets.utils import calculate_md5

from .errors import DataError, one_line
from .locks import alone_in
from .source import Split

TIMEOUT_S = 20.0  # without a byte from the server
_FAILURES = (
    OSError, RuntimeError, ValueError, AssertionError, EOFError, http.client.HTTPException, tarfile.TarError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
T = TypeVar("T")


@dataclass(frozen=True)
class Archive:
    """A file that a data set comes in: where it lies, where it can be had, its checksum and bytes."""

    path: Path
    url: str
    md5: str
    size: int | None = None

    def check(self) -> None:
        """Refuse another file of this name, if there is one."""
        if self.path.is_file() and (found := calculate_md5(self.path)) != self.md5:
            raise DataError(
                f"{self.path} is damaged or not the original: its md5 is {found}, expected {self.md5}; "
                "move it away and get it again"
            )


def obtain(data_dir: Path, archives: Sequence[Archive], load: Callable[[], T]) -> T:
    """What `load` returns, which downloads and unpacks those of the `archives` that are missing.

    One process at a time: another one finds the files that the first has brought.

    Raises
    ------
    DataError
        A file there is not the original, or one is missing and cannot be downloaded.
    """
    patience = socket.getdefaulttimeout()
    with alone_in(data_dir):
        try:
            for archive in archives:
                archive.check()
            missing = [archive for archive in archives if not archive.path.is_file()]
            socket.setdefaulttimeout(TIMEOUT_S)
            with redirect_stdout(io.StringIO()):  # torchvision tells what it does; its bar goes to stderr
                return load()
        except DataError:
            raise
        except BaseException as error:
            for archive in missing:  # half a download would be taken for a damaged archive
                if archive.path.is_file() and calculate_md5(archive.path) != archive.md5:
                    archive.path.unlink()
            if not isinstance(error, _FAILURES):
                raise
            wanted = (missing or archives)[0]
            size = f", {wanted.size:,} bytes" if wanted.size else ""
            raise DataError(
                f"{wanted.path.name} is missing and could not be downloaded and unpacked ({one_line(error)}): "
                f"put it into {wanted.path.parent}; it can be had from {wanted.url} (md5 {wanted.md5}{size})"
            ) from error
        finally:
            socket.setdefaulttimeout(patience)


def as_published(root: Path, train: Split, test: Split, published: tuple[int, int]) -> list[str]:
    """A note where an unpacked set, which no checksum vouches for, has other numbers of images than `published`."""
    found = len(train), len(test)
    if found == published:
        return []
    now, then = (f"{a:,} training and {b:,} test images" for a, b in (found, published))
    return [f"{root} is not the set that was published: it has {now}, not {then}"]
