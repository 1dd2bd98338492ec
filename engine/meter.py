"""Loss and accuracy of an epoch, summed on the device: the host never waits for a step."""

import torch
from torch import Tensor

from .distributed import World

NEVER = 2**40


class Diverged(Exception):
    """The training has met a loss or a gradient, or holds a weight, that is not finite."""


class Meter:
    """Σ loss, correct answers and samples so far, and the first step that was not finite."""

    def __init__(self, world: World) -> None:
        self.world = world
        wide = torch.float32 if world.device.type == "mps" else torch.float64
        self.totals = torch.zeros(3, dtype=wide, device=world.device)
        self.bad_step = torch.full((), NEVER, dtype=torch.int64, device=world.device)
        self._arriving = None  # (host copy, event) of the last totals on their way from the GPU
        self._latest = (float("nan"), float("nan"), NEVER)

    def reset(self) -> None:
        """Begin the next epoch."""
        self.totals.zero_()

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor, step: int) -> None:
        """Add a batch: its mean `loss`, `logits` (B, C) and `labels` (B,)."""
        loss = loss.detach()
        correct = (logits.detach().argmax(1) == labels).sum()
        self.totals[0] += loss * len(labels)
        self.totals[1] += correct
        self.totals[2] += len(labels)
        self.watch(loss, step)

    def watch(self, number: Tensor, step: int) -> None:
        """Note the step if `number`, a loss or a gradient's norm, is not finite."""
        self.bad_step = torch.where(number.isfinite(), self.bad_step, self.bad_step.clamp(max=step))

    def read(self) -> tuple[float, float, int]:
        """Mean loss, accuracy in percent and samples, over all processes; waits for the device."""
        return _means(self.world.sum(self.totals))

    def check(self) -> None:
        """Raise :class:`Diverged` if any process met a loss or gradient that was not finite; waits too."""
        bad_step = min(self.world.gather(int(self.bad_step)))
        if bad_step < NEVER:
            raise Diverged(f"the loss or its gradient became infinite or NaN at step {bad_step}")

    def peek(self) -> tuple[float, float, int]:
        """The same for this process alone, as far as it has arrived: never waits for a GPU."""
        if self.totals.device.type != "cuda":
            return *_means(self.totals)[:2], int(self.bad_step)
        if self._arriving is None:
            both = torch.cat([self.totals, self.bad_step.to(self.totals).view(1)])
            host = torch.empty(4, dtype=both.dtype, pin_memory=True)
            host.copy_(both, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._arriving = host, event
        elif self._arriving[1].query():
            host = self._arriving[0]
            self._latest = *_means(host)[:2], int(host[3])
            self._arriving = None
        return self._latest


def _means(totals: Tensor) -> tuple[float, float, int]:
    loss, correct, samples = totals[:3].tolist()
    return loss / max(samples, 1), 100 * correct / max(samples, 1), int(samples)
