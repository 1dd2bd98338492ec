"""What every folder may import: the user's error in one line, types of flags, the machine, atomic files, pictures.

No torch at import time, so that command lines which only read names or runs start at once.
"""

import argparse
import difflib
import errno
import io
import math
import os
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

NO_LOCKS = {
    errno.ENOLCK,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
}  # what NFS, Lustre and FUSE say where they have no locks
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


def spelling(name: str) -> str:
    """One spelling of the name of a net, a data set or a loss: ``ViT_Tiny`` and ``vit-tiny`` are the same.

    ``timm:NAME`` keeps its name, and ``folder:PATH`` becomes the real path.
    """
    kind, colon, rest = str(name).partition(":")
    kind = re.sub(r"[-_\s]", "", kind.lower())
    if colon and kind == "folder":
        rest = os.path.realpath(os.path.expanduser(rest))
    return kind + colon + rest


def printable(text: str) -> str:
    """A name from a file as it can be drawn."""
    return "".join(c if c.isprintable() else "?" for c in text)


def draw(path: Path, make: Callable[[], Any], **options: Any) -> None:
    """Draw the figure of matplotlib's that `make` returns into the file `path`, atomically.

    The user's matplotlibrc has no say. A picture that fails is a note: it never ends a program.
    """
    # A notebook's backend may not be there, and matplotlib would then fail to import.
    os.environ["MPLBACKEND"] = "agg"
    try:
        import matplotlib

        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # names may be in any script
            matplotlib.rcdefaults()
            image = io.BytesIO()
            make().savefig(image, format=Path(path).suffix[1:], **{"dpi": 110} | options)
        write_atomically(path, lambda file: file.write(image.getvalue()))
    except Exception as error:
        print(f"note    {path} was not drawn: {one_line(error, 200)}", flush=True)


def cores() -> int:
    """Processor cores of this process: within its affinity and its container's quota, shared with torchrun's others."""
    from joblib import cpu_count

    return max(1, cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE") or 1))


def pick_device(name: str, local_rank: int = 0) -> Any:
    """The device of that name, or the first of cuda, mps, cpu; UserError if it is not there."""
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(n for n, there in available.items() if there)
    if not available[name]:
        there = ", ".join(n for n, yes in available.items() if yes)
        raise UserError(f"--device {name} is not available on this machine; available: {there}")
    if name != "cuda":
        return torch.device(name)
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} of this machine has no GPU: torchrun --nproc_per_node must be at most "
            f"{torch.cuda.device_count()} here"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


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
    except OSError as error:
        kept = "; the previous one is untouched" if path.exists() else ""
        raise UserError(f"cannot write {path}: {error.strerror or error}{kept}") from error
    finally:
        with suppress(OSError):  # it is gone, or was never there
            temporary.unlink()
    with suppress(OSError):  # the rename survives a power cut, where the system can sync a directory
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


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


def load_tensors(path: str | os.PathLike) -> object:
    """What ``torch.save`` wrote to `path`, on the CPU; no code is run, and the checksums are tested.

    ``argparse.Namespace`` is allowed: training scripts keep their flags in one beside the weights.

    Raises
    ------
    UserError
        The file is not there, is damaged, or would run code when loaded.
    """
    import torch

    if not os.path.isfile(path):  # pathlib raises for names too long
        raise UserError(f"{path} is {'a directory' if os.path.isdir(path) else 'not there'}")
    try:
        # torch writes checksums and does not read them
        damaged = zipfile.ZipFile(path).testzip() if zipfile.is_zipfile(path) else None
        if damaged:
            raise ValueError(f"the checksum of {damaged} is wrong")
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch warns of, the errors below say
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message advises to load it unsafely
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({foreign[1]})" if foreign else ""
        raise UserError(
            f"{path} is not a file of plain tensors: it is damaged, or would run code when loaded{what}"
        ) from error
    except Exception as error:  # a damaged file can fail anywhere in zip, pickle or tensor decoding
        reason = one_line(str(error) or type(error).__name__, 100)
        raise UserError(f"{path} is damaged: it cannot be read ({reason})") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the host, had no room for a tensor; torch says so in several ways."""
    said = (
        "allocate memory", "Storage size calculation overflowed", "not enough memory", "CUDA error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "out of memory",
    )  # fmt: skip
    return isinstance(error, MemoryError) or any(text in str(error) for text in said)


# What a disk may do to any program, and is no bug of ours: it is full, read-only or broken, a quota or limit is met.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


class Parser(argparse.ArgumentParser):
    """``argparse.ArgumentParser`` whose errors are one line, and which knows what was really typed.

    The first paragraph of `documentation` becomes the description, the second the examples at the end.
    """

    def __init__(self, prog: str, documentation: str | None) -> None:
        # python -OO leaves no docstrings
        description, examples, *_ = [*(documentation or f"{prog}\n\n").strip("\n").split("\n\n"), ""]
        super().__init__(
            prog, None, description, examples, formatter_class=_HelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> None:
        unknown = re.search(r"unrecognized arguments: (\S+)", message)
        if unknown:
            message += did_you_mean(unknown[1], self._option_string_actions) or "; --help lists the flags"
        fail(message, self.prog)

    def parse_typed(self, argv: list[str] | None) -> tuple[argparse.Namespace, set[str]]:
        """The namespace, and the names of the flags that stood on the command line."""
        args = self.parse_args(argv)
        unset = object()
        blank = argparse.Namespace(**dict.fromkeys(vars(args), unset))
        typed = vars(self.parse_args(argv, blank))
        return args, {name for name, value in typed.items() if value is not unset}


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Says each flag's default, once, where it has one."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=100)

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if default in (None, "", [], argparse.SUPPRESS) or default is False or "default" in text:
            return text
        values = default if isinstance(default, list) else [default]
        shown = " ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
        return f"{text} (default: {shown})"


def fail(message: object, prog: str = "train.py", code: int = EXIT_USAGE) -> None:
    """Print one line on stderr and exit with `code`."""
    print(f"{prog}: error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(code)


@contextmanager
def one_line_errors(prog: str, in_less_memory: str = "try smaller data") -> Iterator[None]:
    """Users' mistakes become one line and their exit code, and so does what the machine cannot do.

    All else keeps its traceback. `in_less_memory` says what would need less memory. Ctrl-C ends the program with
    130, a reader that closes our output (``| head -1``) with 141, as a shell would have it.
    """
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed when the program started
            setattr(sys, stream, open(os.devnull, "w"))
        elif hasattr(getattr(sys, stream), "reconfigure"):
            getattr(sys, stream).reconfigure(errors="backslashreplace")  # names of files need not be text
    try:
        yield
        sys.stdout.flush()
    except UserError as error:
        fail(error, prog, error.exit_code)
    except KeyboardInterrupt:
        fail("stopped by Ctrl-C", prog, 130)
    except (MemoryError, RuntimeError) as error:
        reason = _limit_of_the_machine(error, in_less_memory)
        if not reason:
            raise
        fail(reason, prog)
    except BrokenPipeError:
        _forget_output()
        fail("nobody reads the output any more (a closed pipe)", prog, 141)
    except OSError as error:
        if error.errno not in DISK:
            raise
        _forget_output()
        fail(f"cannot write {error.filename or 'the output'}: {error.strerror}", prog)


def _forget_output() -> None:
    """What is left to flush goes nowhere, or the interpreter would fail at it once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _limit_of_the_machine(error: MemoryError | RuntimeError, in_less_memory: str) -> str:
    """One line for what the machine, not our code, cannot do; empty for all else."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = one_line(lines[0] if lines else error, 200)
    if is_out_of_memory(error):
        return f"out of memory: {in_less_memory} ({reason})"
    if "does not have a deterministic implementation" in reason:
        what = reason.split(".")[0]
        return f"--deterministic: {what}; train on another --device, or without --deterministic"
    if any(kind.__name__ == "TorchDynamoException" for kind in type(error).__mro__):
        return f"torch.compile does not work here ({reason}): use --compile off"
    return ""


def interval(text: str) -> str:
    """An argparse type: ``"50"`` for every 50 steps, ``"30s"`` for every 30 seconds; given back as it is."""
    try:
        if 0 < (float(text[:-1]) if text.endswith("s") else int(text)) < 1e9:
            return text
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(f"must be a number of steps (50) or seconds (30s), got {text!r}")


def number(kind: type, low: float, high: float = math.inf, *, above: bool = False, below: bool = False):
    """An argparse type: a finite number of `kind` in [low, high]; `above`/`below` leave an end out."""
    wanted = f"{'a whole number' if kind is int else 'a number'} {'>' if above else '≥'} {low:g}"
    wanted += "" if high == math.inf else f" and {'<' if below else '≤'} {high:g}"

    def parse(text: str) -> float:
        try:
            value = kind(text)
            ok = math.isfinite(value)
        except (ValueError, OverflowError):
            value, ok = math.nan, False
        ok = ok and (low < value if above else low <= value)
        if not ok or not (value < high if below else value <= high):
            raise argparse.ArgumentTypeError(f"must be {wanted}, got {text!r}")
        return value

    return parse
