"""uint8 in, training batch out: resize, crop, flip, RandAugment and normalise, a whole batch at a time."""

from __future__ import annotations

import torch
from torchvision.transforms.v2 import functional as F

from .plan import Draws
from .randaug import randaugment


def pad_of(image_size: int) -> int:
    """Black pixels added on each side before the random crop: 4 at 32 px, as is usual for CIFAR."""
    return image_size // 8


def crop(padded: torch.Tensor, size: int, index: torch.Tensor, top, left) -> torch.Tensor:
    """Gather the crop at (top, left) of each indexed image.

    Parameters
    ----------
    padded : Tensor, shape (N, C, H, W)
        Contiguous or channels last.
    size : int
        Side of the crops.
    index, top, left : Tensor of int64, shape (B,)
        On the device of `padded`.

    Returns
    -------
    Tensor, shape (B, C, size, size)
        Channels innermost if they are so in `padded`; dense except on the CPU.
    """
    if padded.device.type == "cpu":
        return _crop_by_run(padded, size, index, top, left)
    if padded.device.type == "cuda":
        return _crop_by_view(padded, size, index, top, left)
    return _crop_by_pixel(padded, size, index, top, left)


def _crop_by_run(padded, size, index, top, left):
    # From a crop's first byte to its last is one run of memory, copied at once; the columns between its rows
    # come along and are skipped by the strides of the result. Every run is a row of one overlapping view.
    c = padded.shape[1]
    sn, sc, sh, sw = padded.stride()
    run = (c - 1) * sc + (size - 1) * (sh + sw) + 1
    view = padded.as_strided((padded.numel() - run + 1, run), (1, 1))
    runs = view.index_select(0, index * sn + top * sh + left * sw)
    return runs.as_strided((len(index), c, size, size), (run, sc, sh, sw))


def _crop_by_view(padded, size, index, top, left):
    # all crops of all images as one view; indexing it gathers a batch in one kernel
    n, c, h, w = padded.shape
    sn, sc, sh, sw = padded.stride()
    view = padded.as_strided((n, h - size + 1, w - size + 1, c, size, size), (sn, sh, sw, sc, sh, sw))
    if padded.is_contiguous():
        return view[index, top, left]
    # channels innermost: written as they are read
    return view.permute(0, 1, 2, 4, 5, 3)[index, top, left].permute(0, 3, 1, 2)


def _crop_by_pixel(padded, size, index, top, left):
    # for devices (mps) that would copy out the whole strided view, every crop of every image
    run = torch.arange(size, device=padded.device)
    channels = torch.arange(padded.shape[1], device=padded.device)[None, :, None, None]
    rows, columns = (top[:, None] + run)[:, None, :, None], (left[:, None] + run)[:, None, None, :]
    return padded[index[:, None, None, None], channels, rows, columns]


class BatchTransform:
    """Turn uint8 images on the device into what the net wants.

    Parameters
    ----------
    size : int
        Height and width of the result; smaller or larger images are resized (bilinear, antialiased).
    mean, std : tuple of float
        Per channel, for pixel values in [0, 1].
    device : torch.device
    dtype : torch.dtype
        Floating; arithmetic is in float32, only the result is rounded.
    memory_format : torch.memory_format
    """

    def __init__(self, size, mean, std, device, dtype, memory_format):
        self.size, self.device, self.dtype, self.memory_format = size, device, dtype, memory_format
        mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (mean, std))
        # (x / 255 - mean) / std = x * scale + bias
        self.scale = (1 / (255 * std)).float().to(device)
        self.bias = (-mean / std).float().to(device)

    def augment(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Resize, pad and crop whole images as drawn.

        Parameters
        ----------
        images : Tensor of uint8, shape (B, C, H, W)
        draws : Draws
            Of the same B samples, on the CPU.

        Returns
        -------
        Tensor of uint8, shape (B, C, size, size)
        """
        pad = pad_of(self.size)
        padded = torch.nn.functional.pad(self.resize(images), (pad,) * 4)
        everyone = torch.arange(len(images), device=self.device)
        top, left = (t.to(self.device, non_blocking=True) for t in (draws.top, draws.left))
        return crop(padded, self.size, everyone, top, left)

    def resize(self, images: torch.Tensor) -> torch.Tensor:
        """Square uint8 images at the size wanted."""
        if images.shape[-1] == self.size:
            return images
        return F.resize(images, [self.size, self.size], antialias=True)

    def finish(self, images: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        """Flip, RandAugment and normalise.

        Parameters
        ----------
        images : Tensor of uint8, shape (B, C, size, size)
            C is 1 or 3; grey is spread over three channels.
        draws : Draws, optional
            None: only normalise.

        Returns
        -------
        Tensor, shape (B, 3, size, size)
        """
        if draws is not None and draws.flip is not None:
            images = self._flip(images, draws.flip)
        if draws is not None and draws.ops is not None:
            images = randaugment(images.expand(-1, 3, -1, -1), draws.ops)
        shape = (len(images), 3, self.size, self.size)
        if self.device.type == "cuda":
            # one kernel: it converts, multiplies, adds and rounds in registers
            out = torch.empty(shape, dtype=self.dtype, device=self.device, memory_format=self.memory_format)
            return torch.addcmul(self.bias, images, self.scale, out=out)
        # elsewhere mixed types would be converted to temporary tensors; in place is three lean passes
        if self.memory_format == torch.channels_last:
            # rows of pixels, with the channels' factors repeated along them: three at a time would be slow
            rows = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).flatten(2)
            scale, bias = (t.flatten().repeat(self.size) for t in (self.scale, self.bias))
            out = torch.empty(rows.shape, device=self.device).copy_(rows).mul_(scale).add_(bias)
            return out.view(len(images), self.size, self.size, 3).permute(0, 3, 1, 2).to(self.dtype)
        out = torch.empty(shape, device=self.device).copy_(images).mul_(self.scale).add_(self.bias)
        return out.to(self.dtype, memory_format=self.memory_format)

    def _flip(self, images: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
        if self.device.type == "cpu":
            # both ways, then whole images picked: faster than choosing pixel by pixel
            width, inner = (2, (0, 2, 3, 1)) if images.stride(1) == 1 else (3, (0, 1, 2, 3))
            images = images.permute(inner)  # in the order of memory, which index_select keeps
            both = torch.cat([images, images.flip(width)])
            picked = both.index_select(0, torch.arange(len(images)) + len(images) * flip)
            return picked if width == 3 else picked.permute(0, 3, 1, 2)
        # no list of the images to flip, whose length the host would have to wait for
        flip = flip.to(self.device, non_blocking=True)
        return torch.where(flip[:, None, None, None], images.flip(-1), images)
