"""Checkpoints that are whole or not there, loading that runs no code, and the state of random generators."""

import hashlib
import random
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from common import UserError, load_tensors, write_atomically


def save_checkpoint(path: Path, state: dict) -> None:
    """Write `state` (tensors, numbers, strings and containers of them) to `path`, atomically."""

    def write(file: BinaryIO) -> None:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's zip writer hides the OSError of a full disk
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None

    write_atomically(path, write)


def load_checkpoint(path: Path) -> dict:
    """Read what :func:`save_checkpoint` wrote, onto the CPU, running no code from the file.

    Raises
    ------
    UserError
        If the file is missing, damaged, or holds anything that ``weights_only=True`` refuses.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: the run stopped before its first checkpoint")
    try:
        state = load_tensors(path)
    except UserError as error:
        raise UserError(f"{error}; the run can be started anew with another --run-name") from None
    if not isinstance(state, dict) or "model" not in state:
        raise UserError(f"{path} is not a checkpoint of this program: it holds no 'model'")
    return state


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
