"""RandAugment (Cubuk et al. 2020, arXiv 1909.13719) for whole batches, its operations drawn per sample.

torchvision's RandAugment applies one draw to everything it is given, and its functions make the host wait for a
GPU. Here the samples of a batch are sorted by the operation drawn for them, and each kind of operation runs once
over its part. The host knows the sizes of the parts, so nothing waits; a GPU launches at most 60 kernels a batch.
Results are within one grey level of torchvision's.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as vision

NUM_OPS = 2  # operations a sample, one after the other
MAGNITUDE = 9  # of the bins 0 … 30
# Order is part of what a seed means: append, never reorder.
OPERATIONS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
    "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip
_STRENGTH = MAGNITUDE / 30
_LUMA = (0.2989, 0.587, 0.114)
_BITS = 8 - round(4 * _STRENGTH)  # that Posterize keeps
_SOLARIZE = 255 * (1 - _STRENGTH)  # levels from here on are inverted


def randaugment(images: Tensor, ops: Tensor) -> Tensor:
    """Apply to each image the operations drawn for it.

    Parameters
    ----------
    images : Tensor of uint8, shape (B, 3, H, W)
        On any device.
    ops : Tensor of int64, shape (NUM_OPS, B)
        On the CPU, as drawn by `plan.draw`: ``2 * operation + (1 if its magnitude is negative)``.

    Returns
    -------
    Tensor of uint8, shape (B, 3, H, W)
    """
    constants = _constants(images.device, *images.shape[-2:])
    order = torch.argsort(ops, stable=True)
    codes, back = ops.gather(1, order), torch.argsort(order, 1)
    # from the batch's order to the first operations', from each to the next, and from the last to the batch's
    steps = [order[0], *(b[o] for b, o in zip(back, order[1:], strict=False)), back[-1]]
    moves, codes_there, numbers = (
        (x.pin_memory() if images.is_cuda else x).to(images.device, non_blocking=True)
        for x in (torch.stack(steps), codes, _numbers()[codes])
    )
    x = images.index_select(0, moves[0]).float()
    for turn, drawn in enumerate(codes):
        if turn:
            x = x.floor_().index_select(0, moves[turn])
        sizes = torch.bincount(drawn // 2, minlength=len(OPERATIONS)).tolist()
        _apply(x, codes_there[turn], numbers[turn], sizes, constants)
    return x.to(torch.uint8).index_select(0, moves[-1])


def _apply(x: Tensor, codes: Tensor, numbers: Tensor, sizes: list[int], constants: _Constants) -> None:
    """One operation a sample, in place: `x` (B, 3, H, W) holds whole numbers, sorted by their `codes` (B,)."""
    kinds = [sizes[0], sum(sizes[1:6]), sum(sizes[6:9]), sizes[9], sum(sizes[10:])]
    weight = numbers[:, :1, None, None].split(kinds)
    _, moved, mixed, sharpened, looked_up = x.split(kinds)
    if len(moved):
        grids = constants.grids.index_select(0, codes.split(kinds)[1])
        moved.copy_(F.grid_sample(moved, grids, "nearest", align_corners=False))

    # Brightness, Color, Contrast: an image and its degenerate form, black, grey or the mean grey, mixed
    if len(mixed):
        channels = numbers[:, 1:, None, None].split(kinds)[2]
        degenerate = (mixed * channels).sum(1, keepdim=True)
        if sizes[8]:
            flat = degenerate[-sizes[8] :]
            flat.copy_(flat.mean((2, 3), keepdim=True))
        mixed.lerp_(degenerate, weight[2])
    if len(sharpened) and min(x.shape[-2:]) > 2:  # mixed with its blurred form, whose border is its own
        sharpened[..., 1:-1, 1:-1].lerp_(F.avg_pool2d(sharpened, 3, 1), weight[3])

    if len(looked_up):
        levels = looked_up.long()
        for table, some, at in zip(
            constants.tables, looked_up.split(sizes[10:]), levels.split(sizes[10:]), strict=False
        ):
            if len(some):
                torch.take(table, at, out=some)
        stretched = sum(sizes[12:])
        if stretched:
            last = [t[-stretched:] for t in (looked_up, levels, weight[4])]
            _stretch(last[0], last[1], last[2], sizes[13], constants.one)
    x[sizes[0] :].clamp_(0, 255)


def _stretch(x: Tensor, levels: Tensor, half: Tensor, equalized: int, one: Tensor) -> None:
    """Each channel's largest value to 255: of the image less its smallest (AutoContrast), or, in the last
    `equalized` images, of how many pixels are darker (Equalize, in the whole steps of PIL)."""
    some = x[: len(x) - equalized]
    if len(some):
        some.sub_(some.amin((2, 3), keepdim=True))
    if equalized:
        at = levels[-equalized:].flatten(2)
        darker = one.new_zeros(equalized, 3, 257)  # than each level; whole numbers add up in any order
        darker[..., 1:].scatter_add_(2, at, one.expand_as(at))
        x[-equalized:].flatten(2).copy_(darker.cumsum_(2).gather(2, at))
    top = x.amax((2, 3), keepdim=True)
    step = top / 255
    if equalized:
        torch.div(top[-equalized:], 255, rounding_mode="floor", out=step[-equalized:])
    # where nothing can be stretched, the image stays as it is
    torch.where(step == 0, levels, torch.addcdiv(half, x, step), out=x)


class _Constants(NamedTuple):
    """What operations need on the device, for images of one size."""

    grids: Tensor  # (2 · operations, H, W, 2): where the pixel of a moved image comes from
    tables: list[Tensor]  # (256,): Posterize, Solarize
    one: Tensor  # int32, to count with


@lru_cache(maxsize=8)
def _constants(device: torch.device, height: int, width: int) -> _Constants:
    # torchvision moves a picture of its own pixels' numbers; 0: from outside
    numbered = torch.arange(1.0, height * width + 1).view(1, height, width)
    pictures = torch.cat([_move(numbered, name, sign) for name in OPERATIONS for sign in (1, -1)]).long() - 1
    rows, columns = pictures.div(width, rounding_mode="floor"), pictures % width
    grids = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], -1)
    grids[pictures < 0] = 2.0  # beyond the image: black
    levels = torch.arange(256, dtype=torch.uint8)[None, None]
    tables = [
        t.flatten().float().to(device)
        for t in (vision.posterize(levels, _BITS), vision.solarize(levels, _SOLARIZE))
    ]
    return _Constants(grids.to(device), tables, torch.ones(1, dtype=torch.int32, device=device))


def _move(image: Tensor, name: str, sign: int) -> Tensor:
    """The geometric operations, by torchvision; all others change no place."""
    height, width = image.shape[-2:]
    strength = sign * _STRENGTH
    # the paper's magnitude of a shear is the matrix entry, torchvision's is the angle
    angle = math.degrees(math.atan(0.3 * strength))
    if name == "Rotate":
        return vision.rotate(image, angle=30.0 * strength)
    moves: dict[str, dict[str, list]] = {
        "ShearX": {"shear": [angle, 0.0], "center": [0, 0]},
        "ShearY": {"shear": [0.0, angle], "center": [0, 0]},
        "TranslateX": {"translate": [int(150 / 331 * width * strength), 0]},
        "TranslateY": {"translate": [0, int(150 / 331 * height * strength)]},
    }
    how = moves.get(name)
    if not how:
        return image
    return vision.affine(
        image, **{"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]} | how
    )


@lru_cache(maxsize=1)
def _numbers() -> Tensor:
    """For each code four numbers: a weight, and what each channel adds to the degenerate image.

    The weight is of the degenerate image where there is one; of Equalize it is what rounds.
    """
    table = torch.zeros(len(OPERATIONS), 2, 4)
    for name, row in zip(OPERATIONS, table, strict=True):
        if name in ("Brightness", "Color", "Contrast", "Sharpness"):
            row[:, 0] = torch.tensor([-0.9, 0.9]) * _STRENGTH
        if name == "Sharpness":  # PIL's blur weighs the centre by 5/13, and 8 neighbours by 1/13
            row[:, 0] *= 9 / 13  # of the mean of all 9 of them
        if name in ("Color", "Contrast"):
            row[:, 1:] = torch.tensor(_LUMA)
        if name == "Equalize":
            row[:, 0] = 0.5
    return table.view(-1, 4)
