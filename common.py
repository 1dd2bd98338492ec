"""What every folder may import: the user's error, near matches, the machine, files that are whole, pictures.

No torch at import time, so that command lines which only read names or runs start at once.
"""

import difflib
import io
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

EXIT_USAGE = 2
EXIT_DIVERGED = 3

# Okabe & Ito's palette, told apart by everyone: black, blue, vermilion, green, purple, orange, sky blue.
OKABE_ITO = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


class UserError(Exception):
    """A user's mistake, or what a user can fix; its text is the one line printed before the exit code.

    Every other exception is a bug of ours and keeps its traceback.
    """

    exit_code = EXIT_USAGE

    def __init__(self, message: object, exit_code: int | None = None) -> None:
        super().__init__(str(message))
        if exit_code is not None:
            self.exit_code = exit_code


def one_line(error: object, limit: int = 10_000) -> str:
    """The message of any exception, on one line, never empty; what is longer is cut between two words."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit].rpartition(' ')[0] or text[:limit]} …"


def did_you_mean(name: str, known: Iterable[str], n: int = 1) -> str:
    """``"; did you mean a or b?"`` for the `n` nearest of the `known` names; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def printable(text: str) -> str:
    """A name from a file as it can be drawn."""
    return "".join(c if c.isprintable() else "?" for c in text)


def picture(figure: Any, form: str = "png", dpi: int = 110, **options: Any) -> bytes:
    """What a file of a figure of matplotlib's holds; names in any script are drawn without a warning."""
    image = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(image, format=form, dpi=dpi, **options)
    return image.getvalue()


def cores() -> int:
    """Processor cores of this process: its affinity, and its container's quota where that is lower."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup, or "max"
        pass
    return count


def local_world_size() -> int:
    """Processes of one torchrun on this machine, which share its cores and memory."""
    try:
        return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    except ValueError:
        return 1


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file, then put it in the place of `path` in one step.

    Whatever goes wrong, a full disk or a power cut included, `path` is either the old file or the new one.

    Raises
    ------
    UserError
        If the file cannot be written; the old one is untouched.
    """
    path = Path(path)
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


def may_replace(path: str | os.PathLike, beginning: bytes) -> bool:
    """Whether a program may write over `path`: it is new, empty, no file (/dev/stdout), or one of its own.

    Parameters
    ----------
    path : path
    beginning : bytes
        A regular expression that the program's own files begin with.
    """
    if not os.path.isfile(path):
        return True
    with open(path, "rb") as file:
        return re.match(beginning + rb"|\Z", file.read(1000)) is not None


def load_tensors(path: Path, safe_globals: Iterable[Any] = ()) -> object:
    """What ``torch.save`` wrote to `path`, on the CPU: checksums tested, no code run.

    Parameters
    ----------
    path : path
    safe_globals : iterable of classes
        Plain data that ``weights_only=True`` may build besides its own.

    Raises
    ------
    UserError
        ``"<path> <what is wrong>"``: not there, damaged, compressed (a zip bomb?), or it would run code.
    """
    import torch

    if not os.path.isfile(path):  # pathlib raises for names too long
        raise UserError(f"{path} is {'a directory' if os.path.isdir(path) else 'not there'}")
    try:
        with warnings.catch_warnings():  # what torch would warn of, the errors below say
            warnings.simplefilter("ignore")
            if zipfile.is_zipfile(path):  # torch does not look at the checksums that it wrote
                with zipfile.ZipFile(path) as archive:
                    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                        raise ValueError("it is compressed, which torch.save never does")
                    damaged = archive.testzip()
                if damaged:
                    raise ValueError(f"the checksum of {damaged} is wrong")
            with torch.serialization.safe_globals(list(safe_globals)):
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = []
        with suppress(Exception):  # damaged, or the format before torch 1.6: then nobody knows
            foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            foreign = sorted(set(foreign) - {_global_name(item) for item in safe_globals})
        what = f"; in the way: {', '.join(foreign[:3])}" if foreign else ""
        raise UserError(
            f"{path} is not a file of plain tensors: it is damaged, or would run code when loaded{what}"
        ) from error
    except Exception as error:  # a damaged file can fail anywhere in zip, pickle or tensor decoding
        reason = one_line(error, 200)
        if not str(error).strip() or isinstance(
            error, LookupError
        ):  # torch's pickle reader met a byte it does not know
            reason = "not a checkpoint, or not all of it"
        raise UserError(f"{path} is damaged: it cannot be read ({reason})") from error


def _global_name(item) -> str:
    return item[1] if isinstance(item, tuple) else f"{item.__module__}.{item.__qualname__}"
