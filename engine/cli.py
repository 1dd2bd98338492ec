"""What the command lines share: one-line errors with exit code 2, and the types of flags."""

import argparse
import errno
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from common import EXIT_USAGE, UserError, did_you_mean, one_line

# What a disk may do to any program, and is no bug of ours: it is full, read-only or broken, a quota or limit is met.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


class Parser(argparse.ArgumentParser):
    """``argparse.ArgumentParser`` whose errors are one line, and which knows what was really typed.

    The first paragraph of `documentation` becomes the description, the second the examples at the end.
    """

    def __init__(self, prog: str, documentation: str) -> None:
        description, examples, *_ = documentation.strip().split("\n\n")
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

    def check(self, values: dict) -> None:
        """Raise ``ValueError`` unless each value is one that its flag could have on the command line."""
        for action in self._actions:
            if action.nargs == 0 and action.const is not True:  # --noamp: another name for a value of --amp
                continue
            value = values.get(action.dest, action.default)
            if value == action.default and type(value) is type(action.default):
                continue
            fits = type(value) is bool if action.nargs == 0 else type(value) in (str, int, float)
            try:
                if fits and action.nargs != 0:
                    fits = self._get_value(action, str(value)) == value
                    self._check_value(action, value)
            except argparse.ArgumentError as error:
                raise ValueError(str(error)) from None
            if not fits:
                raise ValueError(f"{action.dest} is {value!r}")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Says each flag's default, once, where it has one."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=100)

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if default in (None, "", argparse.SUPPRESS) or default is False or "default" in text:
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
    """Users' mistakes become one line and their exit code, and what the device cannot do; all else keeps its traceback.

    `in_less_memory` says what would need less memory.

    A reader that closes our output (``| head -1``) ends the program with one line too, and exit code 141 as a
    shell would have it; so does a disk that is full, with exit code 2.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    try:
        yield
        sys.stdout.flush()
    except UserError as error:
        fail(error, prog, error.exit_code)
    except (MemoryError, RuntimeError) as error:
        _explain(error, prog, in_less_memory)
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


def _explain(error: MemoryError | RuntimeError, prog: str, in_less_memory: str) -> None:
    """One line for what the device, not our code, cannot do; all else is raised again."""
    from .precision import is_out_of_memory

    reason = one_line(str(error).split("\n")[0], 200)
    if is_out_of_memory(error):
        fail(f"out of memory: {in_less_memory} ({reason})", prog)
    if "does not have a deterministic implementation" in reason:
        what = reason.split(".")[0]
        fail(f"--deterministic: {what}; train on another --device, or without --deterministic", prog)
    raise error


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
