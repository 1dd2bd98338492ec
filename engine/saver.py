"""When to save and what: last.pt to continue from, best.pt to use."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from inspect import signature
from pathlib import Path

import torch

from common import UserError, one_line

from .checkpoint import load_checkpoint, random_state, save_checkpoint, set_random_state
from .meter import Diverged
from .trainer import Trainer

# At most one part in twenty of the time goes into saving, and no more than six saves a minute.
LARGEST_SHARE = 0.05
SHORTEST_INTERVAL = 10.0  # seconds
# What must be, when a run continues, as it was; of the info that best.pt carries.
OF_THE_IMAGES = ("image_size", "mean", "std", "interpolation", "crop_pct")


@dataclass
class Progress:
    """Where a run stands. What data comes next follows from it: the loaders keep no state."""

    epoch: int = 0  # completed
    batch: int = 0  # completed of the epoch under way
    step: int = 0  # completed, over all epochs
    seconds: float = 0.0  # spent on the epoch under way
    best_acc: float = -1.0  # percent
    best_epoch: int = 0
    rows: list[dict] = field(default_factory=list)  # metrics.csv


class Saver:
    """Keeps and restores everything that the next step depends on.

    All processes call :meth:`save` and :meth:`restore` together; rank 0 writes.

    Parameters
    ----------
    directory : Path
    trainer : Trainer
    info : dict
        Plain data that best.pt carries, so that it can be used without the run.
    every : str, optional
        How often: steps as ``"50"``, seconds as ``"30s"``; None keeps to ``LARGEST_SHARE`` of the time.
    publish : callable, optional
        ``publish(path of best.pt, its content)`` is called after each new best.
    """

    def __init__(
        self,
        directory: Path,
        trainer: Trainer,
        info: dict,
        every: str | None = None,
        publish: Callable[[Path, dict], None] | None = None,
    ) -> None:
        self.directory, self.trainer, self.info, self.publish = directory, trainer, info, publish
        self.world = trainer.world
        self._best: dict[str, dict] = {}  # by file: the best weights that are not on disk yet
        self._every = every
        self._saved_at = time.monotonic()
        self._saved_step = 0
        self.has_saved = False  # there is a last.pt
        self._cost = 0.0

    def due(self, step: int) -> bool:
        """Whether it is time for a save, at this step."""
        if self._every and not self._every.endswith("s"):
            return step - self._saved_step >= int(self._every)
        automatic = max(SHORTEST_INTERVAL, self._cost / LARGEST_SHARE)
        return time.monotonic() - self._saved_at > (float(self._every[:-1]) if self._every else automatic)

    def keep_best(self, accuracy: float, epoch: int, averaged: bool = False) -> None:
        """Remember the weights of now, or their moving average, as the best; the next save writes them."""
        net = self.trainer.averaged.module if averaged else self.trainer.net
        weights = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
        content = {"model": weights, "test_acc": accuracy, "epoch": epoch, "info": self.info}
        self._best["best_ema.pt" if averaged else "best.pt"] = content

    def save(self, progress: Progress) -> None:
        """Write best.pt, if there is a new best, and then last.pt, each whole or not at all.

        In that order: a run killed in between meets the same best again when it is resumed.

        Raises
        ------
        Diverged
            If the loss of a step or a weight is not finite; nothing is written.
        UserError
            If the disk is full or not writable; the previous files are untouched.
        """
        start = time.monotonic()
        trainer = self.trainer
        trainer.meter.check()
        finite = torch.stack([p.detach().isfinite().all() for p in trainer.net.parameters()]).all()
        if self.world.any(not finite)[0]:
            raise Diverged(f"a weight became infinite or NaN by step {progress.step}")
        state = {
            "model": trainer.net.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.precision.scaler.state_dict(),
            "progress": asdict(progress),
            "meter": self.world.gather(trainer.meter.state()),
            "random": self.world.gather(random_state(self.world.device)),
            "info": self.info,
        }
        if trainer.averaged is not None:
            state["averaged"] = trainer.averaged.state_dict()
        if self.world.is_main:
            for name, content in self._best.items():
                save_checkpoint(self.directory / name, content)
                if self.publish:
                    self.publish(self.directory / name, content)
            save_checkpoint(self.directory / "last.pt", state)
        self._best = {}
        self._saved_at, self._saved_step = time.monotonic(), progress.step
        self.has_saved = True
        self._cost = self._saved_at - start

    def restore(self) -> Progress:
        """Go back to last.pt; a run that was killed before its first save starts anew, and the same.

        With another number of processes than before, the run continues from the same weights and the same
        batch, but dropout draws other numbers.

        Raises
        ------
        UserError
            If last.pt is damaged or of another net or optimiser.
        """
        if not (self.directory / "last.pt").exists():
            if _has_rows(self.directory / "metrics.csv"):
                raise UserError(
                    f"{self.directory} has epochs in its metrics.csv and no last.pt to continue from: it "
                    "would start over and overwrite them; start anew with another --run-name, or from its "
                    f"weights with --checkpoint {self.directory}/best.pt"
                )
            return Progress()
        state = load_checkpoint(self.directory / "last.pt")
        trainer = self.trainer
        then = state.get("info") or self.info
        changed = [name for name in OF_THE_IMAGES if then.get(name) != self.info.get(name)]
        if changed:
            raise UserError(
                f"the net's images would have another {' and '.join(changed)} than the run in {self.directory} has "
                "begun with: was the file of --checkpoint changed, or timm? Put it back, or start anew with "
                "another --run-name"
            )
        try:
            progress = _checked(state["progress"])
            trainer.net.load_state_dict(state["model"])
            self._load_optimizer(state["optimizer"])
            trainer.precision.scaler.load_state_dict(state["scaler"])
            if trainer.averaged is not None:
                trainer.averaged.load_state_dict(state["averaged"])
            rows, random = state["meter"], state["random"]
            if len(random) == self.world.size:
                set_random_state(random[self.world.rank], self.world.device)
                trainer.meter.restore([rows[self.world.rank]])
            elif self.world.is_main:
                trainer.meter.restore(rows)
            # A run that --max-steps ended within an epoch has a row for it, which the whole epoch replaces.
            progress.rows = [row for row in progress.rows if row["epoch"] <= progress.epoch]
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            text = one_line(error, 200)
            raise UserError(
                f"{self.directory}/last.pt does not fit this run: {text}; start anew with another "
                f"--run-name, or from its weights with --checkpoint {self.directory}/best.pt"
            ) from None
        if progress.best_epoch and not (self.directory / "best.pt").exists():
            raise UserError(
                f"{self.directory}/best.pt is gone, which held the best weights so far, of epoch "
                f"{progress.best_epoch}: put it back, or start anew from the last ones with --checkpoint "
                f"{self.directory}/last.pt and another --run-name"
            )
        self._saved_step, self.has_saved = progress.step, True
        return progress

    def _load_optimizer(self, saved: dict) -> None:
        """Its state alone: learning rate and the like come from the flags. Fused kernels trust the shapes."""
        optimizer = self.trainer.optimizer
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
        wanted = _state_of_a_step(optimizer)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                state = optimizer.state.get(parameter, {})
                if state and wanted is not None and state.keys() != wanted.keys():
                    raise ValueError(f"the optimiser's state must be {', '.join(sorted(wanted))}")
                for name, x in state.items():
                    shape = None if wanted is None else parameter.shape if wanted[name] else ()
                    if shape is not None and not (
                        torch.is_tensor(x) and x.is_floating_point() and x.shape == shape
                    ):
                        raise ValueError(f"the optimiser's {name} does not fit its parameter")


def _state_of_a_step(optimizer: torch.optim.Optimizer) -> dict[str, bool] | None:
    """What such an optimiser keeps for a parameter, and whether that has the parameter's shape.

    Found by one step of a twin on a small parameter; None where it keeps more than such tensors and scalars.
    """
    kind = type(optimizer)
    options = {n: optimizer.defaults[n] for n in signature(kind).parameters if n in optimizer.defaults}
    probe = torch.nn.Parameter(torch.zeros(2, 3))
    probe.grad = torch.ones_like(probe)
    twin = kind([probe], **options | ({"fused": False} if "fused" in options else {}))
    twin.step()
    shapes = {name: getattr(x, "shape", None) for name, x in twin.state[probe].items()}
    if not all(shape in ((2, 3), ()) for shape in shapes.values()):
        return None
    return {name: shape == (2, 3) for name, shape in shapes.items()}


def _has_rows(path: Path) -> bool:
    try:
        return len(path.read_text(errors="replace").splitlines()) > 1
    except OSError:
        return False


def _checked(saved: dict) -> Progress:
    """The progress, if every value of it is of the kind that is saved."""
    blank = asdict(Progress())
    fits = saved.keys() == blank.keys() and all(
        type(saved[name]) is type(value) or (type(value) is float and type(saved[name]) is int)
        for name, value in blank.items()
    )
    if not fits or min(saved["epoch"], saved["batch"], saved["step"]) < 0:
        raise ValueError("its progress is damaged")
    for row in saved["rows"]:
        if not {"epoch", "step", "test_acc"} <= row.keys() or not all(
            type(v) in (int, float) for v in row.values()
        ):
            raise ValueError("a row of its metrics is damaged")
    return Progress(**saved)
