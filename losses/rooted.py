"""The rooted losses: a k-th root where cross entropy has the logarithm.

With ℓ = −log softmax(z)_y the cross entropy of a sample and p = e^(−ℓ) the probability of its class:

    root(k, m) = m (1 − p^(1/k))    computed as −m · expm1(−ℓ/k)   bounded, down-weights wrong samples
    rlo(k, m)  = m (p^(−1/k) − 1)   computed as  m · expm1(ℓ/k)    convex in z, up-weights wrong samples

At m = k both tend to ℓ as k → ∞, from below and from above. Neither ever forms p, which underflows in
float32 once two logits are about 100 apart.

References
----------
Wang, Veluswami, Mishra, Ravi: Accelerated Neural Network Training with Rooted Logistic Objectives,
arXiv 2310.03890 (2023). Zhang, Sabuncu: Generalized Cross Entropy Loss for Training Deep Neural Networks
with Noisy Labels, NeurIPS 2018 (``root`` at k = 1/q, m = k).
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import (
    ClassLoss,
    are_learned,
    as_float,
    at_least_float32,
    check_real,
    check_reduction,
    class_loss,
    has_values,
)

aten = torch.ops.aten
# expm1 is continued linearly for this long before it saturates. Logits of 1e7 are beyond any use; without
# an end, a slope of e^70 times the largest float32 logit would be infinite.
LINEAR_RANGE = 2.0**24


def exact_range(dtype: torch.dtype, k: float | Tensor, m: float | Tensor) -> float | Tensor:
    """The largest x = ℓ/k up to which :func:`rlo_loss` is m · expm1(x) exactly, for logits of `dtype`.

    Chosen so that m times the linear continuation stays finite, and that the slope (m/k) e^x, which is
    what the logits' gradient is made of, does too. At k = m = 3: 10.9 in fp16, whose numbers end at 65504,
    70 in bf16 and fp32, 691 in fp64. Never below 0: at an m or m/k so large the loss is (m/k) ℓ throughout.
    """
    largest = torch.finfo(dtype).max
    largest_sum = torch.finfo(torch.float32).max if dtype in (torch.float16, torch.bfloat16) else largest
    if isinstance(k, Tensor) or isinstance(m, Tensor):  # logarithms, which float32 can hold
        k, m = torch.as_tensor(k), torch.as_tensor(m)
        value = math.log(largest_sum / LINEAR_RANGE) - m.log().clamp(min=0)
        slope = math.log(largest) - (m / k).log().clamp(min=0)
        return (torch.minimum(value, slope) - 0.2).clamp(min=0)
    largest_value = largest_sum / LINEAR_RANGE / max(m, 1.0)
    largest_slope = largest / max(m / k, 1.0)
    return max(math.log(min(largest_value, largest_slope)) - 0.2, 0.0)


def expm1_then_linear(x: Tensor, start: float | Tensor) -> Tensor:
    """e^x − 1 up to `start`, then its tangent there (so C¹), and constant from ``start + LINEAR_RANGE``."""
    # The join itself belongs to the exponential: masked_fill keeps its slope there, and hardtanh's is 0 at
    # both its ends (clamp's differs between versions).
    below = x.masked_fill(x > start, start)
    line = F.hardtanh(x - start, 0.0, LINEAR_RANGE)
    if isinstance(start, Tensor):
        return torch.expm1(below) + line * start.to(x.dtype).exp()
    return torch.add(torch.expm1(below), line, alpha=math.exp(start))


def one_minus_exp(x: Tensor) -> Tensor:
    """1 − e^x for x ≤ 0, exact to rounding in value and derivative.

    Autograd's derivative of expm1 is its result + 1, in which a small e^x is lost.
    """
    return torch.where(x > -1, -torch.expm1(x), 1 - torch.exp(x))


def times(ell: Tensor, factor: float | Tensor) -> Tensor:
    """ℓ times ±1/k, whose gradient, where k is learned, is not the ∞ of a masked class times a slope of 0."""
    if are_learned(factor):
        ell = ell.clamp(max=torch.finfo(ell.dtype).max ** 0.5)
    return ell * factor


def root_pair(ell: Tensor, k: float | Tensor, m: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
    """φ and φ′ of :func:`root_from_ce`, for where autograd does not look."""
    x = ell * (-1.0 / k)
    slope = x.exp().mul_(m / k)
    return x.expm1_().mul_(-m), slope


def rlo_pair(
    ell: Tensor, k: float | Tensor, start: float | Tensor, m: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """φ and φ′ of :func:`rlo_from_ce` with its `start`, for where autograd does not look."""
    x = ell * (1.0 / k)
    if has_values(x) and x.numel() and x.amax().item() <= start:
        slope = x.exp().mul_(m / k)
        return x.expm1_().mul_(m), slope
    value = x.clamp(max=start).expm1_()
    slope = (value + 1).mul_(m / k).masked_fill_(x > start + LINEAR_RANGE, 0.0)
    line = x.sub_(start).clamp_(0.0, LINEAR_RANGE)
    if isinstance(start, Tensor):
        value.addcmul_(line, start.to(x.dtype).exp())
    else:
        value.add_(line, alpha=math.exp(start))
    return value.mul_(m), slope


def root_from_ce(cross_entropy: Tensor, k: float | Tensor = 3.0, m: float | Tensor = 3.0) -> Tensor:
    """m (1 − e^(−ℓ/k)) of per-sample cross entropies ℓ, elementwise: the root loss on any fused kernel's output.

    >>> root_from_ce(torch.tensor([0.0, 0.6931, 100.0]), k=1, m=1)
    tensor([0.0000, 0.5000, 1.0000])

    Parameters
    ----------
    cross_entropy : Tensor, any shape
        ℓ ≥ 0, infinity included. Half precision is computed in, and returned as, float32.
    k, m : float > 0, or tensors without dimensions

    Returns
    -------
    Tensor, the same shape

    Raises
    ------
    ValueError
        If k or m is not a finite real number > 0.
    """
    k, m = _check(k, m)
    return one_minus_exp(times(at_least_float32(cross_entropy), -1.0 / k)) * m


def rlo_from_ce(cross_entropy: Tensor, k: float | Tensor = 3.0, m: float | Tensor = 3.0) -> Tensor:
    """m (e^(ℓ/k) − 1) of per-sample cross entropies ℓ, elementwise; linear where that would overflow.

    >>> rlo_from_ce(torch.tensor([0.0, 0.6931, 1.3863]), k=1, m=1)
    tensor([0.0000, 0.9999, 3.0000])

    Parameters, returns and errors are those of :func:`root_from_ce`.
    """
    k, m = _check(k, m)
    start = exact_range(cross_entropy.dtype, k, m)
    return expm1_then_linear(times(at_least_float32(cross_entropy), 1.0 / k), start) * m


def root_loss(
    logits: Tensor,
    target: Tensor,
    k: float | Tensor = 3.0,
    m: float | Tensor = 3.0,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The bounded rooted loss m (1 − p^(1/k)), which the published classification experiments trained.

    Its gradient in the logits is (m/k) p^(1/k) (softmax(z) − e_y): that of cross entropy, weighted down
    where the net gives the label a small probability p. Values lie in [0, m). Not convex in the logits.

    Parameters
    ----------
    logits : Tensor, shape (C,), (N, C) or (N, C, d1, …)
        Unnormalised, any finite value. Half precision is computed in float32.
    target : Tensor
        Class indices, shape (), (N,) or (N, d1, …), or class probabilities t in the shape of `logits`,
        for which the loss is Σ_c t_c m (1 − p_c^(1/k)).
    k : float > 0, or a tensor without dimensions
        The root. k → ∞ with m = k is cross entropy; k = 1 is m (1 − p), the mean absolute error.
    m : float > 0, or a tensor without dimensions
        A pure scale.
    weight, ignore_index, reduction, label_smoothing
        As in ``torch.nn.functional.cross_entropy``.

    Returns
    -------
    Tensor
        A scalar, or with ``reduction="none"`` one value a sample.

    Raises
    ------
    ValueError
        If k ≤ 0, m ≤ 0, either is not a finite real number, or an option is not one of torch's. (A tensor is
        looked at on the CPU only. A k that is learned needs a floor: pass, say, ``1 + softplus(parameter)``.)

    References
    ----------
    Wang et al., arXiv 2310.03890 (2023); Zhang & Sabuncu, NeurIPS 2018 (generalised cross entropy,
    (1 − p^q)/q, is this loss at k = m = 1/q).
    """
    k, m = _check(k, m)
    of_log_p = None
    if isinstance(k, float) and isinstance(m, float):
        of_log_p = functools.partial(_root_of_log_p, k=k, m=m)
    return class_loss(
        lambda ell: one_minus_exp(times(ell, -1.0 / k)),
        m,
        logits,
        target,
        pair=None if are_learned(k) else lambda ell, m: root_pair(ell, k, m),
        of_log_p=of_log_p,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


def rlo_loss(
    logits: Tensor,
    target: Tensor,
    k: float | Tensor = 3.0,
    m: float | Tensor = 3.0,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The rooted logistic objective m (p^(−1/k) − 1), the one the paper analyses.

    Its gradient in the logits is (m/k) p^(−1/k) (softmax(z) − e_y): that of cross entropy, weighted up
    where the net is wrong. Convex in the logits, being an increasing convex function of log-sum-exp.

    Where e^(ℓ/k) or its gradient would overflow (ℓ/k above about 70 in bf16 and fp32, 11 for fp16 logits:
    see ``exact_range``) the loss continues as its tangent: still convex, increasing and C¹. It saturates 2²⁴
    later, so that value and gradient are finite for every finite logit. With ``reduction="sum"`` many
    samples out there can still add up to infinity.

    Parameters
    ----------
    logits, target, weight, ignore_index, reduction, label_smoothing
        As in :func:`root_loss`.
    k : float > 0, or a tensor without dimensions
        The root. k → ∞ with m = k is cross entropy.
    m : float > 0, or a tensor without dimensions
        A pure scale.

    Returns
    -------
    Tensor
        A scalar, or with ``reduction="none"`` one value a sample.

    Raises
    ------
    ValueError
        If k ≤ 0, m ≤ 0, either is not a finite real number, or an option is not one of torch's.

    References
    ----------
    Wang et al., arXiv 2310.03890 (2023).
    """
    k, m = _check(k, m)
    start = exact_range(logits.dtype, k, m)
    of_log_p = None
    if isinstance(k, float) and isinstance(m, float) and isinstance(start, float):
        of_log_p = functools.partial(_rlo_of_log_p, k=k, start=start, m=m)
    return class_loss(
        lambda ell: expm1_then_linear(times(ell, 1.0 / k), start),
        m,
        logits,
        target,
        pair=None if are_learned(k, m) else lambda ell, m: rlo_pair(ell, k, start, m),
        of_log_p=of_log_p,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


def _root_of_log_p(x: Tensor, k: float, m: float) -> Tensor:
    """−m φ(−x) of the log-probabilities x of all classes: see ``of_log_p`` of :func:`losses.base.class_loss`."""
    return aten.elu(x, m, 1.0, 1.0 / k)  # m expm1(x/k), as x ≤ 0


def _rlo_of_log_p(x: Tensor, k: float, start: float, m: float) -> Tensor:
    """The same for :func:`rlo_loss`, of one function up to `start` and its tangent beyond."""
    line = F.softshrink(F.hardtanh(x, -k * (start + LINEAR_RANGE), 1.0), k * start)
    below = aten.elu(F.hardtanh(x, -k * start, 1.0), -m, 1.0, -1.0 / k)  # −m expm1(−x/k), as x ≤ 0
    return torch.add(below, line, alpha=m / k * math.exp(start))


def rooted_logistic_loss(
    logits: Tensor, target: Tensor, k: float | Tensor = 2.0, *, reduction: str = "mean"
) -> Tensor:
    """The binary rooted logistic loss k (1 + e^(−t))^(1/k), t = ±f(x) the signed margin.

    Computed as k · exp(softplus(−t)/k), continued linearly where that would overflow (see
    :func:`rlo_loss`). Equals ``rlo_loss(stack([0, f]), target, k, m=k) + k``: the constant k is the
    paper's, kept so that values compare.

    Parameters
    ----------
    logits : Tensor, any shape
        The score f(x) of class 1, any finite value. Half precision is computed in float32.
    target : Tensor, the same shape
        0 or 1, of any dtype. A probability y in between gives y φ(f) + (1 − y) φ(−f), as in
        ``binary_cross_entropy_with_logits``.
    k : float > 0
        The root. k → ∞ is k plus the logistic loss.
    reduction : {"mean", "sum", "none"}

    Returns
    -------
    Tensor
        A scalar, or with ``reduction="none"`` the shape of `logits`.

    Raises
    ------
    ValueError
        If k ≤ 0 or not a finite real number, the shapes differ, the reduction is unknown, or (on the CPU: on
        other devices the host would have to wait) a label lies outside [0, 1].

    References
    ----------
    Wang et al., arXiv 2310.03890 (2023).
    """
    k = check_real("k", k, 0, inclusive=False)
    check_reduction(reduction)
    if target.shape != logits.shape:
        raise ValueError(
            f"target must have the shape of the logits, {tuple(logits.shape)}, got {tuple(target.shape)}"
        )
    start = exact_range(logits.dtype, k, k)
    logits = at_least_float32(logits)
    target = target.to(logits.dtype)
    if has_values(target) and not bool(((target >= 0) & (target <= 1)).all()):
        raise ValueError(
            "labels must lie in [0, 1], the class or its probability; for labels y of −1 and +1 pass (y + 1) / 2"
        )

    def phi(margin: Tensor) -> Tensor:
        # By default softplus becomes linear at 20, which float64 can tell from the truth.
        return k + k * expm1_then_linear(F.softplus(-margin, threshold=40.0) * (1.0 / k), start)

    loss = target * phi(logits) + (1 - target) * phi(-logits)
    if reduction == "mean":
        return (loss / max(loss.numel(), 1)).sum()
    return loss.sum() if reduction == "sum" else loss


def _check(k: float | Tensor, m: float | Tensor) -> tuple[float | Tensor, float | Tensor]:
    return check_real("k", k, 0, inclusive=False), check_real("m", m, 0, inclusive=False)


class _RootedLoss(ClassLoss):
    def __init__(self, k: float | Tensor = 3.0, m: float | Tensor = 3.0, **options) -> None:
        super().__init__(**options)
        _check(k, m)
        self.k, self.m = k, m

    def anneal(self, k: float | Tensor) -> None:
        """Move k, and m with it so that m/k stays: the next step computes with it, compiled or not.

        Neither is part of the ``state_dict``: after loading one, call this again.

        Raises
        ------
        ValueError
            If k is not a finite real number > 0, or k or m is learned: its optimiser moves it.
        """
        k, _ = _check(k, 1.0)
        if are_learned(self.k, self.m):
            raise ValueError("anneal moves a k and m that are given, but a parameter is learned")
        if "k" not in self._buffers:
            self._ratio, device = as_float(self.m) / as_float(self.k), getattr(self.weight, "device", None)
            dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
            del self.k, self.m
            for name in ("k", "m"):
                self.register_buffer(name, torch.ones((), dtype=dtype, device=device), persistent=False)
        self.get_buffer("k").fill_(k)
        self.get_buffer("m").fill_(k * self._ratio)

    def extra_repr(self) -> str:
        return f"k={as_float(self.k):g}, m={as_float(self.m):g}, {super().extra_repr()}"


class RootLoss(_RootedLoss):
    """:func:`root_loss` as a module: ``RootLoss(k=3.0, m=3.0, *, weight=None, ignore_index=-100, …)``."""

    @property
    def logit_scale(self) -> float:
        """1 − 1/k; at k ≤ 1 the loss is minimal at the most probable class alone, and nothing is corrected."""
        return 1 - 1 / as_float(self.k) if as_float(self.k) > 1 else 1.0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return root_loss(logits, target, self.k, self.m, **self.options())


class RLOLoss(_RootedLoss):
    """:func:`rlo_loss` as a module: ``RLOLoss(k=3.0, m=3.0, *, weight=None, ignore_index=-100, …)``."""

    @property
    def logit_scale(self) -> float:
        """1 + 1/k."""
        return 1 + 1 / as_float(self.k)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return rlo_loss(logits, target, self.k, self.m, **self.options())


def gce(q: float = 0.7, **options) -> RootLoss:
    """The generalised cross entropy (1 − p^q)/q of Zhang & Sabuncu (NeurIPS 2018): ``RootLoss(1/q, 1/q)``.

    Raises
    ------
    ValueError
        If q is not a finite real number > 0.
    """
    check_real("q", q, 0, inclusive=False)
    return RootLoss(1 / q, 1 / q, **options)


def alpha_loss(alpha: float, **options) -> ClassLoss | nn.CrossEntropyLoss:
    """The α-loss α/(α − 1) (1 − p^(1 − 1/α)) of Sypherd et al. (arXiv 1906.02314), as one of the losses here.

    ``RootLoss`` at α > 1 (k = m = α/(α − 1)), ``nn.CrossEntropyLoss`` at α = 1, ``RLOLoss`` at α < 1
    (k = m = α/(1 − α)).

    Raises
    ------
    ValueError
        If α is not a finite real number > 0.
    """
    check_real("alpha", alpha, 0, inclusive=False)
    if alpha == 1:
        return nn.CrossEntropyLoss(**options)
    k = alpha / abs(alpha - 1)
    return RootLoss(k, k, **options) if alpha > 1 else RLOLoss(k, k, **options)
