"""RandAugment (Cubuk et al. 2020, arXiv 1909.13719) for whole batches, its operations drawn per sample.

torchvision's RandAugment applies one draw to everything it is given. Here the samples of a batch are
sorted by the operation drawn for them and torchvision's function is called once for each group.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torchvision.transforms.v2 import functional as F

NUM_OPS = 2  # operations a sample, one after the other
MAGNITUDE = 9  # of the bins 0 … 30
_STRENGTH = MAGNITUDE / 30


def _affine(x: torch.Tensor, translate=(0, 0), shear=(0.0, 0.0), center=None) -> torch.Tensor:
    return F.affine(x, angle=0.0, translate=list(translate), scale=1.0, shear=list(shear), center=center)


def _shear_angle(sign: int) -> float:
    # the paper's magnitude is the matrix entry, torchvision's is the angle
    return math.degrees(math.atan(sign * 0.3 * _STRENGTH))


def _shift(sign: int, extent: int) -> int:
    return int(sign * 150 / 331 * extent * _STRENGTH)


def _factor(sign: int) -> float:
    return 1.0 + sign * 0.9 * _STRENGTH


# Name → (uint8 images (B, 3, H, W), sign ±1) → images. Unsigned operations ignore the sign. Order is part
# of what a seed means: append, never reorder.
OPERATIONS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "Identity": lambda x, s: x,
    "ShearX": lambda x, s: _affine(x, shear=(_shear_angle(s), 0.0), center=[0, 0]),
    "ShearY": lambda x, s: _affine(x, shear=(0.0, _shear_angle(s)), center=[0, 0]),
    "TranslateX": lambda x, s: _affine(x, translate=(_shift(s, x.shape[-1]), 0)),
    "TranslateY": lambda x, s: _affine(x, translate=(0, _shift(s, x.shape[-2]))),
    "Rotate": lambda x, s: F.rotate(x, angle=s * 30.0 * _STRENGTH),
    "Brightness": lambda x, s: F.adjust_brightness(x, _factor(s)),
    "Color": lambda x, s: F.adjust_saturation(x, _factor(s)),
    "Contrast": lambda x, s: F.adjust_contrast(x, _factor(s)),
    "Sharpness": lambda x, s: F.adjust_sharpness(x, _factor(s)),
    "Posterize": lambda x, s: F.posterize(x, bits=8 - round(4 * _STRENGTH)),
    "Solarize": lambda x, s: F.solarize(x, threshold=255 * (1 - _STRENGTH)),
    "AutoContrast": lambda x, s: F.autocontrast(x),
    "Equalize": lambda x, s: F.equalize(x),
}


def randaugment(images: torch.Tensor, ops: torch.Tensor) -> torch.Tensor:
    """Apply to each image the operations drawn for it.

    Parameters
    ----------
    images : Tensor of uint8, shape (B, 3, H, W)
        On any device.
    ops : Tensor of int64, shape (NUM_OPS, B)
        On the CPU, as drawn by `plan.draw`: the sizes of the groups must be known here, and reading
        them from a GPU would make the host wait for it.

    Returns
    -------
    Tensor of uint8, shape (B, 3, H, W)
    """
    functions = list(OPERATIONS.values())
    for drawn in ops:
        order = torch.argsort(drawn, stable=True)
        sizes = torch.bincount(drawn, minlength=2 * len(functions)).tolist()
        groups = images[order.to(images.device, non_blocking=True)].split(sizes)
        done = [
            functions[code // 2](group, -1 if code % 2 else 1)
            for code, group in enumerate(groups)
            if len(group)
        ]
        back = torch.argsort(order)
        images = torch.cat(done)[back.to(images.device, non_blocking=True)]
    return images
