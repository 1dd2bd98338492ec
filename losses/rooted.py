"""The rooted losses: a k-th root where cross entropy has the logarithm.

With ℓ = −log softmax(z)_y the cross entropy of a sample and p = e^(−ℓ) the probability of its class:

    root(k, m) = m (1 − p^(1/k))    computed as −m · elu(−ℓ/k)             bounded, down-weights wrong samples
    rlo(k, m)  = m (p^(−1/k) − 1)   computed as −m · elu(−x) · eˣ, x = ℓ/k   convex in z, up-weights wrong samples

At m = k both tend to ℓ as k → ∞, from below and from above. Neither ever forms p, which underflows in
float32 once two logits are about 100 apart.

References
----------
Wang, Veluswami, Mishra, Ravi: Accelerated Neural Network Training with Rooted Logistic Objectives,
arXiv 2310.03890 (2023). Zhang, Sabuncu: Generalized Cross Entropy Loss for Training Deep Neural Networks
with Noisy Labels, NeurIPS 2018 (``root`` at k = 1/q, m = k).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import (
    ClassLoss,
    as_float,
    as_plain,
    at_least_float32,
    check_options,
    check_real,
    class_loss,
    finite,
    look_at,
    one_minus_exp,
    reduce,
)

# expm1 is continued linearly for this long before it saturates. Logits of 1e7 are beyond any use; without
# an end, a slope of e^70 times the largest float32 logit would be infinite.
LINEAR_RANGE = 2.0**24


def root_from_ce(cross_entropy: Tensor, k: float | Tensor = 3.0, m: float | Tensor = 3.0) -> Tensor:
    """m (1 − e^(−ℓ/k)) of per-sample cross entropies ℓ, elementwise: the root loss on any fused kernel's output.

    Its gradient is (m/k) e^(−ℓ/k) times that of ℓ, wherever ℓ was computed: in a fused head, or spread over the
    vocabulary by an engine like Megatron. :func:`losses.check_per_token` says whether a kernel's gradient is right.

    >>> root_from_ce(torch.tensor([0.0, 0.6931, 100.0]), k=1, m=1)
    tensor([0.0000, 0.5000, 1.0000])

    Parameters
    ----------
    cross_entropy : Tensor, any shape
        ℓ ≥ 0, infinity included. Half precision is computed in, and returned as, float32.
    k, m : float > 0, or tensors without dimensions
        As in :func:`root_loss`.

    Returns
    -------
    Tensor, the same shape

    Raises
    ------
    ValueError
        If k or m is not a finite real number > 0.

    References
    ----------
    As for :func:`root_loss`.
    """
    return _root(finite(cross_entropy), *_check(k, m))


def rlo_from_ce(cross_entropy: Tensor, k: float | Tensor = 3.0, m: float | Tensor = 3.0) -> Tensor:
    """m (e^(ℓ/k) − 1) of per-sample cross entropies ℓ, elementwise; linear where that would overflow.

    >>> rlo_from_ce(torch.tensor([0.0, 0.6931, 1.3863]), k=1, m=1)
    tensor([0.0000, 0.9999, 3.0000])

    Parameters, returns, errors and source are those of :func:`root_from_ce`.
    """
    k, m = _check(k, m)
    return _rlo(finite(cross_entropy), k, m, exact_range(cross_entropy.dtype, k, m))


def _root(ell: Tensor, k: float | Tensor, m: float | Tensor) -> Tensor:
    return m * one_minus_exp(ell / k)


def _rlo(ell: Tensor, k: float | Tensor, m: float | Tensor, start: float | Tensor) -> Tensor:
    return m * expm1_then_linear(ell / k, start)


def expm1_then_linear(x: Tensor, start: float | Tensor) -> Tensor:
    """e^x − 1 up to `start`, then its tangent there (so C¹), and constant from ``start + LINEAR_RANGE``."""
    near = torch.where(x > start, start, x)  # the join itself belongs to the exponential
    slope = start.to(x.dtype).exp() if isinstance(start, Tensor) else math.exp(start)
    return one_minus_exp(near) * near.exp() + slope * F.relu(x - start).clamp(max=LINEAR_RANGE)


def exact_range(dtype: torch.dtype, k: float | Tensor, m: float | Tensor) -> float | Tensor:
    """The largest x = ℓ/k up to which :func:`rlo_loss` is m · expm1(x) exactly, for logits of `dtype`.

    Chosen so that m times the linear continuation stays finite, and that the slope (m/k) e^x, which is
    what the logits' gradient is made of, does too. At k = m = 3: 10.9 in fp16, whose numbers end at 65504,
    70 in bf16 and fp32, 691 in fp64. Never below 0: at an m or m/k so large the loss is (m/k) ℓ throughout.
    """
    largest = math.log(torch.finfo(dtype).max)
    # Half precision is computed in float32; what goes back is the gradient alone.
    value = math.log(torch.finfo(torch.promote_types(dtype, torch.float32)).max / LINEAR_RANGE)
    if isinstance(k, Tensor) or isinstance(m, Tensor):
        k, m = torch.as_tensor(k), torch.as_tensor(m)
        exact = torch.minimum(value - m.log().clamp(min=0), largest - (m / k).log().clamp(min=0))
        return (exact - 0.2).clamp(min=0)
    return max(min(value - math.log(max(m, 1.0)), largest - math.log(max(m / k, 1.0))) - 0.2, 0.0)


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

    >>> logits, target = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
    >>> root_loss(logits, target, k=3, m=3, reduction="none")
    tensor([0.1243, 1.5236])

    Parameters
    ----------
    logits : Tensor, shape (C,), (N, C) or (N, C, d1, …)
        Unnormalised, any finite value. Half precision is computed in float32.
    target : Tensor
        Class indices, shape (), (N,) or (N, d1, …), or class probabilities t in the shape of `logits`,
        for which the loss is Σ_c t_c m (1 − p_c^(1/k)).
    k : float > 0, or a tensor without dimensions
        The root. k → ∞ with m = k is cross entropy; k = 1 is m (1 − p), the mean absolute error. A learned
        k is degenerate: the loss itself falls as k → 0 at m = k, and as k → ∞ at a fixed m, whatever the data.
        Choose k by validation, or penalise it.
    m : float > 0, or a tensor without dimensions
        A pure scale. A learned m goes to 0.
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
        looked at on the CPU only: keep a k that is learned above 0, say by ``1 + softplus(parameter)``.)

    References
    ----------
    Wang et al., arXiv 2310.03890 (2023); Zhang & Sabuncu, NeurIPS 2018 (generalised cross entropy,
    (1 − p^q)/q, is this loss at k = m = 1/q).
    """
    k, m = _check(k, m)
    return class_loss(
        lambda ell: _root(ell, k, m), logits, target,
        weight=weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing,
    )  # fmt: skip


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

    >>> logits, target = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
    >>> rlo_loss(logits, target, k=3, m=3, reduction="none")
    tensor([0.1297, 3.0957])

    Parameters, returns, errors and source are those of :func:`root_loss`; a soft target t gives
    Σ_c t_c m (p_c^(−1/k) − 1). A learned k is as degenerate: at m = k, and at a fixed m, the loss falls as k → ∞.
    """
    k, m = _check(k, m)
    start = exact_range(logits.dtype, k, m)
    return class_loss(
        lambda ell: _rlo(ell, k, m, start), logits, target,
        weight=weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing,
    )  # fmt: skip


def rooted_logistic_loss(
    logits: Tensor, target: Tensor, k: float | Tensor = 2.0, *, reduction: str = "mean"
) -> Tensor:
    """The binary rooted logistic loss k (1 + e^(−t))^(1/k), t = ±f(x) the signed margin.

    Computed as k · exp(softplus(−t)/k), continued linearly where that would overflow (see
    :func:`rlo_loss`). Equals ``rlo_loss(stack([0, f]), target, k, m=k) + k``: the constant k is the
    paper's, kept so that values compare.

    >>> rooted_logistic_loss(torch.tensor([0.0, 2.0]), torch.tensor([0, 1]), k=2, reduction="none")
    tensor([2.8284, 2.1310])

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
    check_options(reduction, 0.0)
    logits, target = as_plain(logits), as_plain(target)
    if target.shape != logits.shape:
        raise ValueError(
            f"target must have the shape of the logits, {tuple(logits.shape)}, got {tuple(target.shape)}"
        )
    start = exact_range(logits.dtype, k, k)
    logits = at_least_float32(logits)
    target = target.to(logits.dtype)
    if look_at(((target >= 0) & (target <= 1)).all()) is False:
        raise ValueError(
            "labels must lie in [0, 1], the class or its probability; for labels y of −1 and +1 pass (y + 1) / 2"
        )

    def phi(margin: Tensor) -> Tensor:
        # By default softplus becomes linear at 20, which float64 can tell from the truth.
        return k + _rlo(F.softplus(-margin, threshold=40.0), k, k, start)

    return reduce(target * phi(logits) + (1 - target) * phi(-logits), reduction, max(target.numel(), 1))


def _check(k: float | Tensor, m: float | Tensor) -> tuple[float | Tensor, float | Tensor]:
    return check_real("k", k, 0, inclusive=False), check_real("m", m, 0, inclusive=False)


class _RootedLoss(ClassLoss):
    numbers = ("k", "m")

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
        if any(isinstance(number, Tensor) and number.requires_grad for number in (self.k, self.m)):
            raise ValueError("anneal moves a k and m that are given, but a parameter is learned")
        if "k" not in self._buffers:
            self._ratio, device = as_float(self.m) / as_float(self.k), getattr(self.weight, "device", None)
            del self.k, self.m
            for name in self.numbers:
                self.register_buffer(name, torch.ones((), device=device), persistent=False)
        self._annealed_to = as_float(k)
        self._fill()

    def _fill(self) -> None:
        """Write k and m into their buffers, in place where their dtype can hold them: graphs have their address."""
        for name, value in (("k", self._annealed_to), ("m", self._annealed_to * self._ratio)):
            buffer = at_least_float32(self.get_buffer(name))
            setattr(self, name, buffer.fill_(value))

    def _apply(self, fn, recurse: bool = True):
        """As of all modules; but ``.half()`` and ``.bfloat16()`` must not round k and m."""
        super()._apply(fn, recurse)
        if "k" in self._buffers:
            self._fill()
        return self


class RootLoss(_RootedLoss):
    """:func:`root_loss` as a module: ``RootLoss(k=3.0, m=3.0, *, weight=None, ignore_index=-100, …)``.

    A k that is an ``nn.Parameter`` is learned, but degenerate: see :func:`root_loss`.
    """

    @property
    def logit_scale(self) -> float | None:
        """1 − 1/k. None at k ≤ 1, where the loss is smallest with all mass on the most probable class."""
        return 1 - 1 / as_float(self.k) if as_float(self.k) > 1 else None

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return root_loss(logits, target, self.k, self.m, **self.options())


class RLOLoss(_RootedLoss):
    """:func:`rlo_loss` as a module: ``RLOLoss(k=3.0, m=3.0, *, weight=None, ignore_index=-100, …)``.

    A k that is an ``nn.Parameter`` is learned, but degenerate: see :func:`rlo_loss`.
    """

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
