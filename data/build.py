"""`build_data`: from a name to loaders."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from . import cache, labels
from .augment import BatchTransform, pad_of
from .errors import DataError, one_line
from .fingerprint import fingerprint
from .images import Square, evenly_spaced, resize_squares
from .loaders import ArrayLoader, FileLoader, Loader, choose_place, pad_images
from .locks import alone_in
from .options import DataOptions
from .registry import Dataset, resolve
from .source import Source, Split
from .workers import decoded, refusal

SMALL = 64  # pixels up to which images are kept decoded
_IRREGULAR_SIZE = 224  # native size of sets whose images differ in size
_SMALLEST, _LARGEST = 4, 2048  # image sizes taken, pixels
_STATISTICS_SAMPLE = 1024  # images that an unknown mean and std are computed from
_TEST_PIXELS = {
    "cuda": 2048 * 32**2,
    "other": 512 * 32**2,
}  # of a test batch, unless a training batch has more
_CHUNK = 64  # files that a worker decodes at once when all are
_KINDS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Data:
    """A data set ready for training."""

    train: Loader | None  # None with ``eval_only`` where there are no training images
    test: Loader
    val: Loader | None  # of the images that choose the best weights; None: the test images do
    in_order: Loader | None  # see `train_in_order`
    num_classes: int
    class_names: list[str]
    image_size: int  # height and width of the batches, pixels
    mean: tuple[float, ...]  # per channel, of pixel values in [0, 1]: what the batches are normalised with
    std: tuple[float, ...]
    interpolation: str  # 'bilinear' or 'bicubic'
    crop_pct: float  # share of the resized image's side that the test's centre crop keeps
    fingerprint: str  # of the contents; see `fingerprint.fingerprint`
    # Training images with each label, and with each of the set's own labels: they differ where labels were
    # changed. Empty without training images.
    class_counts: list[int]
    own_counts: list[int]
    wrong_labels: float  # share of the training labels that differ from the set's own
    labels_digest: str  # of the training labels; empty without training images
    clean_train_labels: torch.Tensor  # the set's own labels, int64, in the order of `train_in_order`
    train_index: np.ndarray  # position of each in the set's own training split: ``index`` of a label file
    train_names: list[str] | None  # path of each below ``train/``: ``file`` of a label file; None: no files
    test_paths: list[str] | None  # the test images' files, in order
    description: str  # one line for the log
    notes: list[str]  # lines for the log: what was used, left out or changed, with counts

    def train_in_order(self) -> Loader:
        """The training images once, in their order, with the test's transform and the labels trained on."""
        return self.in_order

    def facts(self) -> dict:
        """What a run remembers of its data, to be compared with when it is resumed."""
        return {
            "fingerprint": self.fingerprint,
            "class_names": self.class_names,
            "training": sum(self.class_counts),
            "test": self.test.num_samples,
            "wrong_labels": self.wrong_labels,
            "labels": self.labels_digest,
        }


def build_data(
    name: str,
    data_dir: str | os.PathLike,
    image_size: int,
    batch_size: int,
    device: str | torch.device,
    options: DataOptions | None = None,
    **changes,
) -> Data:
    """Find, decode and load a data set.

    Parameters
    ----------
    name : str
        One of `list_datasets()`, or ``folder:<path>``.
    data_dir : path
        Where its files are or go; nothing is written outside.
    image_size : int
        Height and width of the batches in pixels; 0: the set's own.
    batch_size : int
        Of the global batch that all ranks share.
    device : str or torch.device
    options : DataOptions, optional
    **changes
        Fields of `options` to change.

    Raises
    ------
    DataError
        Anything a user can fix: a name, a value, a missing, damaged or tampered file. One line.
    """
    device, options = torch.device(device), replace(options or DataOptions(), **changes)
    options.check()
    if image_size != 0 and not _SMALLEST <= image_size <= _LARGEST:
        raise DataError(
            f"image size {image_size} (--size) is not 0 (native) or {_SMALLEST} to {_LARGEST} pixels"
        )
    if batch_size < 1:
        raise DataError(f"batch size {batch_size} is not 1 or more")
    if "\0" in f"{name}{data_dir}":
        raise DataError(f"{name!r} or {str(data_dir)!r} has a null character in it")
    key, entry, path = resolve(name)
    data_dir = Path(os.path.expanduser(data_dir))
    root = Path(os.path.expanduser(path)) if path else data_dir
    try:
        source = entry.load(key, root, options)
        _check_classes(source, options.class_names)
        digest = fingerprint(source, options.skip_bad)
        size = image_size or entry.native_size or source.common_size or _IRREGULAR_SIZE
        if size > SMALL and options.cache != "auto":
            raise DataError(
                f"--cache {options.cache}: images above {SMALL} px are read anew in every epoch; leave it out"
            )
        square = Square(size, options.interpolation or "bilinear", options.crop_pct or 1.0)
        splits, bad = _readable(source, key, data_dir, digest, square, options)
        parts, clean, changes_made = _parts(source, splits, options)
        mean, std = _statistics(entry, parts.get("train"), square, options)
        transform = BatchTransform(mean, std, device, options.channels_last)
        loaders, place = _loaders(parts, square, entry.flip, transform, batch_size, options)
    except OSError as error:  # a folder that cannot be read, a file gone since it was listed, …
        raise DataError(f"{name}: {one_line(error)}") from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise DataError(f"{name}: the decoded images do not fit into memory; try --cache ram") from error

    train, names = parts.get("train"), list(source.class_names)
    given = clean if train is None else train.labels
    counts = [np.bincount(y, minlength=len(names)).tolist() if train else [] for y in (given, clean)]
    wrong = float((given != clean).mean()) if train else 0.0
    sizes = [f"{len(split):,} {_KINDS[key]}" for key, split in parts.items()]
    description = (
        f"{name}: {', '.join(sizes[:-1])}{' and ' if sizes[:-1] else ''}{sizes[-1]} images, {size} px, "
        f"{len(names)} classes, {place}"
        + (f", {_augmentation(size, entry.flip, options)}" if train else "")
        + (f", {round(wrong * len(clean)):,} training labels flipped" if wrong else "")
    )
    return Data(
        train=loaders.get("train"),
        test=loaders["test"],
        val=loaders.get("val"),
        in_order=loaders.get("in order"),
        num_classes=len(names),
        class_names=names,
        image_size=size,
        mean=tuple(mean),
        std=tuple(std),
        interpolation=square.interpolation,
        crop_pct=square.crop_pct,
        fingerprint=digest,
        class_counts=counts[0],
        own_counts=counts[1],
        wrong_labels=wrong,
        labels_digest=hashlib.sha256(given.astype("<i8").tobytes()).hexdigest() if train else "",
        clean_train_labels=torch.from_numpy(clean).to(device),
        train_index=train.index if train else np.arange(0),
        train_names=_names(source, train.paths) if train and train.paths else None,
        test_paths=parts["test"].paths,
        description=description,
        notes=[*source.notes, *bad, *changes_made],
    )


def _check_classes(source: Source, wanted) -> None:
    """Refuse, by name, a set whose classes are not the run's."""
    if wanted is None:
        return
    now, then = (
        [unicodedata.normalize("NFC", name) for name in some] for some in (source.class_names, wanted)
    )
    if now == then:
        return
    gone = [name for name in then if name not in now]
    new = [name for name in now if name not in then]
    if not gone and not new:
        raise DataError("the data set's classes are the run's in another order: labels would be mixed up")
    what = [
        f"{', '.join(map(repr, some[:5]))} {verb}" for some, verb in ((gone, "gone"), (new, "new")) if some
    ]
    raise DataError(f"the data set's classes are not the run's: {'; '.join(what)}; was a class renamed?")


def _readable(
    source: Source, key: str, data_dir: Path, digest: str, square: Square, options: DataOptions
) -> tuple[dict[str, Split], list[str]]:
    """The splits without bad files, small images decoded; notes on what was left out."""
    splits = {kind: getattr(source, kind) for kind in _KINDS if getattr(source, kind) is not None}
    if next(iter(splits.values())).paths is None or not (square.size <= SMALL or options.skip_bad):
        return splits, []
    if square.size > SMALL:
        done = {kind: _decode_all(kind, split, square, options, keep=False) for kind, split in splits.items()}
    else:
        where = str(source.root.resolve())
        stem = re.sub(r"[^A-Za-z0-9_.-]", "_", Path(where).name)[:40]
        stem = f"{key}-{stem}-{hashlib.sha256(os.fsencode(where)).hexdigest()[:8]}-{square.size}"
        file, cache_key = data_dir / "cache" / f"{stem}.npz", f"{cache.VERSION} {digest} {square}"
        with alone_in(data_dir):
            done = cache.read(file, cache_key)
            if done is None:
                done = {kind: _decode_all(kind, split, square, options) for kind, split in splits.items()}
                cache.write(file, cache_key, done)
    messages = [message for _, bad in done.values() for message in bad.values()]
    if messages and not options.skip_bad:
        raise refusal(messages)
    for kind, (images, bad) in done.items():
        good = np.setdiff1d(np.arange(len(splits[kind])), list(bad)).astype(np.int64)
        splits[kind] = replace(splits[kind], images=images)[good]
    return splits, [f"left out: {message}" for message in messages]


def _decode_all(
    kind: str, split: Split, square: Square, options: DataOptions, keep: bool = True
) -> tuple[np.ndarray | None, dict[int, str]]:
    """All images of a split, bad ones black, and what is wrong with these; `keep` False: only the latter."""
    out = np.zeros((len(split), 3, square.size, square.size), dtype=np.uint8) if keep else None
    bad: dict[int, str] = {}
    with tqdm(
        total=len(split), desc=f"decoding {_KINDS[kind]} images", unit="image", leave=False,
        disable=None if options.progress and options.rank == 0 else True,
    ) as bar:  # fmt: skip
        for good, pixels, problems in decoded(split.paths, square, _CHUNK, options.workers):
            bad |= problems
            if out is not None:
                out[good] = pixels.numpy()
            bar.update(len(good) + len(problems))
    return out, bad


def _parts(
    source: Source, splits: dict[str, Split], options: DataOptions
) -> tuple[dict[str, Split], np.ndarray, list[str]]:
    """What is trained on, chosen by and tested on; the training images' own labels; notes."""
    train, val, test = (splits.get(key) for key in _KINDS)
    names, seed, notes = source.class_names, options.seed, []
    clean = np.zeros(0, dtype=np.int64)
    if train is not None:
        given = train.labels
        if options.train_labels:
            names_of = _names(source, source.train.paths) if train.paths else len(source.train)
            given, digest = labels.read_labels(options.train_labels, options.label_column, names, names_of)
            given = given[train.index]
            notes.append(f"training labels of {options.train_labels} (sha256 {digest})")
        kept = np.arange(len(train))
        if options.val_split:
            if val is not None:
                raise DataError("the data set has validation images of its own: leave --val-split out")
            kept, held = labels.validation_split(train.labels, options.val_split, names, seed)
            what = f"{len(held):,} of {len(train):,} training images, {options.val_split:g} of each class,"
            if test is None:
                test = train[held]
                notes.append(f"{what} are kept for testing")
            else:
                val = train[held]
                notes.append(f"{what} are kept for validation, with their own labels")
        labelled = kept[given[kept] != labels.NO_LABEL]
        if len(labelled) < len(kept):
            notes.append(f"{len(kept) - len(labelled):,} training images without a label are left out")
            kept = labelled
        if options.imbalance < 1:
            tail = labels.long_tail(train.labels[kept], len(names), options.imbalance, seed)
            notes.append(f"long tail: {len(tail):,} of {len(kept):,} training images are kept")
            kept = kept[tail]
        train, given = train[kept], given[kept]
        clean = train.labels
        counts = np.bincount(clean, minlength=len(names))
        if not counts.all():
            raise DataError(f"class {names[int(counts.argmin())]!r} has no training image that can be used")
        if options.label_noise:
            kind = options.label_noise_kind
            given = labels.noisy_labels(given, len(names), options.label_noise, kind, seed)
        train = replace(train, labels=given)
    for split, what in ((test, "test"), (val, "validation")):
        if split is not None and not len(split):
            raise DataError(f"no {what} image can be read")
    if test is None:
        raise DataError("there are no test images")
    if not options.eval_only:
        notes.append(_who_chooses(val, splits.get("test")))
    found = zip(_KINDS, (train, val, test), strict=True)
    return {key: split for key, split in found if split is not None}, clean, notes


def _who_chooses(val: Split | None, test: Split | None) -> str:
    if val is not None:
        return "the validation images choose the best weights; the test images are read once, at the end"
    if test is None:
        return "the test images choose the best weights too: a folder of test images would leave them unseen"
    return "the test images choose the best weights: --val-split 0.1 keeps training images for that"


def _names(source: Source, paths: list[str]) -> list[str]:
    """Training files as label files name them."""
    root = source.train_root or source.root / "train"
    return [Path(os.path.relpath(path, root)).as_posix() for path in paths]


def _squares(split: Split, square: Square) -> np.ndarray:
    """The images at the size wanted; thousands at a time, since the resize makes a float copy on some devices."""
    images = split.images
    if split.paths is not None or (images.shape[-1] == square.size and square.crop_pct == 1):
        return images
    out = np.empty((*images.shape[:2], square.size, square.size), dtype=np.uint8)
    for first in range(0, len(images), 4096):
        chunk = torch.from_numpy(images[first : first + 4096])
        out[first : first + 4096] = resize_squares(chunk, *square).numpy()
    return out


def _statistics(entry: Dataset, train: Split | None, square: Square, options: DataOptions):
    """The net's mean and std, or the registry's, or those of a sample of the training images."""
    if options.mean is not None and options.std is not None:
        return options.mean, options.std
    if entry.mean is not None:
        return entry.mean, entry.std
    if train is None:
        raise DataError("without training images mean and std must come with the weights")
    sample = train[evenly_spaced(len(train), _STATISTICS_SAMPLE)]
    if sample.images is None:
        images, bad = _decode_all("train", sample, square, replace(options, progress=False))
        if bad:
            raise refusal(list(bad.values()))
    else:  # enlarging changes no mean
        images = sample.images if sample.images.shape[-1] < square.size else _squares(sample, square)
    values = images.astype(np.float64) / 255
    mean, std = values.mean(axis=(0, 2, 3)), values.std(axis=(0, 2, 3))
    std = np.maximum(std, 1 / 255)  # images of one colour
    return tuple(tuple(float(x) for x in np.broadcast_to(v, 3)) for v in (mean, std))


def _loaders(
    parts: dict[str, Split], square: Square, flip: bool, transform: BatchTransform, batch_size: int,
    options: DataOptions,
) -> tuple[dict[str, Loader], str]:  # fmt: skip
    """A loader for each part, and ``"in order"`` for the training images; where the images are, in words."""
    device, small = transform.device, square.size <= SMALL
    pixels = _TEST_PIXELS["cuda" if device.type == "cuda" else "other"]
    test_batch = max(-(-batch_size // options.world_size), pixels // square.size**2)
    pad = pad_of(square.size) if small and options.augment else 0
    draws = {"pad": pad, "flip": flip, "randaug": options.randaug} if options.augment else None
    arrays = {key: _squares(split, square) for key, split in parts.items()} if small else {}
    num_bytes = sum(images.nbytes for images in arrays.values())
    place = choose_place(options.cache, device, num_bytes)
    loaders: dict[str, Loader] = {}
    for key, split in parts.items():
        given = torch.from_numpy(split.labels).to(device)
        build: Callable[..., Loader]
        if small:
            border = pad if key == "train" else 0
            images = pad_images(arrays.pop(key), border, place)
            build = partial(ArrayLoader, images, border, given, transform)
        else:
            build = partial(FileLoader, split.pictures, square, given, transform)
        if key == "train":
            loaders["train"] = build(batch_size, options, shuffled=True, draws=draws)
        in_order = "in order" if key == "train" else key
        loaders[in_order] = build(test_batch, options, shuffled=False, draws=None)
    if not small:
        return loaders, "read anew in every epoch"
    where = f"in memory on {device.type}" if place == device else "in host memory"
    return loaders, f"{where} ({num_bytes / 1e6:,.1f} MB)"


def _augmentation(size: int, flip: bool, options: DataOptions) -> str:
    """What training does to the images, in words."""
    if not options.augment:
        return "not augmented"
    smallest, largest = (100 * share for share in options.crop_scale)
    crops = f"shifted by up to {pad_of(size)} px"
    if size > SMALL:
        crops = f"random crops of {smallest:g} to {largest:g} % of each image"
    flipped = ", flipped" + (" in every other epoch" if size <= SMALL else "") if flip else ""
    return f"{crops}{flipped}{', RandAugment' if options.randaug else ''}"
