"""Decoding image files in worker processes: all of them once, or batch by batch ahead of the net.

Workers only decode and resize. Cropping, flipping and normalising happen on the device as for sets in memory
and with the same draws, so the batches are the same with any number of workers, and the same as in memory.
Processes, not threads: decoding small images is mostly Python code, which threads would run in turn.
"""

from __future__ import annotations

import atexit
import signal
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from common import cores, local_world_size

from .augment import BatchTransform
from .errors import DataError
from .images import decode, strict_pillow
from .stores import Uploader

_GRACE_S = 60  # that a worker lives on after SIGTERM
_NAMED = 5  # bad files named in an error
_CHUNK = 64  # files decoded at once when all are
_STOPPING = {signal.SIGINT, signal.SIGTERM}


@dataclass(frozen=True)
class Decoding:
    """How files become arrays: side in pixels, interpolation and the crop's share, as `images.decode`."""

    size: int
    interpolation: str = "bilinear"
    crop_pct: float = 1.0


def refusal(bad: Sequence[str]) -> DataError:
    """One line for unreadable files: what is wrong with the first, the names of some more, how many."""
    if len(bad) == 1:
        return DataError(bad[0])
    more = ", ".join(message.partition(": ")[0] for message in bad[1:_NAMED])
    rest = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return DataError(
        f"{len(bad)} images cannot be read: {bad[0]}; also {more}{rest} (--skip-bad leaves them out)"
    )


class _Files(Dataset):
    def __init__(self, paths: list[str], how: Decoding):
        self.paths, self.how = paths, how

    def __len__(self) -> int:
        return len(self.paths)

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, list[tuple[int, str]]]:
        """Decode a batch; bad files stay black and are returned too: an error would bring a traceback."""
        size = self.how.size
        out = np.zeros((len(indices), 3, size, size), dtype=np.uint8)
        bad = []
        with strict_pillow():
            for i, index in enumerate(indices):
                try:
                    out[i] = decode(self.paths[index], size, self.how.interpolation, self.how.crop_pct)
                except DataError as error:
                    bad.append((index, str(error)))
        return torch.from_numpy(out), bad


class _Batches:
    """Batch sampler whose index lists are set before each pass."""

    def __init__(self):
        self.lists: list[list[int]] = []

    def __iter__(self):
        return iter(self.lists)

    def __len__(self) -> int:
        return len(self.lists)


def _as_is(batch):
    return batch


def _start_worker(_: int) -> None:
    # Ctrl-C and a scheduler's SIGTERM reach the whole process group. The main process answers them by saving
    # a checkpoint; a worker that died of them first would break that. Should the main process not end the
    # worker in time, the alarm does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_S))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)


def _started(loader: DataLoader) -> Iterator[tuple[torch.Tensor, list[tuple[int, str]]]]:
    """``iter(loader)``; signals that stop a run reach the workers it starts once they are ready for them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return iter(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _loader(paths: Sequence[str], how: Decoding, batches: _Batches, workers: int, **options) -> DataLoader:
    return DataLoader(
        _Files(list(paths), how),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_as_is,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # else each pass would draw from the global one
        **options,
    )


def usable_workers(workers: int) -> int:
    """`workers`, but no more than there are processor cores for this process."""
    return min(workers, max(1, cores() // local_world_size()))


def decode_all(
    paths: Sequence[str], how: Decoding, workers: int, progress: bool, what: str, keep: bool = True
) -> tuple[np.ndarray | None, dict[int, str]]:
    """Decode image files, in parallel.

    Parameters
    ----------
    paths : sequence of str
    how : Decoding
    workers : int
        Processes; 0: this one alone.
    progress : bool
        Show a bar, on terminals.
    what : str
        The bar's label.
    keep : bool
        False: only look for bad files.

    Returns
    -------
    images : ndarray of uint8, shape (len(paths), 3, size, size), or None
        Bad files are black.
    bad : dict of int to str
        What is wrong with the files that cannot be read, by their index.
    """
    out = np.empty((len(paths), 3, how.size, how.size), dtype=np.uint8) if keep else None
    bad: dict[int, str] = {}
    starts = range(0, len(paths), _CHUNK)
    batches = _Batches()
    batches.lists = [list(range(a, min(a + _CHUNK, len(paths)))) for a in starts]
    loader = _loader(paths, how, batches, workers if len(starts) > 1 else 0)
    with tqdm(
        total=len(paths), desc=what, unit="image", disable=None if progress else True, leave=False
    ) as bar:
        for a, (batch, unread) in zip(starts, _started(loader), strict=True):
            bad.update(unread)
            if out is not None:
                out[a : a + len(batch)] = batch.numpy()
            bar.update(len(batch))
    return out, bad


class Stream:
    """Batches decoded from files as they are needed.

    Parameters
    ----------
    paths : list of str
    how : Decoding
    device : torch.device
    workers : int
        Processes; 0: decode in this one.
    """

    def __init__(self, paths: list[str], how: Decoding, device: torch.device, workers: int):
        self._batches = _Batches()
        self._upload = Uploader(device)
        self._loader = _loader(
            paths,
            how,
            self._batches,
            workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
        )
        if workers:
            # before the interpreter's own clean-up, which would wait for each worker in turn
            atexit.register(_close, weakref.ref(self))

    num_bytes = 0

    def close(self) -> None:
        """End the workers; the next pass would start new ones."""
        self._loader._iterator = None

    def _decoded(self, lists: list[list[int]]) -> Iterator[torch.Tensor]:
        self._batches.lists = lists
        for batch, bad in _started(self._loader):
            if bad:
                raise refusal([message for _, message in bad])
            yield self._upload(batch)

    def train_batches(self, order, order_here, draws, parts, transform: BatchTransform) -> Iterator:
        """See `loaders.TrainLoader`."""
        lists = [order[a:b].tolist() for a, b in parts]
        for (a, b), batch in zip(parts, self._decoded(lists), strict=True):
            yield transform.resize(batch) if draws is None else transform.augment(batch, draws[a:b])

    def test_batches(self, parts) -> Iterator[torch.Tensor]:
        """See `loaders.TestLoader`."""
        return self._decoded([list(range(a, b)) for a, b in parts])


def _close(stream: weakref.ref[Stream]) -> None:
    alive = stream()
    if alive is not None and threading.current_thread() is threading.main_thread():
        alive.close()
