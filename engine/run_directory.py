"""One directory a run: config.json, metrics.csv, checkpoints, curves.png and TensorBoard's events."""

import errno
import itertools
import json
import math
import os
import platform
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

import common
from common import NO_LOCKS, OKABE_ITO, UserError, write_atomically

COLUMNS = (
    "epoch", "step", "train_loss", "train_acc", "test_loss", "test_acc", "lr", "epoch_seconds",
    "images_per_second", "test_ece",
)  # fmt: skip
# TensorBoard shows tags with one first word together.
GROUPS = {"loss": "loss", "acc": "accuracy", "nll": "likelihood", "ece": "calibration"}
LARGEST_SHARE_OF_DRAWING = 0.05  # of the time; matplotlib takes longer the more epochs there are
# Data workers hold the lock of a training that was killed until they see that it is gone.
SECONDS_FOR_ORPHANS = 8


class InUse(UserError):
    """Another process holds the directory."""


class RunDirectory:
    """A locked run directory. One live process holds it; the lock of a dead one is gone with it.

    Raises
    ------
    UserError
        If the directory cannot be made, or another process is using it.
    """

    def __init__(self, path: Path, patience: float = SECONDS_FOR_ORPHANS) -> None:
        self.path = Path(path)
        self._writer = self._wandb = None
        self._columns: list[str] = []  # of metrics.csv as it is
        self._undrawn: list[dict] = []
        self._drawn_at, self._drawing = -math.inf, 0.0  # seconds
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make the run directory {self.path}: {error.strerror}; choose another --out"
            ) from None
        self._lock = _lock(self.path, patience)
        for leftover in self.path.glob(".*.tmp"):  # of a process that was killed while it wrote
            with suppress(OSError):
                leftover.unlink()

    @classmethod
    def create(cls, out: Path, name: str, default_name: str) -> "RunDirectory":
        """``out/name``, which must hold no run; without a name ``out/default_name``, numbered if taken."""
        if name != Path(name).name or name == "..":
            raise UserError(f"--run-name must be a plain name, not a path, got {name!r}")
        if not f"{out}{name}".isprintable():
            raise UserError(f"--out and --run-name must be printable text, got {str(out)!r} and {name!r}")
        out = Path(out).expanduser()
        for number in itertools.count(1):
            path = out / (name or (default_name if number == 1 else f"{default_name}-{number}"))
            try:
                # A directory that a run was ended in before it wrote anything is as good as new.
                if not path.is_dir() or all(file.name.startswith(".") for file in path.iterdir()):
                    return cls(path, patience=0)
            except InUse:  # by a run that has just begun
                if name:
                    raise
            except OSError as error:
                raise UserError(f"cannot use {path} as run directory: {error.strerror}") from None
            if name:
                raise UserError(
                    f"{path} exists: continue it with --resume {path}, or take another --run-name"
                )

    def start(self, config: dict, rows: list[dict]) -> None:
        """Write config.json (every flag, and what else it takes to run this again) and the rows so far."""
        import torch
        import torchvision

        if config["wandb"]:
            self._start_wandb(config)
        versions = {"python": platform.python_version()}
        versions |= {module.__name__: module.__version__ for module in (torch, torchvision)}
        text = json.dumps(config | {"versions": versions, "git_commit": _git_commit()}, indent=2) + "\n"
        write_atomically(self.path / "config.json", lambda file: file.write(text.encode()))
        self._write_metrics(rows)
        self._undrawn = (
            rows  # a run that was killed right after its last save has no picture of its last epoch
        )
        self.draw()

    def record(self, rows: list[dict]) -> None:
        """After an epoch: metrics.csv with its row, curves.png, TensorBoard, and a line on the terminal."""
        row, self._undrawn = rows[-1], rows
        self._append(rows)
        if time.monotonic() - self._drawn_at > self._drawing / LARGEST_SHARE_OF_DRAWING:
            self.draw()
        self._write_events(row)
        if self._wandb is not None:
            self._wandb.log(row, step=row["step"])
        chooser = "val" if "val_acc" in row else "test"
        print(
            f"epoch {row['epoch']}  step {row['step']}  train {row['train_loss']:.4f} {row['train_acc']:.2f} %  "
            f"{chooser} {row[f'{chooser}_loss']:.4f} {row[f'{chooser}_acc']:.2f} %  lr {row['lr']:.2g}  "
            f"{row['epoch_seconds']:.1f} s  {row['images_per_second']:,.0f} img/s",
            flush=True,
        )

    def draw(self) -> None:
        """Bring curves.png up to date."""
        if self._undrawn:
            start = time.monotonic()
            common.draw(self.path / "curves.png", lambda: _curves(self._undrawn, self.path.name))
            self._undrawn, self._drawn_at = [], time.monotonic()
            self._drawing = self._drawn_at - start

    def _write_metrics(self, rows: list[dict]) -> None:
        """All rows, whole or not at all; see `_append`."""
        self._columns = list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))
        text = ",".join(self._columns) + "\n" + "".join(map(self._line, rows))
        write_atomically(self.path / "metrics.csv", lambda file: file.write(text.encode()))

    def _append(self, rows: list[dict]) -> None:
        """The last row, in one write: a run of many epochs does not write them all again at each."""
        if not set(rows[-1]) <= set(self._columns):
            self._write_metrics(rows)
            return
        line = self._line(rows[-1]).encode()
        try:
            with open(self.path / "metrics.csv", "ab", buffering=0) as file:
                end = file.tell()
                if file.write(line) < len(line):  # the disk is full
                    file.truncate(end)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise UserError(f"cannot write {self.path / 'metrics.csv'}: {error.strerror}") from None

    def _line(self, row: dict) -> str:
        values = (row.get(name, "") for name in self._columns)
        return ",".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in values) + "\n"

    def _write_events(self, row: dict) -> None:
        try:
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                # What a disk did to TensorBoard's thread is raised in ours, too, and told there in one line.
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
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot write TensorBoard's events in {self.path}: {reason}") from None

    def _start_wandb(self, config: dict) -> None:
        import wandb

        # The same id at each resume, or W&B would begin another run.
        file = self.path / "wandb_id.txt"
        if not file.exists():
            write_atomically(file, lambda out: out.write(wandb.util.generate_id().encode()))
        self._wandb = wandb.init(
            project="rooted-loss", id=file.read_text(), name=self.path.name, config=config, dir=str(self.path),
            resume="allow",
        )  # fmt: skip

    def close(self) -> None:
        """Let go of the directory: TensorBoard's and W&B's files are complete, the lock is free."""
        if self._writer is not None:
            with suppress(OSError):  # record() has flushed, and told what went wrong
                self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()
        if self._lock is not None:
            self._lock.release()


def _lock(path: Path, patience: float) -> FileLock | None:
    lock = FileLock(path / ".lock", timeout=patience)
    try:
        return lock.acquire().lock
    except Timeout:
        raise InUse(f"{path} is in use by another program that is still running") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise UserError(f"cannot use {path} as run directory: {error.strerror}") from None
        print(
            f"note    {path} cannot be locked here ({error.strerror}): start no second run in it", flush=True
        )
        return None


def in_use(path: Path) -> bool:
    """Whether a live training holds the run directory."""
    try:
        RunDirectory(path).close()
    except InUse:
        return True
    return False


def read_config(path: Path) -> dict:
    """config.json of a run directory.

    Raises
    ------
    UserError
        If there is none, or it is damaged.
    """
    file = Path(path).expanduser() / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict) or "epochs" not in config:
            raise ValueError("it holds no flags")
        return config
    except OSError:
        raise UserError(f"{path} is not a run directory: it has no config.json that can be read") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}): start a new run with another --run-name") from None


def is_finished(flags: dict, rows: list[dict]) -> bool:
    """Whether a run with these flags has nothing left to train; `rows` are those of metrics.csv, numbers or text."""
    if not rows:
        return False
    epoch, step = int(float(rows[-1]["epoch"])), int(float(rows[-1]["step"]))
    if epoch >= flags["epochs"] or 0 < flags["max_steps"] <= step:
        return True
    accuracies = [float(row["val_acc"] if "val_acc" in row else row["test_acc"]) for row in rows]
    best_epoch = int(float(rows[accuracies.index(max(accuracies))]["epoch"]))
    return 0 < flags["patience"] <= epoch - best_epoch


def _curves(rows: list[dict], title: str):
    """Loss and accuracy over the epochs, told apart by colour and, in grey print, by dashes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    splits = {
        "train": ("training", OKABE_ITO[1], "--"),
        "test": ("test", OKABE_ITO[2], "-"),
        "val": ("validation", OKABE_ITO[2], "-"),
        "ema": ("moving average", OKABE_ITO[3], "-."),
    }
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    epochs = [row["epoch"] for row in rows]
    both = zip(figure.subplots(1, 2), ("loss", "acc"), ("loss", "accuracy (%)"), strict=True)
    for axes, quantity, unit in both:
        for split, (label, color, dashes) in splits.items():
            values = [row.get(f"{split}_{quantity}", math.nan) for row in rows]
            if not all(map(math.isnan, values)):
                marker = "o" if len(rows) < 30 else None
                axes.plot(epochs, values, color=color, linestyle=dashes, label=label, marker=marker, ms=3)
        axes.set(xlabel="epoch", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def _print_unless_disk_error(failure) -> None:
    if not issubclass(failure.exc_type, OSError):
        threading.__excepthook__(failure)


def _git_commit() -> str | None:
    """The commit of the code, marked ``+`` where files were changed since; None outside a checkout."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        ).stdout.strip()  # fmt: skip

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
