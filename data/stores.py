"""Where decoded images live: on the training device, in host memory, or nowhere (`stream.Stream`).

A store yields uint8 batches on the device. For training they are already resized and cropped, or whole
where there are no draws.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from common import local_world_size

from .augment import BatchTransform, crop, pad_of

_CHUNK_BYTES = 64 << 20
DEVICE_SHARE = 0.4  # of the free device memory: the rest is for the net and its activations
HOST_SHARE = 0.5  # of the available host memory
_UNKNOWN = 4 << 30  # assumed where the system does not say


class DeviceStore:
    """All images as one uint8 tensor on the device, padded in advance for the crops.

    Parameters
    ----------
    images : ndarray of uint8, shape (N, C, H, W)
    device : torch.device
    size : int
        Image size that batches will have. Padding in advance needs the stored size to be this one;
        smaller images are kept as they are and resized a batch at a time.
    crops : bool
        Whether random crops will be taken.
    """

    def __init__(self, images: np.ndarray, device: torch.device, size: int, crops: bool):
        n, c, h, w = images.shape
        self._size = size
        self._padded = crops and h == size
        pad = pad_of(size) if self._padded else 0
        self._images = torch.zeros((n, c, h + 2 * pad, w + 2 * pad), dtype=torch.uint8, device=device)
        inner = self._images[:, :, pad : pad + h, pad : pad + w]
        step = max(1, _CHUNK_BYTES // (c * h * w))
        for first in range(0, n, step):
            inner[first : first + step] = torch.from_numpy(images[first : first + step]).to(device)

    @property
    def num_bytes(self) -> int:
        """Memory taken on the device."""
        return self._images.nbytes

    def train_batches(self, order, order_here, draws, parts, transform: BatchTransform) -> Iterator:
        """See `loaders.TrainLoader`."""
        if draws is not None and self._padded:
            for a, b in parts:
                yield crop(self._images, self._size, order_here[a:b], draws.top[a:b], draws.left[a:b])
            return
        for a, b in parts:
            batch = self._images.index_select(0, order_here[a:b])
            yield transform.resize(batch) if draws is None else transform.augment(batch, draws[a:b])

    def test_batches(self, parts) -> Iterator[torch.Tensor]:
        """See `loaders.TestLoader`."""
        for a, b in parts:
            yield self._images[a:b]


class Uploader:
    """Copies host batches to the device, on CUDA beside the running computation.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """`batch` on the device; pinned memory is read while the device computes."""
        if self._stream is None:
            return batch.to(self._device)
        # on a stream of its own the copy does not queue behind the steps already launched
        with torch.cuda.stream(self._stream):
            copy = batch.to(self._device, non_blocking=True)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        copy.record_stream(current)
        return copy


class HostStore:
    """All images in host memory; batches are gathered there and copied while the device computes.

    Parameters
    ----------
    images : ndarray of uint8, shape (N, C, H, W)
    device : torch.device
    """

    def __init__(self, images: np.ndarray, device: torch.device):
        self._images, self._upload = torch.from_numpy(images), Uploader(device)
        self._pin = device.type == "cuda"

    @property
    def num_bytes(self) -> int:
        """Host memory taken."""
        return self._images.nbytes

    def _gather(self, index: torch.Tensor) -> torch.Tensor:
        shape = (len(index), *self._images.shape[1:])
        out = torch.empty(shape, dtype=torch.uint8, pin_memory=self._pin)
        return self._upload(torch.index_select(self._images, 0, index, out=out))

    def train_batches(self, order, order_here, draws, parts, transform: BatchTransform) -> Iterator:
        """See `loaders.TrainLoader`."""
        for a, b in parts:
            batch = self._gather(order[a:b])
            yield transform.resize(batch) if draws is None else transform.augment(batch, draws[a:b])

    def test_batches(self, parts) -> Iterator[torch.Tensor]:
        """See `loaders.TestLoader`."""
        for a, b in parts:
            yield self._gather(torch.arange(a, b))


def available_host_memory() -> int:
    """Bytes of host memory that one process of this machine may count on.

    Linux's MemAvailable (it counts the page cache as free), the container's limit where it is lower,
    half the physical memory on systems that tell no more; shared by the local ranks of torchrun.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        try:
            found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        except (AttributeError, OSError, ValueError):
            found = _UNKNOWN
    try:
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no cgroup, or "max"
        pass
    return found // local_world_size()


def available_device_memory(device: torch.device) -> int:
    """Bytes free on the device; devices other than CUDA share the host's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_host_memory()


def choose_cache(cache: str, device: torch.device, device_bytes: int, host_bytes: int, in_files: bool) -> str:
    """Where the decoded images are kept.

    Parameters
    ----------
    cache : {'auto', 'device', 'ram', 'none'}
        What the user asked for.
    device : torch.device
    device_bytes : int
        Size on the device (padded for the crops).
    host_bytes : int
        Size in host memory.
    in_files : bool
        Whether the images are files still to be decoded; sets that come as one array are in host memory
        anyway and cannot stream, so 'none' means 'ram' for them.

    Returns
    -------
    {'device', 'ram', 'none'}
    """
    if cache == "none":
        return "none" if in_files else "ram"
    if cache != "auto":
        return cache
    # files are decoded into host memory first, wherever they go then
    fits_host = not in_files or host_bytes <= HOST_SHARE * available_host_memory()
    share = DEVICE_SHARE if device.type == "cuda" else HOST_SHARE
    if device.type == "cuda":
        needed = device_bytes
    else:  # one memory: the decoded array and the padded copy of it lie there together for a moment
        needed = device_bytes + (host_bytes if in_files else 0)
    if fits_host and needed <= share * available_device_memory(device):
        return "device"
    return "ram" if fits_host else "none"
