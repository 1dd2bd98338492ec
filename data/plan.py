"""Every random choice of the data, as pure functions of (seed, epoch, image).

Nothing here keeps state, so a resumed run needs no saved generator: it asks for the same epoch again and
skips to its batch. All draws are made on the CPU, for the whole epoch and before the ranks share it out,
so they depend neither on the device nor on how many processes or workers there are.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass

import torch

from .errors import DataError

NUM_OPS = 2  # operations of RandAugment a sample, one after the other
# Order is part of what a seed means: append, never reorder.
OPERATIONS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
    "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip
_ASPECT = (3 / 4, 4 / 3)  # of width to height, of a random resized crop
_TRIES = 10  # to find one that fits into the image


def generator(*key: object) -> torch.Generator:
    """A fresh CPU generator whose stream is a function of `key`; the global one is left alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@dataclass(frozen=True)
class Draws:
    """What augmentation does to each position of an epoch; None: nothing of that kind.

    Parameters
    ----------
    top, left : Tensor of int64, shape (N,)
        Corner of the crop in the padded image, in pixels.
    flip : Tensor of bool, shape (N,), optional
        Mirrored left to right.
    ops : Tensor of int64, shape (NUM_OPS, N), optional
        RandAugment's operations, `2 * operation + (1 if its magnitude is negative)`.
    """

    top: torch.Tensor
    left: torch.Tensor
    flip: torch.Tensor | None
    ops: torch.Tensor | None

    def to(self, device: torch.device) -> Draws:
        """Crops and flips on the device; RandAugment's operations are chosen on the CPU."""
        top, left, flip = (
            None if x is None else x.to(device, non_blocking=True) for x in (self.top, self.left, self.flip)
        )
        return Draws(top, left, flip, self.ops)

    def __getitem__(self, where: slice) -> Draws:
        return Draws(
            self.top[where],
            self.left[where],
            None if self.flip is None else self.flip[where],
            None if self.ops is None else self.ops[:, where],
        )


def permutation(num_samples: int, seed: int, epoch: int) -> torch.Tensor:
    """Sample index at each position of the epoch, int64 of shape (num_samples,)."""
    return torch.randperm(num_samples, generator=generator("order", seed, epoch))


def draw(num_samples: int, seed: int, epoch: int, *, pad: int, flip: bool, randaug: bool) -> Draws:
    """Draw the augmentation of every position of an epoch.

    Parameters
    ----------
    num_samples : int
    seed, epoch : int
    pad : int
        Pixels added on each side before the crop; offsets are uniform on 0 … 2·pad.
    flip, randaug : bool
        Whether to draw flips (probability one half) and RandAugment operations.
    """
    g = generator("augment", seed, epoch)
    top, left = torch.randint(2 * pad + 1, (2, num_samples), generator=g)
    mirrored = torch.randint(2, (num_samples,), generator=g).bool() if flip else None
    ops = torch.randint(2 * len(OPERATIONS), (NUM_OPS, num_samples), generator=g) if randaug else None
    return Draws(top, left, mirrored, ops)


def alternating_flip(order: torch.Tensor, seed: int, epoch: int) -> torch.Tensor:
    """Whether the image at each position of an epoch is mirrored, bool: at random in the first, then in turn.

    Every image is seen from both sides in any two epochs (Jordan 2024, arXiv 2404.00498). `order` has the images.
    """
    first = torch.randint(2, (len(order),), generator=generator("flip", seed)).bool()
    return first[order] ^ (epoch % 2 == 1)


def crop_keys(num_samples: int, seed: int, epoch: int) -> torch.Tensor:
    """What `crop_box` takes for each position of an epoch, int64 of shape (num_samples,)."""
    return torch.randint(2**62, (num_samples,), generator=generator("crop", seed, epoch))


def crop_box(
    key: int, width: int, height: int, scale: tuple[float, float]
) -> tuple[float, float, float, float]:
    """A random resized crop: left, top, right and bottom in pixels, in proportion to the image's size.

    Its share of the area is uniform in `scale`, the logarithm of its aspect in that of 3/4 … 4/3, as torchvision
    draws them. Where ten tries do not fit, the largest part of an allowed aspect is taken, at a random place.

    Parameters
    ----------
    key : int
        One of `crop_keys`.
    width, height : int
        Of the image.
    scale : (float, float)
    """
    draw = random.Random(key)
    for _ in range(_TRIES):
        area = width * height * draw.uniform(*scale)
        aspect = math.exp(draw.uniform(*map(math.log, _ASPECT)))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            break
    else:
        w, h = min(width, height * _ASPECT[1]), min(height, width / _ASPECT[0])
    left, top = draw.random() * (width - w), draw.random() * (height - h)
    return left, top, min(left + w, width), min(top + h, height)


def train_batches(num_samples: int, batch_size: int, world_size: int) -> list[tuple[int, int]]:
    """Global batches of one epoch as (first, one past the last) position.

    The tail is kept as a smaller batch, unless it has fewer than two samples a rank: batch
    normalisation cannot train on one.

    Raises
    ------
    DataError
        Fewer samples in a batch, or in all, than the ranks need.
    """
    if batch_size < world_size:
        raise DataError(f"a global batch of {batch_size} cannot be shared by {world_size} processes")
    ends = range(batch_size, num_samples + 1, batch_size)
    batches = [(end - batch_size, end) for end in ends]
    full = len(batches) * batch_size
    if num_samples - full >= 2 * world_size:
        batches.append((full, num_samples))
    if not batches:
        raise DataError(
            f"{num_samples} training images are too few: "
            f"{world_size} process(es) need {2 * world_size} or more"
        )
    return batches


def rank_part(first: int, last: int, rank: int, world_size: int, unit: int = 1) -> tuple[int, int]:
    """The contiguous part of [first, last) that belongs to `rank`; sizes differ by at most one `unit`.

    A part has whole units of so many samples; what is left over goes to the last rank.
    """
    units = (last - first) // unit
    start, end = (first + unit * (units * r // world_size) for r in (rank, rank + 1))
    return start, last if rank == world_size - 1 else end
