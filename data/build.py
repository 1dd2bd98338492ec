"""`build_data`: from a name to loaders."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F

from . import diskcache, plan
from .augment import BatchTransform, pad_of
from .errors import DataError, one_line
from .images import evenly_spaced
from .loaders import TestLoader, TrainLoader
from .memory import CACHES, choose_cache
from .registry import Dataset, resolve
from .source import Request, Source, Split
from .stores import DeviceStore, HostStore
from .stream import Stream, decode_all, usable_workers

_IRREGULAR_SIZE = 224  # native size of sets whose images differ in size
_SMALLEST, _LARGEST = 4, 2048  # image sizes taken, pixels
_STATISTICS_SAMPLE = 1024  # images that an unknown mean and std are computed from
# Pixels of a test batch, unless a training batch has more
_TEST_PIXELS = {"cuda": 2048 * 32**2, "other": 512 * 32**2}
_PLACES = {"device": "in memory on {}", "ram": "in host memory", "none": "read from files as needed"}


@dataclass(frozen=True)
class Data:
    """A data set ready for training.

    Parameters
    ----------
    train : TrainLoader
    test : TestLoader
    num_classes : int
    class_names : list of str
    image_size : int
        Height and width of the batches, pixels.
    mean, std : tuple of float
        Per-channel statistics the batches are normalised with, for pixel values in [0, 1].
    description : str
        One line for the log.
    """

    train: TrainLoader
    test: TestLoader
    num_classes: int
    class_names: list[str]
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    description: str


def build_data(
    name: str,
    data_dir: str | os.PathLike,
    image_size: int,
    batch_size: int,
    device: str | torch.device,
    *,
    augment: bool = True,
    randaug: bool = False,
    label_noise: float = 0.0,
    cache: str = "auto",
    workers: int = 8,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    progress: bool = True,
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
    augment : bool
        Random crop with black padding of ``image_size // 8`` and, where a mirrored image keeps its class,
        horizontal flip.
    randaug : bool
        RandAugment (2 operations of magnitude 9) as well. Needs `augment`.
    label_noise : float
        Share of the training labels flipped to another class, in [0, 1).
    cache : {'auto', 'device', 'ram', 'none'}
        Where decoded images are kept. 'none' decodes them anew each epoch; sets that come as one array
        (digits, cifar, fashion-mnist) are then kept in host memory.
    workers : int
        Processes that decode image files, at the start or during training (``cache='none'``); 0: none but
        this one. Never more than there are cores.
    seed : int
    rank, world_size : int
        This process among those that train together.
    dtype : torch.dtype
        Of the images, floating.
    memory_format : torch.memory_format
        Of the images.
    progress : bool
        Show progress bars, on terminals and on rank 0.

    Returns
    -------
    Data

    Raises
    ------
    DataError
        Anything a user can mend: a name, a value, a missing, damaged or tampered file. One line.
    """
    device = torch.device(device)
    _check(image_size, batch_size, label_noise, cache, workers, rank, world_size, dtype)
    if "\0" in str(data_dir):
        raise DataError(f"data directory {str(data_dir)!r} has a null character in it")
    key, entry, path = resolve(name)
    workers = usable_workers(workers)
    request = Request(key, Path(os.path.expanduser(data_dir)), path, progress and rank == 0)
    try:
        with _local_rank_zero_first():
            source = entry.load(request)
            size = image_size or entry.native_size or source.common_size or _IRREGULAR_SIZE
            # enlarging is left to the device, a batch at a time: the set stays as small as its files are
            stored = min(size, source.common_size or size)
            where = _choose(cache, device, source, stored, size, augment)
            arrays = None if where == "none" else _arrays(request, source, stored, workers)
        mean, std = _statistics(entry, source.train, arrays, stored, workers)
        stores = _stores(
            where, source, arrays, device, size, stored, augment, entry.flip, memory_format, workers
        )
    except OSError as error:  # a folder that cannot be read, a file gone since it was listed, …
        raise DataError(f"{name}: {one_line(error)}") from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise DataError(f"{name}: the decoded images do not fit into memory; use --cache none") from error

    transform = BatchTransform(size, mean, std, device, dtype, memory_format)
    train_labels, test_labels = (torch.from_numpy(s.labels) for s in (source.train, source.test))
    if label_noise:
        train_labels = plan.noisy_labels(train_labels, len(source.class_names), label_noise, seed)
    train = TrainLoader(
        stores[0],
        train_labels.to(device),
        transform,
        batch_size,
        augment=augment,
        flip=entry.flip,
        randaug=randaug,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    pixels = _TEST_PIXELS["cuda" if device.type == "cuda" else "other"]
    test_batch = max(-(-batch_size // world_size), pixels // size**2)
    test = TestLoader(
        stores[1], test_labels.to(device), transform, test_batch, rank=rank, world_size=world_size
    )
    megabytes = sum(store.num_bytes for store in stores) / 1e6
    description = (
        f"{name}: {len(train_labels):,} training and {len(test_labels):,} test images, {size} px, "
        f"{len(source.class_names)} classes, {_PLACES[where].format(device.type)}"
        + (f" ({megabytes:,.1f} MB)" if megabytes else "")
        + (f", {round(label_noise * len(train_labels)):,} training labels flipped" if label_noise else "")
    )
    names = list(source.class_names)
    return Data(train, test, len(names), names, size, mean, std, description)


def _check(image_size, batch_size, label_noise, cache, workers, rank, world_size, dtype) -> None:
    if image_size != 0 and not _SMALLEST <= image_size <= _LARGEST:
        raise DataError(
            f"image size {image_size} (--size) is not 0 (native) or {_SMALLEST} to {_LARGEST} pixels"
        )
    if batch_size < 1:
        raise DataError(f"batch size {batch_size} is not 1 or more")
    if not 0 <= label_noise < 1:  # also refuses nan
        raise DataError(f"label noise {label_noise} is not a share of at least 0 and below 1")
    if cache not in CACHES:
        raise DataError(f"cache {cache!r} is not one of {', '.join(CACHES)}")
    if workers < 0:
        raise DataError(f"workers {workers} is not 0 or more")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not below the world size {world_size}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype {dtype} is not a floating one")


@contextmanager
def _local_rank_zero_first() -> Iterator[None]:
    """Let one process of each machine fetch and decode before its neighbours, who then find the cache."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        yield
        return
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    if not first:
        torch.distributed.barrier()
    try:
        yield
    finally:
        if first:  # on errors too: the others will meet the same one and say so
            torch.distributed.barrier()


def _choose(cache: str, device, source: Source, stored: int, size: int, augment: bool) -> str:
    in_files = source.train.images is None
    channels = 3 if in_files else source.train.images.shape[1]
    side = stored + 2 * pad_of(size) if augment and stored == size else stored
    host = channels * stored**2 * (len(source.train) + len(source.test))
    on_device = channels * (side**2 * len(source.train) + stored**2 * len(source.test))
    return choose_cache(cache, device, on_device, host, in_files)


def _arrays(request: Request, source: Source, size: int, workers: int) -> list[np.ndarray]:
    """Decoded train and test images, from the cache on disk if it is of these very files."""
    splits = (source.train, source.test)
    if source.train.images is not None:
        return [_resized(split.images, size) for split in splits]
    paths = [split.paths for split in splits]
    digest = diskcache.fingerprint(source.root, paths, size)
    file = request.data_dir / "cache" / f"{_file_stem(request, source)}-{size}.npz"
    arrays = diskcache.read(file, digest, [(len(p), 3, size, size) for p in paths])
    if arrays is None:
        labels = ("decoding training images", "decoding test images")
        arrays = [
            decode_all(p, size, workers, request.progress, what)
            for p, what in zip(paths, labels, strict=True)
        ]
        diskcache.write(file, digest, arrays)
    return arrays


def _file_stem(request: Request, source: Source) -> str:
    root = str(Path(source.root).resolve())
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", Path(root).name)[:40]
    return f"{request.name}-{readable}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:8]}"


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    """Shrink square images; thousands at a time, since the resize makes a float copy on some devices."""
    if images.shape[-1] == size:
        return images
    out = np.empty((*images.shape[:2], size, size), dtype=np.uint8)
    for first in range(0, len(images), 4096):
        chunk = torch.from_numpy(images[first : first + 4096])
        out[first : first + 4096] = F.resize(chunk, [size, size], antialias=True).numpy()
    return out


def _statistics(entry: Dataset, train: Split, arrays, size: int, workers: int):
    """Mean and std of the registry, or of a sample that is the same wherever the images are kept."""
    if entry.mean is not None:
        return entry.mean, entry.std
    sample = evenly_spaced(len(train), _STATISTICS_SAMPLE)
    if arrays is not None:
        images = arrays[0][sample]
    else:
        images = decode_all([train.paths[i] for i in sample], size, workers, False, "")
    values = images.astype(np.float64) / 255
    mean, std = values.mean(axis=(0, 2, 3)), values.std(axis=(0, 2, 3))
    std = np.maximum(std, 1 / 255)  # images of one colour
    return tuple(tuple(float(x) for x in np.broadcast_to(v, 3)) for v in (mean, std))


def _stores(where, source: Source, arrays, device, size, stored, augment, flip, memory_format, workers):
    if where == "none":
        return [Stream(s.paths, stored, device, workers) for s in (source.train, source.test)]
    if where == "ram":
        return [HostStore(images, device) for images in arrays]
    last = memory_format == torch.channels_last
    train = DeviceStore(arrays[0], device, size, augment, last, mirror=flip)
    return [train, DeviceStore(arrays[1], device, size, False, last)]
