"""The iterables a training loop sees: batches of an epoch for training, one pass in order for testing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from . import plan
from .augment import BatchTransform, pad_of
from .errors import DataError


class TrainLoader:
    """Shuffled, augmented batches; which ones is a function of (seed, epoch, batch) alone.

    Parameters
    ----------
    store : DeviceStore, HostStore or Stream
        Gives the images.
    labels : Tensor of int64, shape (N,)
        On the device.
    transform : BatchTransform
    batch_size : int
        Of the global batch.
    augment, flip, randaug : bool
    seed, rank, world_size : int

    Attributes
    ----------
    index : Tensor of int64, shape (B,)
        Which training samples the batch just yielded shows, on the device.
    """

    index: torch.Tensor

    def __init__(
        self,
        store,
        labels: torch.Tensor,
        transform: BatchTransform,
        batch_size: int,
        *,
        augment: bool,
        flip: bool,
        randaug: bool,
        seed: int,
        rank: int,
        world_size: int,
    ):
        self._store, self._labels, self._transform = store, labels, transform
        self._augment = augment
        self._kinds: dict[str, Any] = {"pad": pad_of(transform.size), "flip": flip, "randaug": randaug}
        self._seed = seed
        self._batches = plan.train_batches(len(labels), batch_size, world_size)
        # in pairs, which mixup needs to find as they are with any number of ranks
        self._parts = [plan.rank_part(*batch, rank, world_size, unit=2) for batch in self._batches]
        self._epoch = self._start = 0

    def __len__(self) -> int:
        """Batches in a whole epoch, wherever the next iteration starts."""
        return len(self._batches)

    @property
    def num_samples(self) -> int:
        """Images that one epoch shows, all ranks together."""
        return self._batches[-1][1]

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose what the next iteration yields.

        Parameters
        ----------
        epoch : int
            Counted from 0; every epoch has its own order and its own augmentation.
        start_batch : int
            First batch of that iteration: the number of batches already trained on. Later iterations
            start at 0 again.

        Raises
        ------
        DataError
            `start_batch` is not in 0 … len(self).
        """
        if not 0 <= start_batch <= len(self):
            raise DataError(f"epoch {epoch} has {len(self)} batches; it cannot start at batch {start_batch}")
        self._epoch, self._start = epoch, start_batch

    def from_(self, epoch, batch=0):
        self.set_epoch(epoch, batch)
        return iter(self)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        epoch, start, self._start = self._epoch, self._start, 0
        n = len(self._labels)
        order = plan.permutation(n, self._seed, epoch)
        # one copy an epoch, here and below, so that no batch has to wait for its own
        draws = None
        if self._augment:
            draws = plan.draw(n, self._seed, epoch, **self._kinds).to(self._labels.device)
        yield from self._epoch_batches(order, draws, self._parts[start:])

    def _epoch_batches(self, order, draws, parts):
        order_here = order.to(self._labels.device, non_blocking=True)
        images = self._store.train_batches(order, order_here, draws, parts, self._transform)
        for (first, last), batch in zip(parts, images, strict=True):
            drawn = None if draws is None else draws[first:last]
            self.index = order_here[first:last]
            yield self._transform.finish(batch, drawn), self._labels[self.index]


class TestLoader:
    """Every image once, in the order of the data set, never augmented.

    Parameters
    ----------
    store : DeviceStore, HostStore or Stream
    labels : Tensor of int64, shape (N,)
        On the device.
    transform : BatchTransform
    batch_size : int
        Of one rank.
    rank, world_size : int
        The set is cut into contiguous parts without padding, so ranks may have different batch counts.
    """

    __test__ = False  # pytest: not a test case

    def __init__(self, store, labels, transform: BatchTransform, batch_size: int, *, rank, world_size):
        self._store, self._labels, self._transform = store, labels, transform
        first, last = plan.rank_part(0, len(labels), rank, world_size)
        starts = range(first, last, batch_size)
        self._parts = [(start, min(start + batch_size, last)) for start in starts]

    def __bool__(self) -> bool:
        """Always: a rank whose part is empty has a loader all the same (``data.val or data.test``)."""
        return True

    def __len__(self) -> int:
        """Batches of this rank."""
        return len(self._parts)

    @property
    def num_samples(self) -> int:
        """Images in the test set, all ranks together."""
        return len(self._labels)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        images = self._store.test_batches(self._parts)
        for (first, last), batch in zip(self._parts, images, strict=True):
            batch = self._transform.resize(batch)
            yield self._transform.finish(batch), self._labels[first:last]
