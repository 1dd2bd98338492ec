"""What the logits of a test say of a net: accuracy, proper scores, and whether the net is as sure as it is right."""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional as F

BINS = 15


def test_scores(
    logits: Tensor,
    labels: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    logit_scale: float | None = 1.0,
    class_counts: Sequence[int] = (),
) -> dict[str, float]:
    """The scores of a test, accuracies and calibration errors in percent.

    Negative log likelihood and calibration error are taken twice: of softmax(z), and *corrected*, of softmax(c z),
    which undoes the bias of a loss whose minimiser is not the true probability (docs/losses.md §7).

    Parameters
    ----------
    logits : Tensor of float32, shape (N, C)
    labels : Tensor of int64, shape (N,)
    loss : callable
        ``loss(logits, labels)`` is the mean over all images, class weights included.
    logit_scale : float, optional
        The factor c; None where the loss has no such correction.
    class_counts : sequence of int
        Training images of each class; given, ``rare_acc`` is the mean accuracy of the rarest third.
    """
    p = probabilities(logits)
    right = p.argmax(1) == labels.numpy()
    scores = {
        "loss": float(loss(logits, labels)),
        "acc": 100 * float(right.mean()),
        "ece": calibration_error(p, labels.numpy()),
        "nll": float(F.cross_entropy(logits.double(), labels)),
    }
    if logit_scale is not None:
        scores["nll_corrected"] = float(F.cross_entropy(logit_scale * logits.double(), labels))
        scores["ece_corrected"] = calibration_error(probabilities(logits, logit_scale), labels.numpy())
    if class_counts:
        rarest = np.argsort(class_counts, kind="stable")[: max(1, len(class_counts) // 3)]
        of_class = [right[labels.numpy() == c] for c in rarest]
        scores["rare_acc"] = 100 * float(np.mean([r.mean() for r in of_class if len(r)]))
    return scores


def probabilities(logits: Tensor, scale: float = 1.0) -> np.ndarray:
    """softmax(scale · logits) in float64, shape (N, C)."""
    return (scale * logits.double()).softmax(1).numpy()


def calibration_bins(p: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, mean confidence and accuracy of each of ``BINS`` bins of equal width; NaN where one is empty.

    The confidence is the largest probability, and a bin is (lower, upper]: Naeini et al. 2015, Guo et al. 2017.
    """
    confidence, right = p.max(1), p.argmax(1) == labels
    bin_of = np.clip(np.ceil(confidence * BINS).astype(int), 1, BINS) - 1
    count = np.bincount(bin_of, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return count, np.bincount(bin_of, confidence, BINS) / count, np.bincount(bin_of, right, BINS) / count


def calibration_error(p: np.ndarray, labels: np.ndarray) -> float:
    """Σ_b n_b |accuracy_b − confidence_b| / N, in percent."""
    count, confidence, accuracy = calibration_bins(p, labels)
    return 100 * float(np.nansum(count * abs(accuracy - confidence)) / len(labels))
