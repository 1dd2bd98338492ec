"""Whether a net is as sure as it is right."""

import torch
from torch import Tensor

from .distributed import World

BINS = 15


class Calibration:
    """The expected calibration error of top-1 predictions, over 15 bins of equal width.

    Σ_b |Σ_{i in b} (correct_i − confidence_i)| / N, where the confidence is the largest softmax probability:
    Naeini et al. 2015, Guo et al. 2017. Sums stay on the device, as those of :class:`~engine.meter.Meter`.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        wide = torch.float32 if world.device.type == "mps" else torch.float64
        self.gaps = torch.zeros(BINS, dtype=wide, device=world.device)
        self.samples = 0

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: `logits` (B, C) and `labels` (B,)."""
        confidence, predicted = logits.float().softmax(1).max(1)
        # (lower, upper], as in the papers; one-hot rather than index_add_, whose order CUDA leaves open
        which = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
        member = torch.nn.functional.one_hot(which, BINS).to(self.gaps)
        self.gaps += ((predicted == labels).to(self.gaps) - confidence.to(self.gaps)) @ member
        self.samples += len(labels)

    def read(self) -> float:
        """The error in percent, over all processes; waits for the device."""
        samples = sum(self.world.gather(self.samples))
        return 100 * self.world.sum(self.gaps).abs().sum().item() / max(samples, 1)
