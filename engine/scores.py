"""What a test says of a net: accuracy, proper scores, and whether the net is as sure as it is right."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .distributed import World

BINS = 15


class Scores:
    """Sums of a test, kept on the device.

    Calibration error is Σ_b |Σ_{i in b} (correct_i − confidence_i)| / N over 15 bins of equal width, where
    the confidence is the largest probability: Naeini et al. 2015, Guo et al. 2017. Negative log likelihood
    and calibration error are taken twice: of softmax(z), and *corrected*, of softmax(c z), which undoes the
    bias of a loss whose minimiser is not the true probability (docs/losses.md §7).

    Parameters
    ----------
    world : World
    num_classes : int
    logit_scale : float
        The factor c.
    class_counts : sequence of int, optional
        Training images of each class: where they differ, ``rare_acc`` is the mean accuracy of the rarest third.
    keep : bool
        Keep logits and labels too, for a report.
    weight : Tensor, shape (C,), optional
        The loss's class weights, whose sum its mean over a batch divides by: the loss is then
        Σ w_y loss / Σ w_y over all images, however they are cut into batches.
    """

    def __init__(
        self,
        world: World,
        num_classes: int,
        logit_scale: float = 1.0,
        class_counts: Sequence[int] = (),
        keep: bool = False,
        weight: Tensor | None = None,
    ) -> None:
        self.world, self.logit_scale = world, logit_scale
        rarest = sorted(range(len(class_counts)), key=lambda c: class_counts[c])[: max(1, num_classes // 3)]
        self.rare = rarest if len(set(class_counts)) > 1 else []
        self.weight = weight
        self.kept: list[tuple[Tensor, Tensor]] | None = [] if keep else None
        wide = torch.float32 if world.device.type == "mps" else torch.float64
        # loss, nll, nll corrected, samples, their weight | gaps of both | correct of each class | images of each class
        self._sizes = (5, BINS, BINS, num_classes, num_classes)
        self.sums = torch.zeros(sum(self._sizes), dtype=wide, device=world.device)

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean `loss`, `logits` (B, C) and `labels` (B,)."""
        logits = logits.float()
        raw = F.log_softmax(logits, 1)
        corrected = raw if self.logit_scale in (None, 1) else F.log_softmax(self.logit_scale * logits, 1)
        predicted = logits.argmax(1)
        right = (predicted == labels).to(self.sums)
        of_class = F.one_hot(labels, self._sizes[3]).to(self.sums)
        n = self.sums.new_full((), len(labels))
        size = n if self.weight is None else self.weight.to(self.sums)[labels].sum()
        first = [loss.to(self.sums) * size, F.nll_loss(raw, labels, reduction="sum").to(self.sums)]
        first += [F.nll_loss(corrected, labels, reduction="sum").to(self.sums), n, size]
        gaps = [_gaps(log_p.amax(1).exp(), right) for log_p in (raw, corrected)]
        self.sums += torch.cat([torch.stack(first), *gaps, right @ of_class, of_class.sum(0)])
        if self.kept is not None:
            self.kept.append((logits, labels))

    def read(self) -> dict[str, float]:
        """Scores over all processes; waits for the device. Accuracies and calibration errors in percent."""
        first, gaps, gaps_corrected, right, images = self.world.sum(self.sums).cpu().split(self._sizes)
        loss, nll, nll_corrected, n, weight = first.tolist()
        n = max(n, 1)
        scores = {
            "loss": loss / (weight or 1),
            "acc": 100 * float(right.sum()) / n,
            "ece": 100 * float(gaps.abs().sum()) / n,
            "nll": nll / n,
            "nll_corrected": nll_corrected / n,
            "ece_corrected": 100 * float(gaps_corrected.abs().sum()) / n,
        }
        seen = [c for c in self.rare if images[c] > 0]
        if seen:
            scores["rare_acc"] = 100 * float((right[seen] / images[seen]).mean())
        return scores

    def outputs(self) -> tuple[Tensor, Tensor]:
        """The kept logits (N, C) and labels (N,) of all processes, in the data set's order, on the CPU."""
        mine = [torch.cat(parts).cpu() for parts in zip(*self.kept, strict=True)] if self.kept else None
        both = [part for part in self.world.gather(mine) if part is not None]
        return torch.cat([logits for logits, _ in both]), torch.cat([labels for _, labels in both])


def _gaps(confidence: Tensor, right: Tensor) -> Tensor:
    # (lower, upper], as in the papers; one-hot rather than index_add_, whose order CUDA leaves open
    which = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    return (right - confidence.to(right)) @ F.one_hot(which, BINS).to(right)
