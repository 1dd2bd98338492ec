"""uint8 in, batch out: crop, flip, RandAugment and normalise, a whole batch at a time, on the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from .plan import OPERATIONS, Draws

_STRENGTH = 9 / 30  # RandAugment's magnitude 9 of the bins 0 … 30
_BITS = 8 - round(4 * _STRENGTH)  # that Posterize keeps
_SOLARIZE = 255 * (1 - _STRENGTH)  # levels from here on are inverted


def pad_of(image_size: int) -> int:
    """Black pixels added on each side before the random crop: 4 at 32 px, as is usual for CIFAR."""
    return image_size // 8


def crop(padded: Tensor, size: int, index: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Gather the crop at (top, left) of each indexed image.

    From a crop's first byte to its last is one run of memory, and copying runs is the fastest way to gather. The
    columns between a crop's rows come along, and the strides of the result skip them.

    Parameters
    ----------
    padded : Tensor, shape (N, C, H, W)
        Contiguous.
    size : int
        Side of the crops.
    index, top, left : Tensor of int64, shape (B,)
        On the device of `padded`.

    Returns
    -------
    Tensor, shape (B, C, size, size)
    """
    c = padded.shape[1]
    sn, sc, sh, sw = padded.stride()
    run = (c - 1) * sc + (size - 1) * (sh + sw) + 1
    view = padded.as_strided((padded.numel() - run + 1, run), (1, 1))
    runs = view.index_select(0, index * sn + top * sh + left * sw)
    return runs.as_strided((len(index), c, size, size), (run, sc, sh, sw))


class BatchTransform:
    """Flip, RandAugment and normalise uint8 images, on the device; `mean` and `std` are of values in [0, 1]."""

    def __init__(self, mean, std, device: torch.device, channels_last: bool = False):
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.device = device
        mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (mean, std))
        # (x / 255 - mean) / std = x * scale + bias
        self._scale = (1 / (255 * std)).float().to(device)
        self._bias = (-mean / std).float().to(device)

    def __call__(self, images: Tensor, draws: Draws | None = None) -> Tensor:
        """The batch of the net, float, shape (B, 3, H, W).

        `images` (B, C, H, W) have one channel or three; without the `draws` of the same B samples they are only
        normalised.
        """
        if draws is not None and draws.flip is not None:
            # both ways, then whole images picked: no device has to wait for a list of those to flip
            both = torch.cat([images, images.flip(-1)])
            which = torch.arange(len(images), device=self.device) + len(images) * draws.flip
            images = both.index_select(0, which)
        if draws is not None and draws.ops is not None:
            images = randaugment(images.expand(-1, 3, -1, -1), draws.ops)
        shape = (len(images), 3, *images.shape[2:])
        out = torch.empty(shape, device=self.device, memory_format=self._layout)
        if self.device.type == "cuda":
            # one kernel: it converts, multiplies and adds in registers
            return torch.addcmul(self._bias, images, self._scale, out=out)
        # elsewhere mixed types would be converted to temporary tensors; in place is three lean passes
        return out.copy_(images).mul_(self._scale).add_(self._bias)


def randaugment(images: Tensor, ops: Tensor) -> Tensor:
    """RandAugment (Cubuk et al. 2020, arXiv 1909.13719): apply to each image the operations drawn for it.

    Parameters
    ----------
    images : Tensor of uint8, shape (B, 3, H, W)
        On any device.
    ops : Tensor of int64, shape (turns, B)
        On the CPU, as drawn by `plan.draw`: ``2 * operation + (1 if its magnitude is negative)``.

    Returns
    -------
    Tensor of uint8, shape (B, 3, H, W)
    """
    images = images.clone()
    for drawn in ops:
        for code in drawn.unique().tolist():
            operation, sign = OPERATIONS[code // 2], -1 if code % 2 else 1
            if operation != "Identity":
                where = (drawn == code).nonzero().flatten().to(images.device, non_blocking=True)
                images.index_copy_(0, where, _APPLY[operation](images.index_select(0, where), sign))
    return images


def _move(images: Tensor, **how) -> Tensor:
    """Each pixel from where torchvision's affine transformation by `how` finds it; black from outside."""
    height, width = images.shape[-2:]
    source = _sources(
        height, width, images.device, **{"translate": (0, 0), "angle": 0.0, "shear": (0.0, 0.0)} | how
    )
    with_black = torch.nn.functional.pad(images.flatten(2), (1, 0))
    return with_black.index_select(2, source).view(images.shape)


@lru_cache(maxsize=64)
def _sources(height: int, width: int, device: torch.device, translate, angle: float, shear) -> Tensor:
    """For each pixel 1 + the place it comes from, 0 from outside, shape (height · width,).

    Made once, on the CPU, since torchvision makes the host wait for a GPU.
    """
    numbered = torch.arange(1.0, height * width + 1).view(1, height, width)
    centre = [0.0, 0.0] if any(shear) else None
    moved = F.affine(
        numbered, angle=angle, translate=list(translate), scale=1.0, shear=list(shear), center=centre
    )
    return moved.flatten().long().to(device, non_blocking=True)


def _sharpen(images: Tensor, factor: float) -> Tensor:
    """``F.adjust_sharpness``, bit for bit; that copies the blur's kernel to a GPU, and the host waits."""
    if min(images.shape[-2:]) <= 2:
        return images
    kernel = torch.full((3, 1, 3, 3), 1 / 13, device=images.device)
    kernel[..., 1, 1].fill_(5 / 13)
    out = images.float()
    inner = out[..., 1:-1, 1:-1]
    blurred = torch.nn.functional.conv2d(out, kernel, groups=3).round_()
    inner.add_(blurred.sub_(inner), alpha=1 - factor)
    return out.clamp_(0, 255).to(torch.uint8)


# The paper's magnitude of a shear is the matrix entry, torchvision's is the angle.
_SHEAR = math.degrees(math.atan(0.3 * _STRENGTH))
_SHIFT = 150 / 331 * _STRENGTH  # of the side
_FACTOR = 0.9 * _STRENGTH
_APPLY: dict[str, Callable[[Tensor, int], Tensor]] = {
    "ShearX": lambda x, sign: _move(x, shear=(sign * _SHEAR, 0.0)),
    "ShearY": lambda x, sign: _move(x, shear=(0.0, sign * _SHEAR)),
    "TranslateX": lambda x, sign: _move(x, translate=(sign * int(_SHIFT * x.shape[-1]), 0)),
    "TranslateY": lambda x, sign: _move(x, translate=(0, sign * int(_SHIFT * x.shape[-2]))),
    "Rotate": lambda x, sign: _move(x, angle=-sign * 30.0 * _STRENGTH),
    "Brightness": lambda x, sign: F.adjust_brightness(x, 1 + sign * _FACTOR),
    "Color": lambda x, sign: F.adjust_saturation(x, 1 + sign * _FACTOR),
    "Contrast": lambda x, sign: F.adjust_contrast(x, 1 + sign * _FACTOR),
    "Sharpness": lambda x, sign: _sharpen(x, 1 + sign * _FACTOR),
    "Posterize": lambda x, _: F.posterize(x, _BITS),
    "Solarize": lambda x, _: F.solarize(x, _SOLARIZE),
    "AutoContrast": lambda x, _: F.autocontrast(x),
    "Equalize": lambda x, _: F.equalize(x),
}
