"""uint8 in, batch out: crop, flip, RandAugment and normalise, a whole batch at a time, on the device."""

from __future__ import annotations

import torch

from .images import resize_squares
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
    size : int
        Side of the crops.
    index, top, left : Tensor of int64, shape (B,)
        On the device of `padded`.

    Returns
    -------
    Tensor, shape (B, C, size, size)
    """
    if padded.device.type == "cpu":
        return _crop_by_run(padded, size, index, top, left)
    if padded.device.type == "cuda":
        return _crop_by_view(padded, size, index, top, left)
    return _crop_by_pixel(padded, size, index, top, left)


def _crop_by_run(padded, size, index, top, left):
    # From a crop's first byte to its last is one run of memory: copying it is 13 times as fast as the view.
    # The columns between its rows come along and are skipped by the strides of the result.
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
    return view[index, top, left]


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
        Height and width of the result; other images are resized, antialiased.
    mean, std : tuple of float
        Per channel, for pixel values in [0, 1].
    device : torch.device
    interpolation : {'bilinear', 'bicubic'}
    crop_pct : float
        Share of the side that the centre crop after a resize keeps.
    channels_last : bool
        Memory layout of the batches.
    """

    def __init__(self, size, mean, std, device, interpolation="bilinear", crop_pct=1.0, channels_last=False):
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.size, self.device = size, device
        self._interpolation, self._crop_pct = interpolation, crop_pct
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
            Of the same B samples, on the device.

        Returns
        -------
        Tensor of uint8, shape (B, C, size, size)
        """
        pad = pad_of(self.size)
        padded = torch.nn.functional.pad(self.resize(images), (pad,) * 4)
        everyone = torch.arange(len(images), device=self.device)
        return crop(padded, self.size, everyone, draws.top, draws.left)

    def resize(self, images: torch.Tensor) -> torch.Tensor:
        """Square uint8 images at the size wanted."""
        if images.shape[-1] == self.size:
            return images
        return resize_squares(images, self.size, self._interpolation, self._crop_pct)

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
        out = torch.empty(shape, device=self.device, memory_format=self._layout)
        if self.device.type == "cuda":
            # one kernel: it converts, multiplies and adds in registers
            return torch.addcmul(self.bias, images, self.scale, out=out)
        # elsewhere mixed types would be converted to temporary tensors; in place is three lean passes
        return out.copy_(images).mul_(self.scale).add_(self.bias)

    def _flip(self, images: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
        if self.device.type == "cpu":
            # both ways, then whole images picked: faster than choosing pixel by pixel
            both = torch.cat([images, images.flip(-1)])
            return both.index_select(0, torch.arange(len(images)) + len(images) * flip)
        # no list of the images to flip, whose length the host would have to wait for
        return torch.where(flip[:, None, None, None], images.flip(-1), images)
