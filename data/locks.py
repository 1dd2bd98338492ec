"""One process at a time downloads, unpacks or decodes into a data directory; the others then find what it left."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from common import NO_LOCKS

_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC}
_log = logging.getLogger(__name__)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait for other processes that work in `folder`, however long a download lasts; a signal ends the wait.

    Where the file system has no locks a warning says so; where nothing can be written none is needed.
    """
    lock = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        number = getattr(error, "errno", errno.ENOSYS)
        if number in NO_LOCKS:
            _log.warning("%s cannot be locked: do not start several first runs at once", folder)
        elif number not in _READ_ONLY:
            raise
        lock = None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
