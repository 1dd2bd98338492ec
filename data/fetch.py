"""Archives: found, verified, downloaded, unpacked. Nothing is written outside the folder given.

A download or an unpacked tree first lives under a temporary name in that folder and is renamed when it is
complete and verified, so nothing half done is ever taken for the whole. Files the user put there are read,
never changed.
"""

from __future__ import annotations

import http.client
import lzma
import os
import shutil
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from torchvision.datasets.utils import calculate_md5
from tqdm import tqdm

from .errors import DataError, one_line

TIMEOUT_S = 20.0  # without a byte from the server
_DAMAGED: tuple[type[Exception], ...] = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
)
_DAMAGED += (ValueError, RuntimeError)  # of headers, and of encrypted members


@dataclass(frozen=True)
class Archive:
    """A file that a data set comes in.

    Parameters
    ----------
    filename, url, md5 : str
    size : int, optional
        Bytes, where published.
    max_size : int
        Bytes that a download may have.
    max_unpacked : int
        Bytes that all members together may have.
    """

    filename: str
    url: str
    md5: str
    size: int | None = None
    max_size: int = 8 << 30
    max_unpacked: int = 16 << 30


def verify(path: Path, md5: str, size: int | None = None) -> None:
    """Raise `DataError` naming `path` unless it has this md5 (and size in bytes)."""
    try:
        found_size = path.stat().st_size
        if size is not None and found_size != size:
            raise DataError(
                f"{path} is damaged or not the original: it has {found_size:,} bytes, expected {size:,}; "
                "move it away and get it again"
            )
        found = calculate_md5(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}") from error
    if found != md5:
        raise DataError(
            f"{path} is damaged or not the original: its md5 is {found}, expected {md5}; "
            "move it away and get it again"
        )


def obtain(archive: Archive, folder: Path, progress: bool) -> Path:
    """The verified file in `folder`, downloaded if it is not there.

    Raises
    ------
    DataError
        The file there is not the original, or there is none and it cannot be downloaded.
    """
    if (folder / archive.filename).is_file():
        verify(folder / archive.filename, archive.md5, archive.size)
        return folder / archive.filename
    try:
        with temporary_folder(folder) as temporary:
            part = temporary / archive.filename
            download(archive.url, part, archive.size or archive.max_size, progress)
            verify(part, archive.md5, archive.size)
            os.replace(part, folder / archive.filename)
    except (OSError, http.client.HTTPException, DataError) as error:
        size = f", {archive.size:,} bytes" if archive.size else ""
        reason = getattr(error, "reason", None)
        reason = reason if isinstance(reason, OSError) else error
        raise DataError(
            f"{archive.filename} is missing and could not be downloaded ({one_line(reason)}): put it into "
            f"{folder}; it can be had from {archive.url} (md5 {archive.md5}{size})"
        ) from error
    return folder / archive.filename


def download(url: str, target: Path, max_size: int, progress: bool) -> None:
    """Write what `url` gives to `target`, at most `max_size` bytes of it.

    Raises
    ------
    OSError, http.client.HTTPException, DataError
        No answer for `TIMEOUT_S`, any other failure of network or disk, or more bytes than allowed.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "rooted-loss"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response, open(target, "wb") as out:
        hidden = None if progress else True  # None: tqdm shows itself on terminals only
        bar = tqdm(total=response.length, desc=target.name, unit="B", unit_scale=True, disable=hidden)
        with bar:
            while chunk := response.read(1 << 20):
                if out.tell() + len(chunk) > max_size:
                    raise DataError(f"{url} sends more than {max_size:,} bytes")
                out.write(chunk)
                bar.update(len(chunk))
        out.flush()
        os.fsync(out.fileno())


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A hidden folder in `parent` (made if need be) that is gone afterwards.

    Raises
    ------
    DataError
        `parent` cannot be written.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=parent, prefix=".part-"))
    except OSError as error:
        raise DataError(f"{parent} cannot be written: {one_line(error)}") from error
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def unpack(path: Path, archive: Archive, top: str, folder: Path) -> Path:
    """Unpack a verified tar or zip archive and return ``folder/top``.

    Parameters
    ----------
    path : Path
        The archive.
    archive : Archive
    top : str
        The one folder in the archive that is wanted.
    folder : Path
        Where `top` goes.

    Raises
    ------
    DataError
        The archive is damaged, too large, has members that would leave the folder (absolute paths, '..',
        links, devices), or the disk is full.
    """
    with temporary_folder(folder) as temporary:
        try:
            (_unzip if zipfile.is_zipfile(path) else _untar)(path, temporary, archive.max_unpacked)
            if not (temporary / top).is_dir():
                raise DataError(f"{path} has no folder {top} in it")
            if not (folder / top).is_dir():  # else another process was quicker
                os.replace(temporary / top, folder / top)
        except _DAMAGED as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} is damaged: {one_line(error)}; move it away and get it again") from error
        except OSError as error:
            if (folder / top).is_dir():
                return folder / top
            raise DataError(f"{path} cannot be unpacked into {folder}: {one_line(error)}") from error
    return folder / top


def _check_member(path: Path, name: str, plain: bool) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if not plain or parts.is_absolute() or ".." in parts.parts or ":" in name:
        raise DataError(f"{path} refused: its member {name!r} would be written outside the data directory")


def _check_size(path: Path, total: int, limit: int) -> None:
    if total > limit:
        raise DataError(f"{path} refused: it unpacks to {total:,} bytes, expected at most {limit:,}")


def _unzip(path: Path, folder: Path, limit: int) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for member in members:
            # the upper half of the attributes is the Unix mode: what is neither file nor folder may be a link
            kind = (member.external_attr >> 16) & 0o170000
            _check_member(path, member.filename, kind in (0, 0o100000, 0o040000))
        _check_size(path, sum(member.file_size for member in members), limit)
        archive.extractall(folder)


def _untar(path: Path, folder: Path, limit: int) -> None:
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        for member in members:
            _check_member(path, member.name, member.isfile() or member.isdir())
        _check_size(path, sum(member.size for member in members), limit)
        safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder, members, **safe)
