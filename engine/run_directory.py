"""One directory a run: config.json, metrics.csv, last.pt, best.pt, curves.png and TensorBoard's events."""

import csv
import hashlib
import io
import itertools
import json
import math
import os
import platform
import re
import subprocess
import textwrap
import threading
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from common import Parser, UserError, write_atomically
from flags import NOT_OF_THE_RUN, OF_THE_LOSS, WHERE_AND_HOW, one_name, one_spelling, train_parser

from .curves import draw_curves

COLUMNS = (
    "epoch",
    "step",
    "train_loss",
    "train_acc",
    "test_loss",
    "test_acc",
    "lr",
    "epoch_seconds",
    "images_per_second",
    "test_ece",
)  # and after them what else the rows have
# TensorBoard shows tags with one first word together.
GROUPS = {"loss": "loss", "acc": "accuracy", "nll": "likelihood", "ece": "calibration"}
LARGEST_SHARE_OF_DRAWING = 0.05  # of the time; matplotlib takes longer the more epochs there are


class RunDirectory:
    """A locked run directory. One live process holds it; the lock of a dead one is gone with it.

    Raises
    ------
    UserError
        If the directory cannot be made, or another process is using it.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._writer = None
        self._wandb = None
        self._made: list[Path] = []  # directories that go again if nothing comes of the run
        self._undrawn: list[dict] = []
        self._drawn_at, self._drawing = -math.inf, 0.0  # seconds
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a")
        except OSError as error:
            raise UserError(f"cannot use {self.path} as run directory: {error.strerror}") from None
        self._take_lock()
        for leftover in self.path.glob(".*.tmp"):  # of a process that was killed while it wrote
            with suppress(OSError):
                leftover.unlink()

    def _take_lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows has no such lock; there two runs in one directory are not told apart
            return
        try:
            # Not flock: forked data workers would inherit it, and hold it for seconds after a kill -9.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{self.path} is in use by another program that is still running") from None

    @classmethod
    def create(cls, out: Path, name: str, default_name: str) -> "RunDirectory":
        """``out/name``, which must be new; without a name ``out/default_name``, numbered if taken.

        A directory that a run was killed in before it wrote anything is as good as new.
        """
        if name != Path(name).name or name == "..":
            raise UserError(f"--run-name must be a plain name, not a path, got {name!r}")
        if not f"{out}{name}".isprintable():
            raise UserError(f"--out and --run-name must be printable text, got {str(out)!r} and {name!r}")
        default_name = re.sub(r"[^\w.+]+", "-", default_name)
        for number in itertools.count(1):
            path = Path(out) / (name or (default_name if number == 1 else f"{default_name}-{number}"))
            try:
                made = [folder for folder in (path, *path.parents) if not folder.exists()]
                path.mkdir(parents=True)
                directory = cls(path)
                directory._made = made
                return directory
            except FileExistsError:
                if not path.is_dir():
                    raise UserError(f"cannot make the run directory {path}: a file is in the way") from None
                if name and all(file.name.startswith(".") for file in path.iterdir()):
                    return cls(path)
            except OSError as error:
                raise UserError(
                    f"cannot make the run directory {path}: {error.strerror}; choose another --out"
                ) from None
            if name:
                raise UserError(
                    f"{path} exists: continue it with --resume {path}, or take another --run-name"
                )

    def start(self, flags: dict, facts: dict, rows: list[dict], step: int = 0) -> None:
        """Write config.json (every flag, and what else it takes to run this again) and the rows so far.

        Parameters
        ----------
        flags : dict
        facts : dict
            What the flags do not say: the data's fingerprint, its class names, …
        rows : list of dict
        step : int
            Steps that are done. What was otherwise while they were trained stays in config.json, in ``before``.

        Raises
        ------
        UserError
            If the disk is full.
        """
        import torch
        import torchvision

        self._made = []
        if flags["wandb"]:
            self._start_wandb(flags)
        versions = {"python": platform.python_version()}
        versions |= {module.__name__: module.__version__ for module in (torch, torchvision)}
        record = flags | facts | {"versions": versions, "git_commit": _git_commit()}
        record["before"] = _before(self.path / "config.json", record, step)
        text = json.dumps(record, indent=2) + "\n"
        write_atomically(self.path / "config.json", lambda file: file.write(text.encode()))
        self._write_metrics(rows)
        self._undrawn = (
            rows  # a run that was killed right after its last save has no picture of its last epoch
        )
        self.draw()

    def record(self, rows: list[dict]) -> None:
        """After an epoch: metrics.csv with its row, curves.png, TensorBoard, and a line on the terminal."""
        row = rows[-1]
        self._write_metrics(rows)
        self._undrawn = rows
        if time.monotonic() - self._drawn_at > self._drawing / LARGEST_SHARE_OF_DRAWING:
            self.draw()
        try:
            self._log_scalars(row)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot write TensorBoard's events in {self.path}: {reason}") from None
        if self._wandb is not None:
            self._wandb.log(row, step=row["step"])
        chooser = "val" if "val_acc" in row else "test"
        print(
            f"epoch {row['epoch']}  step {row['step']}  "
            f"train {row['train_loss']:.4f} {row['train_acc']:.2f} %  "
            f"{chooser} {row[f'{chooser}_loss']:.4f} {row[f'{chooser}_acc']:.2f} %  lr {row['lr']:.2g}  "
            f"{row['epoch_seconds']:.1f} s  {row['images_per_second']:,.0f} img/s",
            flush=True,
        )

    def draw(self) -> None:
        """Bring curves.png up to date."""
        if self._undrawn:
            start = time.monotonic()
            draw_curves(self._undrawn, self.path / "curves.png", self.path.name)
            self._undrawn, self._drawn_at = [], time.monotonic()
            self._drawing = self._drawn_at - start

    def _log_scalars(self, row: dict) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            threading.excepthook = _print_unless_disk_error
            self._writer = SummaryWriter(str(self.path), purge_step=row["step"])
        for column, value in row.items():
            split, _, quantity = column.partition("_")
            quantity, _, corrected = quantity.partition("_")
            if quantity in GROUPS:
                tag = f"{GROUPS[quantity]}/{split}{'_' if corrected else ''}{corrected}"
                self._writer.add_scalar(tag, value, row["step"])
        for column in ("lr", "images_per_second"):
            self._writer.add_scalar(f"training/{column}", row[column], row["step"])
        self._writer.flush()

    def _write_metrics(self, rows: list[dict]) -> None:
        """metrics.csv as a whole, so that no row is ever torn or doubled."""
        text = io.StringIO()
        columns = list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _text(row.get(name, "")) for name in columns} for row in rows)
        write_atomically(self.path / "metrics.csv", lambda file: file.write(text.getvalue().encode()))

    def _start_wandb(self, config: dict) -> None:
        import wandb

        # The same id at each resume, or W&B would begin another run.
        file = self.path / "wandb_id.txt"
        if not file.exists():
            write_atomically(file, lambda out: out.write(wandb.util.generate_id().encode()))
        self._wandb = wandb.init(
            project="rooted-loss",
            id=file.read_text(),
            name=self.path.name,
            config=config,
            dir=str(self.path),
            resume="allow",
        )

    def close(self) -> None:
        """Let go of the directory: TensorBoard's and W&B's files are complete, the lock is free."""
        if self._writer is not None:
            with suppress(OSError):  # record() has flushed, and told what went wrong
                self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()
        self._lock.close()
        if self._made:  # the run was refused before it began
            with suppress(OSError):
                (self.path / ".lock").unlink()
                for folder in self._made:
                    folder.rmdir()


def read_config(path: Path) -> dict:
    """config.json of a run directory.

    Raises
    ------
    UserError
        If there is none, or it is damaged.
    """
    try:
        config = json.loads((Path(path) / "config.json").read_text())
        if not isinstance(config, dict):
            raise ValueError("it is no table of flags")
    except OSError:
        raise UserError(
            f"--resume {path}: not a run directory (it has no config.json); give one under --out"
        ) from None
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from None
    if config.get("noamp") is True:  # what --amp off was before there was --amp
        config.setdefault("amp", "off")
    return config


def _damaged(path: Path, error: Exception) -> UserError:
    reason = textwrap.shorten(str(error), 120)
    return UserError(
        f"--resume {path}: its config.json is damaged, or of another version ({reason}); "
        "start anew with another --run-name"
    )


def take_flags_of(path: Path, args: Namespace, typed: set[str], free: set[str], parser: Parser) -> dict:
    """Give `args` the flags of the run at `path`, but for those of `free` that were typed anew.

    Parameters
    ----------
    path : Path
        A run directory.
    args : Namespace
        Changed in place.
    typed : set of str
        The flags that stood on the command line.
    free : set of str
        Flags that a run may change when it continues.
    parser : Parser
        Whose types the run's flags must have.

    Returns
    -------
    dict
        The run's config.json.

    Raises
    ------
    UserError
        If `path` is no run directory, or a typed flag contradicts the run.
    """
    config = read_config(path)
    try:
        # A flag younger than the run has its default there.
        saved = {n: config.get(n, v) for n, v in vars(args).items() if n not in NOT_OF_THE_RUN | typed}
        saved |= {n: config[n] for n in typed - NOT_OF_THE_RUN if n in config}
        saved["epochs"] = config["epochs"]
        parser.check(saved)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from None
    for name, value in saved.items():
        if name not in typed:
            setattr(args, name, value)
        elif name not in free and getattr(args, name) != value:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{flag} {getattr(args, name)} contradicts the run in {path}, which has {flag} {value}: "
                "leave the flag out, or start a new run"
            )
    if args.epochs < saved["epochs"]:
        raise UserError(f"--epochs may only grow: the run in {path} has --epochs {saved['epochs']}")
    return config


def find_run(out: Path, flags: dict, name: str = "") -> Path | None:
    """The run under `out` that was started last with these flags, those of where and how aside.

    Parameters
    ----------
    out : Path
    flags : dict
        As :meth:`RunDirectory.start` writes them.
    name : str
        What such a run is called without ``run_name``. The directory of that name goes before copies of it.
    """
    usual = re.compile(rf"{re.escape(flags['run_name'] or name)}(-\d+)?")
    ignored = NOT_OF_THE_RUN | WHERE_AND_HOW
    wanted = {name: value for name, value in flags.items() if name not in ignored}
    found = []
    for config in Path(out).glob("*/config.json"):
        try:
            saved = json.loads(config.read_text())
            if wanted.keys() <= saved.keys() and not contradiction(saved, wanted):
                is_usual = usual.fullmatch(config.parent.name) is not None
                found.append((is_usual, config.stat().st_mtime_ns, config.parent))
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            continue  # not a run that could be continued
    return max(found)[-1] if found else None


def contradiction(saved: dict, flags: dict) -> str:
    """The first of `flags` that has another value in a run's config.json, ``"--bs 64, not 128"``; else empty."""
    for name, value in flags.items():
        then = saved.get(name, value)
        if name == "dataset":
            then, value = one_name(then), one_name(value)
        if name == "net":
            then, value = one_spelling(then), one_spelling(value)
        if then != value:
            return f"--{name.replace('_', '-')} {then}, not {value}"
    return ""


def is_finished(flags: dict, rows: Sequence[dict]) -> bool:
    """Whether a run with these flags has nothing left to train.

    Parameters
    ----------
    flags : dict
        ``epochs``, ``max_steps`` and ``patience`` of train.py.
    rows : sequence of dict
        Of metrics.csv, as numbers or as text.

    Raises
    ------
    ValueError, TypeError, LookupError
        If the rows are not those of a training.
    """
    if not rows:
        return False
    epoch, step = int(float(rows[-1]["epoch"])), int(float(rows[-1]["step"]))
    if epoch >= flags["epochs"] or 0 < flags["max_steps"] <= step:
        return True
    if not flags["patience"]:
        return False
    accuracies = [float(row["val_acc"] if "val_acc" in row else row["test_acc"]) for row in rows]
    best_epoch = int(float(rows[accuracies.index(max(accuracies))]["epoch"]))
    return epoch - best_epoch >= flags["patience"]


def _before(config: Path, record: dict, step: int) -> list[dict]:
    """The parts of a run that were trained with another length, or by another program, and up to which step."""
    try:
        old = json.loads(config.read_text())
        parts = list(old.get("before", []))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return []
    was = {name: old.get(name) for name in _OF_A_PART}
    changed = any(value is not None and value != record.get(name) for name, value in was.items())
    trained = step > (parts[-1]["until_step"] if parts else 0)
    return [*parts, {"until_step": step, **was}] if changed and trained else parts if step else []


def _text(value: float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _print_unless_disk_error(failure) -> None:
    """For TensorBoard's thread: what a disk did to it is raised in ours, too, and told there in one line."""
    if not issubclass(failure.exc_type, OSError):
        threading.__excepthook__(failure)


def _git_commit() -> str | None:
    """The commit of the code, marked ``+`` where files were changed since; None outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        run = subprocess.run(
            ["git", *words],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
        return run.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def run_name(flags: dict) -> str:
    """A name that says data, net, loss and seed, and every flag that differs from its default.

    A longer one than `LONGEST_NAME` bytes is cut, and tells the flags by a digest.
    """
    from losses import loss_parameters

    defaults = vars(train_parser().parse_args([]))
    own = [name for name in loss_parameters(flags["loss"]) if name in flags]
    data = one_name(flags["dataset"])  # folder:imgs, folder:./imgs/ and the absolute path are called imgs
    data = data.rstrip("/").rpartition("/")[2] or data
    parts = [data, flags["net"], flags["loss"], *(f"{name}{flags[name]:g}" for name in own)]
    hidden = NOT_OF_THE_RUN | WHERE_AND_HOW | {"dataset", "net", "loss", "seed", "run_name", "lr_is_default"}
    hidden |= set(OF_THE_LOSS)
    for name, value in flags.items():
        if name in hidden or value == defaults.get(name) or value is None:
            continue
        shown = f"{value:g}" if isinstance(value, float) else Path(value).stem if name in _FILES else value
        parts.append(name.replace("_", "") if value is True else f"{name.replace('_', '')}{shown}")
    name = re.sub(r"[^\w.+]+", "-", "-".join(map(str, parts))).strip("-")
    room = LONGEST_NAME - len(f"-seed{2**31}")  # whatever the seed is, its runs have one beginning
    if len(name.encode()) > room:
        digest = f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        name = name.encode()[: room - len(digest)].decode(errors="ignore").rstrip("-") + digest
    return f"{name}-seed{flags['seed']}"


LONGEST_NAME = 180  # bytes: file systems take 255, and .log and temporary files add to them
_OF_A_PART = ("epochs", "max_steps", "total_steps", "versions", "git_commit")
_FILES = {"checkpoint", "train_labels", "label_noise_kind"}
