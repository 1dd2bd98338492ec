"""How well a net's outputs bear out the labels that were given: a low quality is a suspicious label."""

import torch
from torch import Tensor, nn

from .base import at_least_float32


def label_quality(logits: Tensor, labels: Tensor, loss: nn.Module | None = None) -> Tensor:
    """The probability that the net gives to each sample's label, corrected for the loss it was trained with.

    softmax(c z)_y, c = ``loss.logit_scale``: a net trained with root is too sure of itself, one trained with rlo
    not sure enough (docs/losses.md §7). Without a loss, or with one that has no correction (focal, poly1, sce,
    apl, root at k ≤ 1), it is softmax(z)_y.

    >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    >>> label_quality(logits, torch.tensor([0, 1]))
    tensor([0.8808, 0.1192])

    Parameters
    ----------
    logits : Tensor or array, shape (N, C)
        Outputs of the net, best for samples it was not trained on. Logarithms of probabilities are logits, too:
        pass ``log(p)``.
    labels : Tensor or array of integers, shape (N,)
        The given labels, 0 to C − 1.
    loss : module, optional
        The loss that the net was trained with.

    Returns
    -------
    Tensor, shape (N,)
        Numbers in [0, 1]. The smallest are the labels to look at first. float32 for half precision.

    Raises
    ------
    ValueError
        For shapes that do not fit, labels that are no classes, or a row of logits without a softmax (NaN, all −∞).

    References
    ----------
    Northcutt, Jiang, Chuang: Confident Learning, JAIR 2021, arXiv 1911.00068 ("self-confidence" in cleanlab).
    """
    logits, labels = at_least_float32(torch.as_tensor(logits).detach()), torch.as_tensor(labels)
    if logits.dim() != 2 or labels.dim() != 1 or len(logits) != len(labels):
        raise ValueError(
            "logits must have the shape (N, C) and labels (N,), "
            f"got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be class indices (integers), got {labels.dtype}")
    labels = labels.to(logits.device, torch.long)
    outside = (labels < 0) | (labels >= logits.shape[1])
    if outside.any():
        i = int(outside.nonzero()[0])
        raise ValueError(f"label {int(labels[i])} of sample {i} is no class: 0 to {logits.shape[1] - 1} are")
    scale = getattr(loss, "logit_scale", None)
    # Scaled after the largest is taken off: large logits must not overflow.
    z = (logits - logits.amax(1, keepdim=True)) * (1.0 if scale is None else scale)
    quality = z.softmax(1).gather(1, labels[:, None])[:, 0]
    if quality.isnan().any():
        raise ValueError(
            f"the logits of sample {int(quality.isnan().nonzero()[0])} have no softmax: NaN or ∞"
        )
    return quality
