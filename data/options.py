"""How a data set is to be had: everything beside its name, its size and the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import DataError

CACHES = ("auto", "device", "ram")
NOISES = ("uniform", "pair")
INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class DataOptions:
    """Options of `build_data`.

    Parameters
    ----------
    augment : bool
        Train on random crops and, where a mirrored image keeps its class, flips. Up to 64 px a crop is a shift by
        at most ``image_size // 8`` with black padding, above it is a random resized crop. False: the test's
        transform.
    crop_scale : (float, float)
        Smallest and largest share of an image's area that a random resized crop shows.
    randaug : bool
        RandAugment (2 operations of magnitude 9) as well. Needs `augment`.
    label_noise : float
        Share of the training labels changed to another class, in [0, 1).
    label_noise_kind : {'uniform', 'pair'}
        To every other class alike, or to the next class.
    train_labels, label_column : str
        CSV file with other labels for the training images, and its column; see `labels.read_labels`.
    imbalance : float
        Share of its training images that the last class keeps, in (0, 1]; exponential in between.
    val_split : float
        Share of each class's training images that become the validation set, in [0, 1).
    skip_bad : bool
        Leave unreadable images out, and list them in the notes, instead of refusing the set.
    cache : {'auto', 'device', 'ram'}
        Where decoded images of up to 64 px are kept. Larger ones are read from their files in every epoch.
    workers : int
        Processes that decode image files; 0: none but this one. Never more than there are cores.
    seed : int
    rank, world_size : int
        This process among those that train together.
    progress : bool
        Show progress bars, on terminals and on rank 0.
    mean, std : tuple of float, optional
        What the net wants instead of the set's own statistics.
    interpolation : {'bilinear', 'bicubic'}, optional
        Of every resize; default bilinear.
    crop_pct : float, optional
        Share of the shorter side, in (0, 1], that the test's centre crop keeps; default 1.
    eval_only : bool
        Take a set without training images as well; an image folder then needs `class_names`.
    class_names : sequence of str, optional
        What the classes are to be called: a set with other ones is refused by name.
    channels_last : bool
        Memory layout of the batches: a pixel's channels together, as convolutions want it.
    """

    augment: bool = True
    crop_scale: tuple[float, float] = (0.08, 1.0)
    randaug: bool = False
    label_noise: float = 0.0
    label_noise_kind: str = "uniform"
    train_labels: str = ""
    label_column: str = ""
    imbalance: float = 1.0
    val_split: float = 0.0
    skip_bad: bool = False
    cache: str = "auto"
    workers: int = 8
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    progress: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    eval_only: bool = False
    class_names: Sequence[str] | None = None
    channels_last: bool = False

    def check(self) -> None:
        """Refuse values that make no sense, each by one line.

        Raises
        ------
        DataError
            For what a user typed; `ValueError` for what only a program can get wrong.
        """
        smallest, largest = self.crop_scale
        refusals = (
            # written so that nan is refused too
            (
                not 0 <= self.label_noise < 1,
                f"--label-noise {self.label_noise} is not at least 0 and below 1",
            ),
            (not 0 <= self.val_split < 1, f"--val-split {self.val_split} is not at least 0 and below 1"),
            (not 0 < self.imbalance <= 1, f"--imbalance {self.imbalance} is not above 0 and at most 1"),
            (
                not 0 < smallest <= largest <= 1,
                f"--crop-scale {smallest:g} {largest:g}: two shares above 0 and at most 1, the smaller first",
            ),
            (self.cache not in CACHES, f"--cache {self.cache!r} is not one of {', '.join(CACHES)}"),
            (
                self.label_noise_kind not in NOISES,
                f"--label-noise-kind {self.label_noise_kind!r} is not one of {', '.join(NOISES)}",
            ),
            (
                self.label_noise_kind == "pair" and not self.label_noise,
                "--label-noise-kind pair needs its share: --label-noise R",
            ),
            (self.workers < 0, f"--workers {self.workers} is not 0 or more"),
            (
                self.randaug and not self.augment,
                "--randaug augments and --noaug turns augmentation off: choose one",
            ),
            (
                bool(self.label_column) and not self.train_labels,
                f"--label-column {self.label_column} needs the file that has it: --train-labels",
            ),
            (
                bool(self.train_labels) and self.label_noise > 0,
                "--train-labels and --label-noise both change the labels: choose one",
            ),
        )
        for wrong, message in refusals:
            if wrong:
                raise DataError(message)
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is not below the world size {self.world_size}")
        if self.interpolation not in (None, *INTERPOLATIONS):
            raise ValueError(f"interpolation {self.interpolation!r} is not one of {INTERPOLATIONS}")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct {self.crop_pct} is not above 0 and at most 1")
