"""What a checkpoint holds, written whole or not at all, and the random generators that belong to it."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from common import UserError, load_tensors, one_line, write_atomically

from .meter import Diverged
from .trainer import Trainer


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


def save_checkpoint(path: Path, state: dict) -> None:
    """Write `state` (tensors, numbers, strings and containers of them) to `path`, atomically."""

    def write(file: BinaryIO) -> None:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's zip writer hides the OSError of a full disk
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None

    write_atomically(path, write)


def save_progress(path: Path, trainer: Trainer, progress: Progress, info: dict, write_best: Callable) -> None:
    """Write all that the next step depends on to `path`. All processes call it together; rank 0 writes.

    Parameters
    ----------
    path : Path
    trainer : Trainer
    progress : Progress
    info : dict
        Plain data that says what the net is.
    write_best : callable
        Called on rank 0 before: a run that is killed in between meets the same best again when it is resumed.

    Raises
    ------
    Diverged
        If the loss of a step or a weight is not finite; nothing is written.
    UserError
        If the disk is full or not writable; the previous file is untouched.
    """
    world = trainer.world
    trainer.meter.check()
    finite = torch.stack([p.detach().isfinite().all() for p in trainer.net.parameters()]).all()
    if world.any(not finite)[0]:
        raise Diverged(f"a weight became infinite or NaN by step {progress.step}")
    state = {
        "model": trainer.net.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.precision.scaler.state_dict(),
        "progress": asdict(progress),
        "meter": world.gather(trainer.meter.state()),
        "random": world.gather(random_state(world.device)),
        "info": info,
    }
    if trainer.averaged is not None:
        state["averaged"] = trainer.averaged.state_dict()
    if world.is_main:
        write_best()
        save_checkpoint(path, state)


def restore_progress(path: Path, trainer: Trainer) -> Progress:
    """Go back to what :func:`save_progress` wrote.

    With another number of processes than before, the run continues from the same weights and the same batch, but
    dropout draws other numbers.

    Raises
    ------
    UserError
        If the file is damaged, or of another net or optimiser.
    """
    world = trainer.world
    try:
        state = load_tensors(path)
        progress = Progress(**state["progress"])
        trainer.net.load_state_dict(state["model"])
        # The state alone: learning rate and the like come from the flags.
        groups = trainer.optimizer.state_dict()["param_groups"]
        trainer.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": groups})
        trainer.precision.scaler.load_state_dict(state["scaler"])
        if trainer.averaged is not None:
            trainer.averaged.load_state_dict(state["averaged"])
        if len(state["random"]) == world.size:
            set_random_state(state["random"][world.rank], world.device)
            trainer.meter.restore([state["meter"][world.rank]])
        elif world.is_main:
            trainer.meter.restore(state["meter"])
    except (LookupError, TypeError, ValueError, RuntimeError, UserError) as error:
        raise UserError(
            f"{path} does not fit this run: {one_line(error, 200)}; start a new run with another --run-name, "
            f"or from the best weights with --checkpoint {path.with_name('best.pt')}"
        ) from error
    # A run that --max-steps ended within an epoch has a row for it, which the whole epoch replaces.
    progress.rows = [row for row in progress.rows if row["epoch"] <= progress.epoch]
    best = max(progress.rows, key=lambda row: row.get("val_acc", row["test_acc"]), default=None)
    progress.best_acc, progress.best_epoch = (-1.0, 0)
    if best:
        progress.best_acc, progress.best_epoch = best.get("val_acc", best["test_acc"]), best["epoch"]
    return progress


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed every generator that :func:`random_state` saves; each rank draws numbers of its own.

    Mixed, not added: rank 1 of seed 0 must not draw what rank 0 of seed 1 draws.
    """
    if rank:
        digest = hashlib.blake2b(f"seed {seed}, rank {rank}".encode(), digest_size=4).digest()
        seed = int.from_bytes(digest, "little")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the one that libraries draw from
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict:
    """The generators that a step may draw from: torch's (dropout), the device's, Python's and NumPy's."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    numpy_state = [name, torch.from_numpy(keys.astype(np.int64)), *rest]
    state = {"cpu": torch.get_rng_state(), "python": random.getstate(), "numpy": numpy_state}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict, device: torch.device) -> None:
    """Put back what :func:`random_state` took."""
    torch.set_rng_state(state["cpu"])
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
