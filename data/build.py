"""`build_data`: from a name to loaders."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from . import diskcache, labels
from .augment import BatchTransform, pad_of
from .errors import DataError, one_line
from .images import evenly_spaced, resize_squares
from .loaders import TestLoader, TrainLoader
from .options import DataOptions
from .ranks import one_process_a_machine_first
from .registry import Dataset, resolve
from .source import Request, Source, Split
from .stores import DeviceStore, HostStore, choose_cache
from .stream import Decoding, Stream, decode_all, refusal, usable_workers

_IRREGULAR_SIZE = 224  # native size of sets whose images differ in size
_SMALLEST, _LARGEST = 4, 2048  # image sizes taken, pixels
_STATISTICS_SAMPLE = 1024  # images that an unknown mean and std are computed from
# Pixels of a test batch, unless a training batch has more
_TEST_PIXELS = {"cuda": 2048 * 32**2, "other": 512 * 32**2}
_PLACES = {"device": "in memory on {}", "ram": "in host memory", "none": "read from files as needed"}
_KINDS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Data:
    """A data set ready for training.

    Parameters
    ----------
    train : TrainLoader or None
        None with ``eval_only`` where there are no training images.
    test : TestLoader
    val : TestLoader or None
        The images that choose the best weights; None: the test images do.
    num_classes : int
    class_names : list of str
    image_size : int
        Height and width of the batches, pixels.
    mean, std : tuple of float
        Per-channel statistics the batches are normalised with, for pixel values in [0, 1].
    interpolation : {'bilinear', 'bicubic'}
    crop_pct : float
        Share of the resized image's side that the centre crop keeps.
    fingerprint : str
        Digest of class names, and of names and sizes of the files or the contents of the arrays: the same
        wherever the files are, and whenever they were written.
    class_counts, own_counts : list of int
        Training images with each label, and with each of the set's own labels: they differ where labels were
        changed. Empty without training images.
    wrong_labels : float
        Share of the training labels that differ from the set's own.
    labels_digest : str
        Of the training labels; empty without training images.
    clean_train_labels : Tensor of int64, shape (N,)
        The set's own labels of the training images, on the device: `train.index` picks a batch's.
    test_paths : list of str or None
        The test images' files, in order.
    description : str
        One line for the log.
    notes : list of str
        Lines for the log: what was guessed, left out or changed, with counts.
    """

    train: TrainLoader | None
    test: TestLoader
    val: TestLoader | None
    num_classes: int
    class_names: list[str]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    fingerprint: str
    class_counts: list[int]
    own_counts: list[int]
    wrong_labels: float
    labels_digest: str
    clean_train_labels: torch.Tensor
    test_paths: list[str] | None
    description: str
    notes: list[str] = field(default_factory=list)

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

    Returns
    -------
    Data

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
    if "\0" in str(data_dir):
        raise DataError(f"data directory {str(data_dir)!r} has a null character in it")
    key, entry, path = resolve(name)
    workers = usable_workers(options.workers)
    request = Request(
        key, Path(os.path.expanduser(data_dir)), path, options.progress and options.rank == 0,
        options.eval_only, options.class_names, options.val_split > 0,
    )  # fmt: skip
    interpolation, crop_pct = options.interpolation or "bilinear", options.crop_pct or 1.0
    try:
        with one_process_a_machine_first():
            source = entry.load(request)
            _check_classes(source, options.class_names)
            whole = {key: getattr(source, key) for key in _KINDS if getattr(source, key) is not None}
            size = image_size or entry.native_size or source.common_size or _IRREGULAR_SIZE
            # enlarging is left to the device, a batch at a time: the set stays as small as its files are
            stored = min(size, source.common_size or size)
            how = Decoding(stored, interpolation, crop_pct if stored == size else 1.0)
            where = _choose(options, device, whole, stored, size)
            whole, notes = _decoded(request, source, whole, how, where, options.skip_bad, workers)
        parts, clean, more = _parts(source, whole, options)
        more += _twins(parts, clean) if key == "folder" else []  # the others are as they were published
        mean, std = _statistics(entry, parts.get("train"), how, workers, options)
        stores = {
            key: _store(where, split, device, size, how, options.augment and key == "train", workers)
            for key, split in parts.items()
        }
    except OSError as error:  # a folder that cannot be read, a file gone since it was listed, …
        raise DataError(f"{name}: {one_line(error)}") from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise DataError(f"{name}: the decoded images do not fit into memory; use --cache none") from error

    transform = BatchTransform(size, mean, std, device, interpolation, crop_pct, options.channels_last)
    rank = {"rank": options.rank, "world_size": options.world_size}
    tensors = {key: torch.from_numpy(split.labels).to(device) for key, split in parts.items()}
    train, counts, own_counts, wrong, digest = None, [], [], 0.0, ""
    if "train" in parts:
        train = TrainLoader(
            stores["train"], tensors["train"], transform, batch_size, augment=options.augment,
            flip=entry.flip, randaug=options.randaug, seed=options.seed, **rank,
        )  # fmt: skip
        counts, own_counts = (
            np.bincount(y, minlength=len(source.class_names)).tolist() for y in (parts["train"].labels, clean)
        )
        wrong = float((parts["train"].labels != clean).mean())
        digest = hashlib.sha256(parts["train"].labels.astype("<i8").tobytes()).hexdigest()
    pixels = _TEST_PIXELS["cuda" if device.type == "cuda" else "other"]
    test_batch = max(-(-batch_size // options.world_size), pixels // size**2)
    held_out = {
        key: TestLoader(stores[key], tensors[key], transform, test_batch, **rank)
        for key in parts
        if key != "train"
    }
    megabytes = sum(store.num_bytes for store in stores.values()) / 1e6
    sizes = [f"{len(split):,} {_KINDS[key]}" for key, split in parts.items()]
    description = (
        f"{name}: {', '.join(sizes[:-1])}{' and ' if sizes[:-1] else ''}{sizes[-1]} images, {size} px, "
        f"{len(source.class_names)} classes, {_PLACES[where].format(device.type)}"
        + (f" ({megabytes:,.1f} MB)" if megabytes else "")
        + (f", {round(wrong * len(clean)):,} training labels flipped" if wrong else "")
    )
    names = list(source.class_names)
    return Data(
        train, held_out["test"], held_out.get("val"), len(names), names, size, tuple(mean), tuple(std),
        interpolation, crop_pct, _fingerprint(source), counts, own_counts, wrong, digest,
        torch.from_numpy(clean).to(device), parts["test"].paths, description, [*source.notes, *notes, *more],
    )  # fmt: skip


def _check_classes(source: Source, wanted) -> None:
    """Refuse, by name, a set whose classes are not the run's."""
    if wanted is None or list(wanted) == source.class_names:
        return
    gone = [name for name in wanted if name not in source.class_names]
    new = [name for name in source.class_names if name not in wanted]
    if not gone and not new:
        raise DataError("the data set's classes are the run's in another order: labels would be mixed up")
    what = [
        f"{', '.join(map(repr, some[:5]))} {verb}" for some, verb in ((gone, "gone"), (new, "new")) if some
    ]
    raise DataError(f"the data set's classes are not the run's: {'; '.join(what)}; was a class renamed?")


def _choose(options: DataOptions, device, splits: dict[str, Split], stored: int, size: int) -> str:
    first = next(iter(splits.values()))
    channels = 3 if first.images is None else first.images.shape[1]
    side = stored + 2 * pad_of(size) if options.augment and stored == size else stored
    counts = {key: len(split) for key, split in splits.items()}
    host = channels * stored**2 * sum(counts.values())
    padding = channels * (side**2 - stored**2) * counts.get("train", 0)
    return choose_cache(options.cache, device, host + padding, host, first.images is None)


def _decoded(
    request: Request,
    source: Source,
    splits: dict[str, Split],
    how: Decoding,
    where: str,
    skip: bool,
    workers: int,
) -> tuple[dict[str, Split], list[str]]:
    """The splits at the size wanted, with their images unless they stream, and notes on what was left out."""
    if next(iter(splits.values())).images is not None:
        return {key: replace(split, images=_resized(split.images, how)) for key, split in splits.items()}, []
    if where == "none" and not skip:
        return splits, []
    file, digest, known = None, "", None
    paths = [split.paths for split in splits.values()]
    if where != "none":
        digest = diskcache.fingerprint(source.root, paths, how)
        file = request.data_dir / "cache" / f"{_file_stem(request, source)}-{how.size}.npz"
        known = diskcache.read(file, digest, [(len(p), 3, how.size, how.size) for p in paths])
    fresh = known is None
    if known is None:
        done = [
            decode_all(
                split.paths,
                how,
                workers,
                request.progress,
                f"decoding {_KINDS[key]} images",
                file is not None,
            )
            for key, split in splits.items()
        ]
        known = [images for images, _ in done], [bad for _, bad in done]
    arrays, bad = known
    messages = [text for part in bad for text in part.values()]
    if messages and not skip:
        raise refusal(messages)
    if file is not None and fresh:
        diskcache.write(file, digest, arrays, bad)
    return {
        key: replace(split, images=images)[_all_but(len(split), unread)]
        for (key, split), images, unread in zip(splits.items(), arrays, bad, strict=True)
    }, [f"left out: {text}" for text in messages]


def _all_but(n: int, bad: dict[int, str]) -> np.ndarray:
    return np.setdiff1d(np.arange(n), np.fromiter(bad, dtype=np.int64, count=len(bad)))


def _file_stem(request: Request, source: Source) -> str:
    root = str(Path(source.root).resolve())
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", Path(root).name)[:40]
    return f"{request.name}-{readable}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:8]}"


def _resized(images: np.ndarray, how: Decoding) -> np.ndarray:
    """Shrink square images; thousands at a time, since the resize makes a float copy on some devices."""
    if images.shape[-1] == how.size and how.crop_pct == 1:
        return images
    out = np.empty((*images.shape[:2], how.size, how.size), dtype=np.uint8)
    for first in range(0, len(images), 4096):
        chunk = torch.from_numpy(images[first : first + 4096])
        out[first : first + 4096] = resize_squares(chunk, how.size, how.interpolation, how.crop_pct).numpy()
    return out


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
            given, digest = _given_labels(source, train, options)
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
        if options.imbalance < 1:
            tail = labels.long_tail(train.labels[kept], len(names), options.imbalance, seed)
            notes.append(f"long tail: {len(tail):,} of {len(kept):,} training images are kept")
            kept = kept[tail]
        train, given = train[kept], given[kept]
        clean = train.labels
        absent = [
            name for name, n in zip(names, np.bincount(clean, minlength=len(names)), strict=True) if not n
        ]
        if absent:
            raise DataError(f"class {absent[0]!r} has no training image that can be read")
        if options.label_noise or options.label_noise_kind not in ("uniform", "pair"):
            kind = options.label_noise_kind
            given = labels.noisy_labels(given, len(names), options.label_noise, kind, seed)
        train = replace(train, labels=given)
    if test is None or not len(test):
        raise DataError("no test image can be read" if test is not None else "there are no test images")
    if val is not None and not len(val):
        raise DataError("no validation image can be read")
    if not options.eval_only:
        notes.append(_who_chooses(val, splits.get("test")))
    found = zip(_KINDS, (train, val, test), strict=True)
    return {key: split for key, split in found if split is not None}, clean, notes


def _twins(parts: dict[str, Split], clean: np.ndarray) -> list[str]:
    """Notes on images that are there twice, pixel for pixel: held out and trained on, or in two classes.

    Looks at images in memory, and first at four rows of each. `clean` are the training images' own labels.
    """
    if "train" not in parts or parts["train"].images is None:
        return []
    gists: dict[int, list[tuple[str, int]]] = {}
    for key, split in parts.items():
        for i, image in enumerate(split.images):
            gists.setdefault(hash(image[:, :: max(1, image.shape[1] // 4)].tobytes()), []).append((key, i))
    alike: list[tuple[str, int]] = []
    trained: dict[int, set[int]] = {}  # pixels of training images, and their classes
    for some in gists.values():
        for key, i in some if len(some) > 1 else ():
            pixels = hash(parts[key].images[i].tobytes())
            alike.append((key, pixels))
            if key == "train":
                trained.setdefault(pixels, set()).add(int(clean[i]))
    notes = []
    for key, split in parts.items():
        n = sum(len(trained.get(pixels, ())) > (key == "train") for k, pixels in alike if k == key)
        what = "are training images too, pixel for pixel: the accuracy on new ones may be lower"
        what = "have a twin of another class, pixel for pixel" if key == "train" else what
        notes += [f"{n:,} of {len(split):,} {_KINDS[key]} images {what}"] if n else []
    return notes


def _who_chooses(val: Split | None, own_test: Split | None) -> str:
    if val is not None:
        return "the validation images choose the best weights; the test images are read once, at the end"
    if own_test is None:
        return "the test images choose the best weights too: a folder of test images would leave them unseen"
    return "the test images choose the best weights: --val-split 0.1 keeps training images for that"


def _given_labels(source: Source, train: Split, options: DataOptions) -> tuple[np.ndarray, str]:
    """`--train-labels` of all training images, less those that cannot be read."""
    file, column = options.train_labels, options.label_column
    if train.paths is None:
        return labels.read_labels(file, column, source.class_names, len(train))
    root = source.train_root or source.root / "train"
    names = [Path(os.path.relpath(path, root)).as_posix() for path in source.train.paths]
    given, digest = labels.read_labels(file, column, source.class_names, names)
    position = {path: i for i, path in enumerate(source.train.paths)}
    return given[[position[path] for path in train.paths]], digest


def _statistics(entry: Dataset, train: Split | None, how: Decoding, workers: int, options: DataOptions):
    """The net's mean and std, or the registry's, or those of a sample of the training images."""
    if options.mean is not None and options.std is not None:
        return options.mean, options.std
    if entry.mean is not None:
        return entry.mean, entry.std
    if train is None:
        raise DataError("without training images mean and std must come with the weights")
    sample = train[evenly_spaced(len(train), _STATISTICS_SAMPLE)]
    images = sample.images
    if images is None:
        images, bad = decode_all(sample.paths, how, workers, False, "")
        if bad:
            raise refusal(list(bad.values()))
    values = images.astype(np.float64) / 255
    mean, std = values.mean(axis=(0, 2, 3)), values.std(axis=(0, 2, 3))
    std = np.maximum(std, 1 / 255)  # images of one colour
    return tuple(tuple(float(x) for x in np.broadcast_to(v, 3)) for v in (mean, std))


def _store(where: str, split: Split, device, size: int, how: Decoding, crops: bool, workers: int):
    if where == "none":
        return Stream(split.paths, how, device, workers)
    if where == "ram":
        return HostStore(split.images, device)
    return DeviceStore(split.images, device, size, crops)


def _fingerprint(source: Source) -> str:
    """See `Data.fingerprint`."""
    digest = hashlib.sha256("\0".join(source.class_names).encode(errors="surrogateescape"))
    for key in _KINDS:
        split = getattr(source, key)
        if split is None:
            continue
        digest.update(f"\n{key} {len(split)}\n".encode())
        digest.update(split.labels.astype("<i8").tobytes())
        if split.paths is None:
            digest.update(str(split.images.shape).encode())
            digest.update(np.ascontiguousarray(split.images).data)
            continue
        for path in split.paths:
            name = Path(os.path.relpath(path, source.root)).as_posix()
            size = os.path.getsize(path) if os.path.exists(path) else -1  # a link to nothing
            digest.update(f"{name}\0{size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
