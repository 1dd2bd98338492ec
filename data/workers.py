"""Processes that decode image files, and the one line that is said when one of them fails.

Batches come back as arrays through a pipe. Tensors would come through shared memory, of which a container has
64 MiB, and through sockets, whose names a long TMPDIR does not leave room for. Processes, not threads: decoding
small images is mostly Python code, which threads would run in turn.
"""

from __future__ import annotations

import multiprocessing
import signal
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from common import cores

from .errors import DataError, one_line
from .images import Square, decode
from .plan import crop_box

_GRACE_S = 60  # that a worker lives on after SIGTERM
_NAMED = 5  # bad files named in an error
_STOPPING = {signal.SIGINT, signal.SIGTERM}

# A picture's index, and the key of its random crop; None: the centre.
Wanted = tuple[int, int | None]


def usable_workers(workers: int) -> int:
    """`workers`, but no more than there are processor cores for this process."""
    return min(workers, cores())


def refusal(problems: Sequence[str]) -> DataError:
    """One line for unreadable files: what is wrong with the first, the names of some more, how many."""
    if len(problems) == 1:
        return DataError(problems[0])
    more = ", ".join(message.partition(": ")[0] for message in problems[1:_NAMED])
    rest = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    return DataError(
        f"{len(problems)} images cannot be read: {problems[0]}; also {more}{rest} (--skip-bad leaves them out)"
    )


class _Pictures(Dataset):
    def __init__(self, pictures, square: Square, crop_scale):
        self.pictures, self.square, self.crop_scale = pictures, square, crop_scale

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitems__(self, batch: list[Wanted]) -> tuple[np.ndarray, dict[int, str]]:
        """Decode a batch; bad files stay black, and what is wrong with them is returned too."""
        out = np.zeros((len(batch), 3, self.square.size, self.square.size), dtype=np.uint8)
        problems: dict[int, str] = {}
        for i, (index, key) in enumerate(batch):
            box_of = None if key is None else lambda w, h, key=key: crop_box(key, w, h, self.crop_scale)
            try:
                out[i] = decode(self._picture(index), *self.square, box_of=box_of)
            except DataError as error:
                problems[index] = str(error)
            except MemoryError:
                problems[index] = f"{self.pictures[index]}: not enough memory to decode it"
        return out, problems

    def _picture(self, index: int):
        picture = self.pictures[index]
        if isinstance(picture, str):
            return picture
        return Image.fromarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0))


class _Batches:
    """Batch sampler whose batches are set before each pass."""

    def __init__(self):
        self.batches: Iterable[list[Wanted]] = ()

    def __iter__(self):
        return iter(self.batches)


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


class Decoder:
    """Decodes batches of pictures ahead of those who use them.

    Parameters
    ----------
    pictures : sequence of str, or ndarray of uint8, shape (N, C, H, W)
        Files, or what is in them.
    square : Square
    workers : int
        Processes, at most one a core; they live until `close`. 0: decode in this one.
    crop_scale : (float, float), optional
        For random crops.
    """

    def __init__(self, pictures, square: Square, workers: int, crop_scale=None):
        self._batches = _Batches()
        self._workers = usable_workers(workers)
        self._loader = DataLoader(
            _Pictures(pictures, square, crop_scale),
            batch_sampler=self._batches,
            num_workers=self._workers,
            collate_fn=_as_is,
            worker_init_fn=_start_worker,
            persistent_workers=self._workers > 0,
            generator=torch.Generator(),  # else each pass would draw from the global one
        )
        self._processes: set = set()
        # before the interpreter's own clean-up, which would wait for each worker in turn
        weakref.finalize(self, _forget_workers, self._loader)

    def batches(self, batches: Iterable[list[Wanted]]) -> Iterator[tuple[torch.Tensor, dict[int, str]]]:
        """Yield each batch's pixels, uint8 of shape (B, 3, size, size), and what is wrong with bad files, by index.

        Raises
        ------
        DataError
            A worker cannot be started, or was killed.
        """
        self._batches.batches = batches
        try:
            decoded = iter(self._loader) if self._workers == 0 else self._started()
            for pixels, problems in decoded:
                yield torch.from_numpy(pixels), problems
        except OSError as error:
            self._kill()
            raise DataError(
                f"the processes that decode images fail ({one_line(error)}): try --workers 0"
            ) from error
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            self._kill()
            raise DataError(
                f"a process that decodes images was killed, perhaps for want of memory ({one_line(error)}): "
                "try fewer --workers; --workers 0 needs none"
            ) from error

    def _started(self) -> Iterator:
        """``iter(loader)``; signals that stop a run reach new workers once they are ready for them."""
        _try_queues(self._workers)
        before = set(multiprocessing.active_children())
        on_child = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING) if on_child is not None else None
        try:
            return iter(self._loader)
        finally:
            self._processes |= set(multiprocessing.active_children()) - before
            if on_child is not None:
                # torch would raise a worker's death wherever the program stands; its loader notices it, too
                with suppress(ValueError):  # not the main thread, where torch does nothing
                    signal.signal(signal.SIGCHLD, on_child)
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _kill(self) -> None:
        """End workers that may wait for ever for what a dead one held."""
        for process in self._processes:
            process.kill()
        self.close()

    def close(self) -> None:
        """End the workers; the next pass would start new ones."""
        self._processes.clear()
        _forget_workers(self._loader)


def _try_queues(workers: int) -> None:
    """Make what torch's loader will make: where that fails, it leaves half of itself behind, and a traceback."""
    _ = [multiprocessing.Queue() for _ in range(workers + 1)], multiprocessing.Event()


def _forget_workers(loader: DataLoader) -> None:
    loader._iterator = None


def decoded(
    pictures, square: Square, batch_size: int, workers: int
) -> Iterator[tuple[list[int], torch.Tensor, dict[int, str]]]:
    """Decode all pictures once, in order, as tests see them.

    Parameters
    ----------
    pictures, square, workers
        As `Decoder`.
    batch_size : int

    Yields
    ------
    indices : list of int
        Of those pictures in the batch that could be read.
    pixels : Tensor of uint8, shape (len(indices), 3, size, size)
    problems : dict of int to str
        One line for each of the others, by its index.
    """
    starts = range(0, len(pictures), batch_size)
    decoder = Decoder(pictures, square, workers if len(starts) > 1 else 0)
    ranges = [range(first, min(first + batch_size, len(pictures))) for first in starts]
    try:
        passes = decoder.batches([(index, None) for index in indices] for indices in ranges)
        for indices, (pixels, problems) in zip(ranges, passes, strict=True):
            good = [index for index in indices if index not in problems]
            yield good, pixels[[index - indices.start for index in good]] if problems else pixels, problems
    finally:
        decoder.close()
