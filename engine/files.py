"""Files that are whole or not there. Without torch, so that tools that only read runs start at once."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from .cli import UserError


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file, then put it in the place of `path` in one step.

    Whatever goes wrong, a full disk or a power cut included, `path` is either the old file or the new one.

    Raises
    ------
    UserError
        If the file cannot be written; the old one is untouched.
    """
    if not path.name:
        raise UserError(f"cannot write {path}: it is a directory")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        kept = "; the previous one is untouched" if path.exists() else ""
        raise UserError(f"cannot write {path}: {error.strerror or error}{kept}") from error
    finally:
        with suppress(OSError):  # it is gone, or was never there
            temporary.unlink()


def _sync_directory(path: Path) -> None:
    """Make a rename in `path` survive a power cut, where the system lets a directory be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
