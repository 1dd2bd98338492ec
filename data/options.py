"""How a data set is to be had: everything beside its name, its size and the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import DataError

CACHES = ("auto", "device", "ram")
NOISES = ("uniform", "pair")


@dataclass(frozen=True)
class DataOptions:
    """Options of `build_data`."""

    # Random crops and, where a mirrored image keeps its class, flips. Up to 64 px a crop is a shift by at most
    # image_size // 8 with black padding, above it is a random resized crop. False: the test's transform.
    augment: bool = True
    crop_scale: tuple[float, float] = (
        0.08,
        1.0,
    )  # shares of an image's area that a random resized crop shows
    randaug: bool = False  # 2 operations of magnitude 9 as well
    label_noise: float = 0.0  # share of the training labels changed to another class, in [0, 1)
    label_noise_kind: str = "uniform"  # to every other class alike, or 'pair': to the next class
    train_labels: str = ""  # CSV file with other labels for the training images; see `labels.read_labels`
    label_column: str = ""
    imbalance: float = 1.0  # share of its training images that the last class keeps; exponential in between
    val_split: float = 0.0  # share of each class's training images that become the validation set, in [0, 1)
    skip_bad: bool = False  # leave unreadable images out, and list them in the notes
    cache: str = "auto"  # where decoded images of up to 64 px are kept; larger ones are read in every epoch
    workers: int = 8  # processes that decode image files, never more than there are cores; 0: only this one
    seed: int = 0
    rank: int = 0  # of this process among the `world_size` that train together
    world_size: int = 1
    progress: bool = True  # bars, on terminals and on rank 0
    mean: tuple[float, ...] | None = None  # what the net wants instead of the set's own statistics
    std: tuple[float, ...] | None = None
    interpolation: str | None = None  # 'bilinear' (default) or 'bicubic', of every resize
    crop_pct: float | None = None  # share of the shorter side that the test's centre crop keeps; default 1
    eval_only: bool = False  # take a set without training images as well; a folder then needs `class_names`
    class_names: Sequence[str] | None = None  # what the classes must be called
    channels_last: bool = False  # memory layout of the batches, as convolutions want it

    def check(self) -> None:
        """Raise `DataError` for values that make no sense; written so that nan is refused too."""
        smallest, largest = self.crop_scale
        share = "is not at least 0 and below 1"
        right = {
            f"--label-noise {self.label_noise} {share}": 0 <= self.label_noise < 1,
            f"--val-split {self.val_split} {share}": 0 <= self.val_split < 1,
            f"--imbalance {self.imbalance} is not above 0 and at most 1": 0 < self.imbalance <= 1,
            f"--crop-scale {smallest:g} {largest:g}: needs two shares above 0 and at most 1, the smaller first": (
                0 < smallest <= largest <= 1
            ),
            f"--cache {self.cache} is not one of {', '.join(CACHES)}": self.cache in CACHES,
            f"--workers {self.workers} is not 0 or more": self.workers >= 0,
            f"--label-noise-kind {self.label_noise_kind} is not one of {', '.join(NOISES)}": (
                self.label_noise_kind in NOISES
            ),
            "--label-noise-kind pair needs its share: --label-noise R": (
                self.label_noise_kind == "uniform" or self.label_noise > 0
            ),
            "--randaug augments and --noaug turns augmentation off: choose one": (
                self.augment or not self.randaug
            ),
            f"--label-column {self.label_column} needs the file that has it: --train-labels": (
                bool(self.train_labels) or not self.label_column
            ),
            "--train-labels and --label-noise both change the labels: choose one": (
                not self.train_labels or self.label_noise == 0
            ),
        }
        for message, holds in right.items():
            if not holds:
                raise DataError(message)
