"""The iterables a training loop sees: shuffled, augmented batches for training, one pass in order for testing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import plan
from .augment import BatchTransform, crop
from .errors import DataError
from .images import Square
from .options import DataOptions
from .workers import Decoder, refusal

DEVICE_SHARE = 0.4  # of the free device memory: the rest is for the net and its activations


class Loader:
    """Batches of images and labels on the device; which ones is a function of (seed, epoch, batch) alone.

    Parameters
    ----------
    labels : Tensor of int64, shape (N,)
        On the device.
    transform : BatchTransform
    batch_size : int
        Of all ranks together where it is shuffled, else of this rank.
    options : DataOptions
    shuffled : bool
        False: every image once, in the order of the data set, cut into contiguous parts without padding, so
        ranks may have different batch counts.
    draws : dict, optional
        What `plan.draw` draws; None: the images are not augmented.

    Attributes
    ----------
    num_samples : int
        Images that one epoch shows, all ranks together.
    """

    def __init__(
        self,
        labels: Tensor,
        transform: BatchTransform,
        batch_size: int,
        options: DataOptions,
        *,
        shuffled: bool,
        draws: dict[str, Any] | None,
    ):
        self._labels, self._transform, self._seed = labels, transform, options.seed
        self._shuffled, self._draws = shuffled, draws
        rank, world, n = options.rank, options.world_size, len(labels)
        if shuffled:
            batches = plan.train_batches(n, batch_size, world)
            # in pairs, which mixup needs to find as they are with any number of ranks
            self._parts = [plan.rank_part(*batch, rank, world, unit=2) for batch in batches]
            self.num_samples = batches[-1][1]
        else:
            first, last = plan.rank_part(0, n, rank, world)
            starts = range(first, last, batch_size)
            self._parts = [(start, min(start + batch_size, last)) for start in starts]
            self.num_samples = n

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch."""
        return len(self._parts)

    def __bool__(self) -> bool:
        """Always: a rank whose part is empty has a loader all the same (``data.val or data.test``)."""
        return True

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The first epoch, which is every epoch where nothing is shuffled."""
        return self.from_(0)

    def from_(self, epoch: int, batch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, from one of them on.

        Epochs are counted from 0, each with an order and an augmentation of its own; `batch` is the number of
        batches already trained on.
        """
        if not 0 <= batch <= len(self):
            raise DataError(f"epoch {epoch} has {len(self)} batches; it cannot start at batch {batch}")
        return self._batches(epoch, self._parts[batch:])

    def _batches(self, epoch: int, parts) -> Iterator[tuple[Tensor, Tensor]]:
        n, device = len(self._labels), self._labels.device
        order = plan.permutation(n, self._seed, epoch) if self._shuffled else torch.arange(n)
        draws = None if self._draws is None else self._drawn(epoch, order)
        # one copy an epoch, so that no batch has to wait for its own
        order_here, draws_here = order.to(device, non_blocking=True), draws and draws.to(device)
        images = self._images(epoch, order, draws, parts)
        for (first, last), batch in zip(parts, images, strict=True):
            drawn = None if draws_here is None else draws_here[first:last]
            yield self._transform(batch, drawn), self._labels[order_here[first:last]]

    def _drawn(self, epoch: int, order: Tensor) -> plan.Draws:
        """The augmentation of each position of the epoch."""
        return plan.draw(len(order), self._seed, epoch, **self._draws)

    def _images(self, epoch: int, order: Tensor, draws: plan.Draws | None, parts) -> Iterator[Tensor]:
        """The parts' images on the device, uint8, cropped as drawn."""
        raise NotImplementedError


class ArrayLoader(Loader):
    """Small images: all of them in one uint8 tensor, on the device or in host memory.

    `images`, shape (N, C, size + 2·pad, size + 2·pad), are padded in advance for random crops (`pad_images`).
    """

    def __init__(self, images: Tensor, pad: int, *args, **options):
        super().__init__(*args, **options)
        self._images_, self._pad = images, pad
        self._upload = Uploader(self._labels.device)

    def _drawn(self, epoch, order):
        draws = super()._drawn(epoch, order)
        if draws.flip is None:
            return draws
        return replace(draws, flip=plan.alternating_flip(order, self._seed, epoch))

    def _images(self, epoch, order, draws, parts):
        size, place = self._images_.shape[-1] - 2 * self._pad, self._images_.device
        order = order.to(place, non_blocking=True)
        if draws is not None:
            top, left = (x.to(place, non_blocking=True) for x in (draws.top, draws.left))
        else:  # the image as it is
            top = left = torch.full_like(order, self._pad)
        for a, b in parts:
            yield self._upload(crop(self._images_, size, order[a:b], top[a:b], left[a:b]))


class FileLoader(Loader):
    """Larger images: decoded from their files in every epoch, by worker processes ahead of the net.

    Workers read a random resized crop, or the centre; flipping and normalising happen on the device. `pictures` are
    paths or arrays, as `workers.Decoder` takes them.
    """

    def __init__(self, pictures, square: Square, labels, transform, batch_size, options: DataOptions, **how):
        super().__init__(labels, transform, batch_size, options, **how)
        self._decoder = Decoder(pictures, square, options.workers, options.crop_scale)
        self._upload = Uploader(labels.device)

    def _images(self, epoch, order, draws, parts):
        keys = None if draws is None else plan.crop_keys(len(order), self._seed, epoch)

        def wanted(a, b):
            of_crops = [None] * (b - a) if keys is None else keys[a:b].tolist()
            return list(zip(order[a:b].tolist(), of_crops, strict=True))

        for pixels, problems in self._decoder.batches(wanted(a, b) for a, b in parts):
            if problems:
                raise refusal(list(problems.values()))
            yield self._upload(pixels)


class Uploader:
    """Copies host batches to the device, on CUDA beside the running computation."""

    def __init__(self, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: Tensor) -> Tensor:
        """`batch` on the device."""
        if batch.device == self._device or self._stream is None:
            return batch.to(self._device)
        # on a stream of its own the copy does not queue behind the steps already launched
        with torch.cuda.stream(self._stream):
            copy = batch.contiguous().pin_memory().to(self._device, non_blocking=True)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        copy.record_stream(current)
        return copy


def pad_images(images: np.ndarray, pad: int, place: torch.device) -> Tensor:
    """The images as one tensor at `place`, with so many black pixels on each side."""
    n, c, h, w = images.shape
    padded = torch.zeros((n, c, h + 2 * pad, w + 2 * pad), dtype=torch.uint8, device=place)
    padded[:, :, pad : pad + h, pad : pad + w] = torch.from_numpy(images).to(place)
    return padded


def choose_place(cache: str, device: torch.device, num_bytes: int) -> torch.device:
    """Where small images are kept: on the device where they fit, else in host memory.

    `cache` is what the user asked for, `num_bytes` the images' size.
    """
    if cache == "auto" and device.type == "cuda":
        cache = "device" if num_bytes <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0] else "ram"
    if cache == "auto" and device.type != "cpu":  # mps gathers crops slowly
        cache = "ram"
    return device if cache != "ram" else torch.device("cpu")
