"""Where decoded images live: on the training device, in host memory, or nowhere (`stream.Stream`).

A store yields uint8 batches on the device. For training they are already resized and cropped, or whole
where there are no draws.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from .augment import BatchTransform, crop, pad_of

_CHUNK_BYTES = 64 << 20


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
            device = self._images.device
            top, left = (t.to(device, non_blocking=True) for t in (draws.top, draws.left))
            for a, b in parts:
                yield crop(self._images, self._size, order_here[a:b], top[a:b], left[a:b])
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
