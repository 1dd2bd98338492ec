"""The focal loss of Lin et al., with the arguments of ``nn.CrossEntropyLoss``."""

import torch
from torch import Tensor

from .base import ClassLoss, check_real, class_loss, finite, one_minus_exp


def focal_from_ce(cross_entropy: Tensor, alpha: float | Tensor = 0.25, gamma: float | Tensor = 2.0) -> Tensor:
    """α (1 − e^(−ℓ))^γ ℓ of per-sample cross entropies ℓ ≥ 0, elementwise, in the same shape.

    >>> focal_from_ce(torch.tensor([0.0, 0.6931]), alpha=1, gamma=2)
    tensor([0.0000, 0.1733])

    Half precision is computed in, and returned as, float32. α, γ, errors and source are those of
    :func:`focal_loss`.
    """
    return _phi(finite(cross_entropy), *_check(alpha, gamma))


def focal_loss(
    logits: Tensor,
    target: Tensor,
    alpha: float | Tensor = 0.25,
    gamma: float | Tensor = 2.0,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """α (1 − p)^γ ℓ with ℓ = −log p the cross entropy: down-weights samples the net already gets right.

    Computed as α (−elu(−ℓ))^γ ℓ, which keeps its precision as p → 1.

    Parameters
    ----------
    logits, target, weight, ignore_index, reduction, label_smoothing
        As in :func:`losses.root_loss`.
    alpha : float > 0
        A scale, the same for all classes; use `weight` for one factor a class.
    gamma : float ≥ 0
        The focus. 0 is α times cross entropy.

    Returns
    -------
    Tensor
        A scalar, or with ``reduction="none"`` one value a sample.

    Raises
    ------
    ValueError
        If α ≤ 0, γ < 0, either is not a finite real number, or an option is not one of torch's.

    References
    ----------
    Lin, Goyal, Girshick, He, Dollár: Focal Loss for Dense Object Detection, ICCV 2017, arXiv 1708.02002.
    """
    alpha, gamma = _check(alpha, gamma)
    return class_loss(
        lambda ell: _phi(ell, alpha, gamma), logits, target,
        weight=weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing,
    )  # fmt: skip


def _phi(ell: Tensor, alpha: float | Tensor, gamma: float | Tensor) -> Tensor:
    # At 0 the power has an infinite slope for γ < 1. What is cut off is so small that its square is 0, and so
    # large that a factor times its (γ − 1)th power is finite.
    wrong = one_minus_exp(ell.clamp(min=torch.finfo(ell.dtype).tiny ** 0.75))
    return alpha * wrong**gamma * ell


def _check(alpha: float | Tensor, gamma: float | Tensor) -> tuple[float | Tensor, float | Tensor]:
    return check_real("alpha", alpha, 0, inclusive=False), check_real("gamma", gamma, 0)


class FocalLoss(ClassLoss):
    """:func:`focal_loss` as a module: ``FocalLoss(alpha=0.25, gamma=2.0, *, weight=None, …)``."""

    numbers = ("alpha", "gamma")

    def __init__(self, alpha: float | Tensor = 0.25, gamma: float | Tensor = 2.0, **options) -> None:
        super().__init__(**options)
        _check(alpha, gamma)
        self.alpha, self.gamma = alpha, gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return focal_loss(logits, target, self.alpha, self.gamma, **self.options())
