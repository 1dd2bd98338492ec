"""When to save and what: last.pt to go on from, best.pt to use."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from common import UserError

from .checkpoint import load_checkpoint, random_state, save_checkpoint, set_random_state
from .distributed import World
from .meter import Diverged, Meter

# At most one part in twenty of the time goes into saving, and no more than six saves a minute.
LARGEST_SHARE = 0.05
SHORTEST_INTERVAL = 10.0  # seconds


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

    All processes call :meth:`save` and :meth:`restore` together; rank 0 writes. `every` says how often: steps
    as ``"50"``, seconds as ``"30s"``, and None keeps to ``LARGEST_SHARE`` of the time.
    """

    def __init__(
        self, directory: Path, net, optimizer, scaler, meter: Meter, world: World, every: str | None = None
    ) -> None:
        self.directory = directory
        self.net, self.optimizer, self.scaler, self.meter = net, optimizer, scaler, meter
        self.world = world
        self._best = None  # a copy of the best weights that is not on disk yet
        self._every = every
        self._saved_at = time.monotonic()
        self._saved_step = 0
        self._cost = 0.0

    def due(self, step: int) -> bool:
        """Whether it is time for a save, at this step."""
        if self._every and not self._every.endswith("s"):
            return step - self._saved_step >= int(self._every)
        automatic = max(SHORTEST_INTERVAL, self._cost / LARGEST_SHARE)
        return time.monotonic() - self._saved_at > (float(self._every[:-1]) if self._every else automatic)

    def keep_best(self, accuracy: float, epoch: int) -> None:
        """Remember the weights of now as the best; they reach best.pt with the next save."""
        weights = {name: tensor.detach().clone() for name, tensor in self.net.state_dict().items()}
        self._best = {"model": weights, "test_acc": accuracy, "epoch": epoch}

    def save(self, progress: Progress) -> None:
        """Write best.pt, if there is a new best, and then last.pt, each whole or not at all.

        In that order: a run killed in between meets the same best again when it goes on.

        Raises
        ------
        Diverged
            If the loss of a step or a weight is not finite; nothing is written.
        UserError
            If the disk is full or not writable; the previous files are untouched.
        """
        start = time.monotonic()
        self.meter.check()
        finite = torch.stack([p.detach().isfinite().all() for p in self.net.parameters()]).all()
        if self.world.any(not finite)[0]:
            raise Diverged(f"a weight became infinite or NaN by step {progress.step}")
        state = {
            "model": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": asdict(progress),
            "totals": self.world.gather(self.meter.totals.cpu()),
            "random": self.world.gather(random_state(self.world.device)),
        }
        if self.world.is_main:
            if self._best is not None:
                save_checkpoint(self.directory / "best.pt", self._best)
            save_checkpoint(self.directory / "last.pt", state)
        self._best = None
        self._saved_at, self._saved_step = time.monotonic(), progress.step
        self._cost = self._saved_at - start

    def restore(self) -> Progress:
        """Go back to last.pt; a run that was killed before its first save starts anew, and the same.

        With another number of processes than before, the run goes on from the same weights and the same
        batch, but dropout draws other numbers.

        Raises
        ------
        UserError
            If last.pt is damaged or of another net or optimiser.
        """
        if not (self.directory / "last.pt").exists():
            return Progress()
        state = load_checkpoint(self.directory / "last.pt")
        try:
            progress = _checked(state["progress"])
            self.net.load_state_dict(state["model"])
            self._load_optimizer(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            totals, random = state["totals"], state["random"]
            if len(random) == self.world.size:
                set_random_state(random[self.world.rank], self.world.device)
                self.meter.totals.copy_(totals[self.world.rank])
            elif self.world.is_main:
                self.meter.totals.copy_(sum(totals))
            # A run that --max-steps ended within an epoch has a row for it, which the whole epoch replaces.
            progress.rows = [row for row in progress.rows if row["epoch"] <= progress.epoch]
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            text = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self.directory}/last.pt does not fit this run: {text}; start anew with another "
                f"--run-name, or from its weights with --checkpoint {self.directory}/best.pt"
            ) from None
        self._saved_step = progress.step
        return progress

    def _load_optimizer(self, saved: dict) -> None:
        """Its state alone: learning rate and the like come from the flags. Fused kernels trust the shapes."""
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
        kinds = set()
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                state = self.optimizer.state.get(parameter, {})
                kinds.add(frozenset(state))
                for name, x in state.items():
                    shape = () if name == "step" else parameter.shape
                    if not (torch.is_tensor(x) and x.is_floating_point() and x.shape == shape):
                        raise ValueError(f"the optimiser's {name} does not fit its parameter")
        wanted = _OPTIMIZER_STATE[type(self.optimizer)]
        if not kinds <= {frozenset(), wanted}:
            raise ValueError(f"the optimiser's state must be {', '.join(sorted(wanted))}")


_ADAM = frozenset(("step", "exp_avg", "exp_avg_sq"))
_OPTIMIZER_STATE = {
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    torch.optim.SGD: frozenset(("momentum_buffer",)),
}


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
