"""Robust and polynomial losses of other authors, with the arguments of ``nn.CrossEntropyLoss``.

With p = softmax(logits), ℓ = −log p_y and A in place of log 0:

    sce(α, β)  = α ℓ + β (−A) (1 − p_y)                  symmetric cross entropy, Wang et al. 2019
    apl(α, β)  = α ℓ / Σ_c (−log p_c) + β (−A) (1 − p_y)   active + passive (NCE + RCE), Ma et al. 2020
    poly1(ε)   = ℓ + ε (1 − p_y)                         Leng et al. 2022

The reverse cross entropy −Σ_c p_c log q_c of a one-hot target q, with A for log 0, is −A (1 − p_y). Soft
targets t, and with them label smoothing, give Σ_c t_c loss(c), the mean over labels drawn from t: the formula
with A itself has no such mean, as log t_c is defined wherever t_c > 0.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import (
    ClassLoss,
    as_plain,
    at_least_float32,
    check_real,
    class_loss,
    finite,
    look_at,
    one_minus_exp,
)

# Both papers' published code clips the one-hot target at 10⁻⁴ before its logarithm.
LOG_OF_ZERO = math.log(1e-4)


def sce_loss(
    logits: Tensor,
    target: Tensor,
    alpha: float | Tensor = 0.1,
    beta: float | Tensor = 1.0,
    A: float | Tensor = LOG_OF_ZERO,
    **options,
) -> Tensor:
    """The symmetric cross entropy α ℓ + β (−A) (1 − p): cross entropy, and the robust reverse of it.

    Parameters
    ----------
    logits, target
        As in :func:`losses.root_loss`.
    alpha, beta : float ≥ 0
        Factors of cross entropy and reverse cross entropy. The paper has 0.1 and 1 for CIFAR-10.
    A : float < 0
        What stands for log 0. The published code has log 10⁻⁴.
    **options
        `weight`, `ignore_index`, `reduction`, `label_smoothing`, as in ``F.cross_entropy``.

    Returns
    -------
    Tensor
        A scalar, or with ``reduction="none"`` one value a sample.

    Raises
    ------
    ValueError
        If α < 0, β < 0, A ≥ 0, one is not a finite real number, or an option is not one of torch's.

    References
    ----------
    Wang, Ma, Chen, Luo, Yi, Bailey: Symmetric Cross Entropy for Robust Learning with Noisy Labels, ICCV 2019,
    arXiv 1908.06112.
    """
    alpha, beta, A = _check(alpha, beta, A)
    return class_loss(lambda ell: alpha * ell - beta * A * one_minus_exp(ell), logits, target, **options)


def apl_loss(
    logits: Tensor,
    target: Tensor,
    alpha: float | Tensor = 1.0,
    beta: float | Tensor = 1.0,
    A: float | Tensor = LOG_OF_ZERO,
    **options,
) -> Tensor:
    """The active passive loss NCE + RCE: α ℓ / Σ_c (−log p_c) + β (−A) (1 − p).

    Parameters, returns and errors are those of :func:`sce_loss`, α the factor of the normalised cross entropy.
    The paper has α = β = 1 for CIFAR-10, 10 and 0.1 for CIFAR-100.

    References
    ----------
    Ma, Huang, Wang, Romano, Erfani, Bailey: Normalized Loss Functions for Deep Learning with Noisy Labels,
    ICML 2020, arXiv 2006.13554.
    """
    alpha, beta, A = _check(alpha, beta, A)
    dim = 0 if logits.dim() == 1 else 1
    total = finite(-F.log_softmax(at_least_float32(as_plain(logits)), dim)).sum(dim, keepdim=True)
    total = total.clamp(min=torch.finfo(total.dtype).eps)  # it is 0 where there is one class

    def phi(ell: Tensor) -> Tensor:
        of_sample = total if ell.dim() == total.dim() else total.squeeze(dim)
        return alpha * ell / of_sample - beta * A * one_minus_exp(ell)

    return class_loss(phi, logits, target, **options)


def poly1_loss(logits: Tensor, target: Tensor, epsilon: float | Tensor = 2.0, **options) -> Tensor:
    """Poly-1: ℓ + ε (1 − p), cross entropy with another first coefficient of its series in 1 − p.

    ε ≥ −1 is what is added to the first coefficient, which is 1; the paper has 2 for ImageNet. Otherwise
    parameters, returns and errors are those of :func:`sce_loss`.

    References
    ----------
    Leng, Tan, Liu, Cubuk, Shi, Cheng, Anguelov: PolyLoss: A Polynomial Expansion Perspective of Classification
    Loss Functions, ICLR 2022, arXiv 2204.12511.
    """
    epsilon = check_real("epsilon", epsilon, -1)
    return class_loss(lambda ell: ell + epsilon * one_minus_exp(ell), logits, target, **options)


def _check(alpha, beta, log_of_zero) -> tuple:
    alpha, beta = check_real("alpha", alpha, 0), check_real("beta", beta, 0)
    log_of_zero = check_real("A", log_of_zero, -math.inf)
    number = look_at(log_of_zero) if isinstance(log_of_zero, Tensor) else log_of_zero
    if number is not None and number >= 0:
        raise ValueError(f"A stands for log 0 and must be < 0, got {number!r}")
    return alpha, beta, log_of_zero


class _WithReverse(ClassLoss):
    numbers = ("alpha", "beta", "A")

    def __init__(self, alpha: float | Tensor, beta: float | Tensor, A: float | Tensor, **options) -> None:
        super().__init__(**options)
        _check(alpha, beta, A)
        self.alpha, self.beta, self.A = alpha, beta, A


class SCELoss(_WithReverse):
    """:func:`sce_loss` as a module: ``SCELoss(alpha=0.1, beta=1.0, A=log(1e-4), *, weight=None, …)``."""

    def __init__(self, alpha: float = 0.1, beta: float = 1.0, A: float = LOG_OF_ZERO, **options) -> None:
        super().__init__(alpha, beta, A, **options)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return sce_loss(logits, target, self.alpha, self.beta, self.A, **self.options())


class APLLoss(_WithReverse):
    """:func:`apl_loss` as a module: ``APLLoss(alpha=1.0, beta=1.0, A=log(1e-4), *, weight=None, …)``."""

    def __init__(self, alpha: float = 1.0, beta: float = 1.0, A: float = LOG_OF_ZERO, **options) -> None:
        super().__init__(alpha, beta, A, **options)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return apl_loss(logits, target, self.alpha, self.beta, self.A, **self.options())


class Poly1Loss(ClassLoss):
    """:func:`poly1_loss` as a module: ``Poly1Loss(epsilon=2.0, *, weight=None, …)``."""

    numbers = ("epsilon",)

    def __init__(self, epsilon: float | Tensor = 2.0, **options) -> None:
        super().__init__(**options)
        check_real("epsilon", epsilon, -1)
        self.epsilon = epsilon

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return poly1_loss(logits, target, self.epsilon, **self.options())
