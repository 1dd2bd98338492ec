"""Mixup and CutMix of whole batches on the device, as pure functions of (seed, step).

torchvision's transforms pair each image with its neighbour across the batch and draw from the global
generator; here images mix within fixed pairs (0 with 1, 2 with 3, …) of the shuffled batch, so that processes
and parts that share a batch give what one process gives, and a resumed run needs no saved state.
"""

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Mixing:
    """Mix the images and labels of a batch.

    Parameters
    ----------
    mixup : float
        λ ~ Beta(mixup, mixup), images λ x + (1 − λ) x'; 0: never (Zhang et al. 2018, arXiv 1710.09412).
    cutmix : float
        A box of the share 1 − λ of the image comes from x', λ ~ Beta(cutmix, cutmix); 0: never (Yun et al.
        2019, arXiv 1905.04899). With both, each batch draws one of the two.
    num_classes : int
    seed : int
    """

    mixup: float
    cutmix: float
    num_classes: int
    seed: int

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) and class probabilities (B, K) of the mixed batch; `labels` (B,)."""
        g = random.Random(f"mixing {self.seed} {step}")
        cut = self.cutmix > 0 and (self.mixup == 0 or g.random() < 0.5)
        alpha = self.cutmix if cut else self.mixup
        share = g.betavariate(alpha, alpha)
        partner = torch.arange(len(labels), device=labels.device) ^ 1
        if len(labels) % 2:
            partner = partner.clamp_(max=len(labels) - 1)  # the odd one stays as it is
        others = images[partner]
        if cut:
            h, w = images.shape[-2:]
            side = math.sqrt(1 - share)
            y, x = g.randrange(h), g.randrange(w)
            top, bottom = max(0, y - round(side * h / 2)), min(h, y + round(side * h / 2))
            left, right = max(0, x - round(side * w / 2)), min(w, x + round(side * w / 2))
            images = images.clone()
            images[..., top:bottom, left:right] = others[..., top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / (h * w)
        else:
            images = torch.lerp(others, images, share)
        targets = F.one_hot(labels, self.num_classes).to(images.dtype)
        return images, torch.lerp(targets[partner], targets, share)
