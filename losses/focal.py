"""The focal loss of Lin et al., with the arguments of ``nn.CrossEntropyLoss``."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import ClassLoss, as_float, at_least_float32, check_real, class_loss


def focal_from_ce(cross_entropy: Tensor, alpha: float | Tensor = 0.25, gamma: float | Tensor = 2.0) -> Tensor:
    """α (1 − e^(−ℓ))^γ ℓ of per-sample cross entropies ℓ, elementwise: see :func:`focal_loss`.

    >>> focal_from_ce(torch.tensor([0.0, 0.6931]), alpha=1, gamma=2)
    tensor([0.0000, 0.1733])
    """
    alpha, gamma = _check(alpha, gamma)
    cross_entropy = at_least_float32(cross_entropy)
    ell = F.hardtanh(cross_entropy, *_bounds(cross_entropy.dtype))  # a clamp, in fewer kernels
    return (-torch.expm1(-ell)).pow(gamma) * ell * alpha


def _bounds(dtype: torch.dtype) -> tuple[float, float]:
    """Where ℓ is cut off.

    Below, (…)^γ has an infinite slope at 0 for γ < 1: what is cut is small enough for its square to be 0, and
    large enough for a factor times its (γ − 1)th power not to be infinite. Above, float32 logits can be further
    apart than float32 can say, which leaves ℓ infinite.
    """
    info = torch.finfo(dtype)
    return info.tiny**0.75, info.max**0.5


_BOUNDS = {dtype: _bounds(dtype) for dtype in (torch.float32, torch.float64)}


def _pair(ell: Tensor, gamma: float, alpha: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
    """φ and φ′ = α (1 − p)^(γ − 1) (1 − p + γ p ℓ) of :func:`focal_from_ce`, without autograd."""
    ell = ell.clamp(*_BOUNDS[ell.dtype])
    p = -ell
    wrong = torch.expm1(p).neg_()
    power = wrong * alpha if gamma == 2 else wrong.pow(gamma - 1).mul_(alpha)
    slope = torch.addcmul(wrong, ell, p.exp_(), value=gamma).mul_(power)
    return ell.mul_(wrong).mul_(power), slope


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

    Computed as α (−expm1(−ℓ))^γ ℓ, which keeps its precision as p → 1.

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
    of_log_p = None
    if isinstance(alpha, float) and isinstance(gamma, float) and gamma >= 1:  # below, α^(1/γ) may be 0 or ∞
        of_log_p = functools.partial(_of_log_p, alpha=alpha, gamma=gamma)
    return class_loss(
        lambda ell: focal_from_ce(ell, 1.0, gamma),
        alpha,
        logits,
        target,
        pair=None if isinstance(gamma, Tensor) else lambda ell, alpha: _pair(ell, gamma, alpha),
        of_log_p=of_log_p,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


def _of_log_p(x: Tensor, alpha: float, gamma: float) -> Tensor:
    """−α φ(−x) of the log-probabilities x of all classes: see ``of_log_p`` of :func:`losses.base.class_loss`."""
    low, high = _BOUNDS[x.dtype]
    x = F.hardtanh(x, -high, -low)
    wrong = torch.ops.aten.elu(x, -(alpha ** (1 / gamma)), 1.0, 1.0)  # α^(1/γ) (1 − e^x), as x ≤ 0
    return wrong.pow(gamma) * x


def _check(alpha: float | Tensor, gamma: float | Tensor) -> tuple[float | Tensor, float | Tensor]:
    return check_real("alpha", alpha, 0, inclusive=False), check_real("gamma", gamma, 0)


class FocalLoss(ClassLoss):
    """:func:`focal_loss` as a module: ``FocalLoss(alpha=0.25, gamma=2.0, *, weight=None, …)``."""

    def __init__(self, alpha: float | Tensor = 0.25, gamma: float | Tensor = 2.0, **options) -> None:
        super().__init__(**options)
        _check(alpha, gamma)
        self.alpha, self.gamma = alpha, gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return focal_loss(logits, target, self.alpha, self.gamma, **self.options())

    def extra_repr(self) -> str:
        return f"alpha={as_float(self.alpha):g}, gamma={as_float(self.gamma):g}, {super().extra_repr()}"
