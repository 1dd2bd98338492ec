"""Loss and accuracy of an epoch, kept on the device: the host never waits for a step."""

import torch
from torch import Tensor

from .world import World

NEVER = 2**40
PEEK_EVERY = 20  # steps


class Diverged(Exception):
    """The training has met a loss or a gradient, or holds a weight, that is not finite."""


class Meter:
    """A row (mean loss, correct answers, gradient norm) for each forward pass of an epoch.

    A step writes its row with four small kernels; sums are made when somebody reads. As the rows themselves
    are saved with a run, a resumed epoch adds up the same numbers in the same order.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.reset()

    def reset(self) -> None:
        """Begin the next epoch."""
        self.rows = torch.zeros(256, 3, device=self.world.device)
        self.sizes: list[int] = []  # images of each row
        self.steps: list[int] = []
        self._arriving = None  # (host copy, event) of the last summary on its way from the GPU
        self._latest = (float("nan"), float("nan"), NEVER)

    def update(
        self, loss: Tensor, logits: Tensor, labels: Tensor, step: int, norm: Tensor | None = None
    ) -> None:
        """Add a forward pass: its mean `loss`, `logits` (B, C), `labels` (B,), and the gradient's `norm`."""
        used = len(self.sizes)
        if used == len(self.rows):
            self.rows = torch.cat([self.rows, torch.zeros_like(self.rows)])
        correct = (logits.detach().argmax(1) == labels).sum(dtype=torch.float32)
        loss = loss.detach().float()
        norm = torch.zeros_like(loss) if norm is None else norm.detach().float()
        torch.stack((loss, correct, norm), out=self.rows[used])
        self.sizes.append(len(labels))
        self.steps.append(step)

    def state(self) -> dict:
        """What :meth:`restore` takes, on the CPU."""
        return {"rows": self.rows[: len(self.sizes)].cpu(), "sizes": self.sizes, "steps": self.steps}

    def restore(self, states: list[dict]) -> None:
        """Continue the epoch whose rows are in `states`, those of this process or of several."""
        self.reset()
        rows = torch.cat([state["rows"] for state in states])
        if rows.dim() != 2 or rows.shape[1] != 3:
            raise ValueError("the epoch's rows are damaged")
        self.rows = torch.cat([rows.to(self.rows), self.rows])
        self.sizes = [int(n) for state in states for n in state["sizes"]]
        self.steps = [int(n) for state in states for n in state["steps"]]
        if not len(rows) == len(self.sizes) == len(self.steps):
            raise ValueError("the epoch's rows are damaged")

    def _summary(self) -> Tensor:
        """Σ loss, Σ correct, samples and the first step that was not finite, as one tensor on the device."""
        used, device = len(self.sizes), self.world.device
        wide = torch.float32 if device.type == "mps" else torch.float64
        host = torch.tensor([self.sizes, self.steps], dtype=wide).reshape(2, -1)
        if device.type == "cuda":
            host = host.pin_memory()
        sizes, steps = host.to(device, non_blocking=True)
        rows = self.rows[:used]
        finite = rows.isfinite().all(1)
        first = torch.cat([torch.where(finite, float(NEVER), steps), steps.new_full((1,), NEVER)]).min()
        rows = rows.to(wide)
        return torch.stack([(rows[:, 0] * sizes).sum(), rows[:, 1].sum(), sizes.sum(), first])

    def read(self) -> tuple[float, float, int]:
        """Mean loss, accuracy in percent and samples, over all processes; waits for the device."""
        return _means(self.world.sum(self._summary()[:3]))

    def check(self) -> None:
        """Raise :class:`Diverged` if any process met a loss or gradient that was not finite; waits too."""
        bad_step = min(self.world.gather(int(self._summary()[3])))
        if bad_step < NEVER:
            raise Diverged(f"the loss or its gradient became infinite or NaN at step {bad_step}")

    def peek(self) -> tuple[float, float, int]:
        """Mean loss, accuracy and first bad step of this process, as far as known: never waits for a GPU."""
        if self.rows.device.type != "cuda":
            summary = self._summary()
            self._latest = *_means(summary)[:2], int(summary[3])
        elif self._arriving is None:
            summary = self._summary()
            host = torch.empty(4, dtype=summary.dtype, pin_memory=True)
            host.copy_(summary, non_blocking=True)
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
