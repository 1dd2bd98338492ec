"""The semantics of ``nn.CrossEntropyLoss`` around any function φ of the cross entropy.

Every loss here is Σ_c t_c φ(−log p_c) with p = softmax(logits). A loss file supplies φ and checks its own
parameters; targets, weights, ignored samples, label smoothing and the reduction are handled in :func:`class_loss`.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REDUCTIONS = ("mean", "sum", "none")


def check_real(name: str, value: Any, minimum: float, *, inclusive: bool = True) -> float | Tensor:
    """`value` to compute with; ``ValueError`` unless it is finite, real and ≥ (not inclusive: >) `minimum`.

    NumPy's numbers and fractions become a float, half-precision tensors without dimensions float32.
    """
    if type(value) is int:  # first: of a whole number that varies, torch.compile knows few functions
        value = float(value)
    if type(value) is float and minimum < value < math.inf:
        return value
    is_tensor = isinstance(value, Tensor) and value.dim() == 0
    number = look_at(value) if is_tensor else value
    if number is None and is_tensor:
        return at_least_float32(value)
    ok = isinstance(number, Real) and not isinstance(number, bool) and math.isfinite(number)
    if not ok or number < minimum or (number == minimum and not inclusive):
        relation = "≥" if inclusive else ">"
        raise ValueError(f"{name} must be a finite real number {relation} {minimum:g}, got {number!r}")
    return at_least_float32(value) if is_tensor else float(value)


def look_at(x: Tensor) -> float | None:
    """The number in `x`; None where the host would wait for a device, or a compiler or a transform records it."""
    if not x.is_cpu or torch.compiler.is_compiling():
        return None
    try:
        return x.item()
    except RuntimeError:  # of torch.func.vmap, make_fx and fake tensors
        return None


def check_options(reduction: str, label_smoothing: float) -> None:
    """Raise ``ValueError`` for an unknown reduction or a label smoothing outside [0, 1]."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing must be between 0 and 1, got {label_smoothing!r}")


def as_float(number: float | Tensor) -> float:
    """A parameter of a loss as a float; a learned one is no reason for a warning."""
    return float(number.detach() if isinstance(number, Tensor) else number)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision (fp16, bf16) as float32; float32 and float64 untouched."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def finite(ell: Tensor) -> Tensor:
    """Cross entropies in float32 or better, cut off at the square root of the largest number.

    Float32 logits can be further apart than float32 can say, which leaves ℓ infinite; and where φ′ is 0, its
    product with an infinite ℓ, which a learned parameter's gradient has in it, would be NaN.
    """
    ell = at_least_float32(ell)
    return ell.clamp(max=torch.finfo(ell.dtype).max ** 0.5)


def one_minus_exp(ell: Tensor) -> Tensor:
    """1 − e^(−ℓ) for ℓ ≥ 0, exact to rounding in value and derivative.

    elu(x) is e^x − 1 below 0, and its derivative e^x itself; that of expm1 is its result + 1, in which a small
    e^x is lost. Compilers, too, make better loops of it.
    """
    return -F.elu(-ell)


def as_plain(x: Tensor) -> Tensor:
    """`x` without a subclass that only carries a name (a mask, an image); DTensor and its like stay what they are."""
    if type(x) in (Tensor, nn.Parameter) or type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return x
    return x.as_subclass(Tensor)


def is_sharded(x: Tensor, dim: int) -> bool:
    """Whether `x` is a DTensor whose dimension `dim` is spread over devices."""
    return any(placement.is_shard(dim) for placement in getattr(x, "placements", ()))


def class_loss(
    phi: Callable[[Tensor], Tensor],
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Σ_c t_c φ(−log softmax(logits)_c), with the arguments and semantics of ``F.cross_entropy``.

    Parameters
    ----------
    phi : callable
        Elementwise function of the cross entropy ℓ, which is finite and ≥ 0. φ(0) = 0.
    logits : Tensor, shape (C,), (N, C) or (N, C, d1, …)
    target : Tensor
        Class indices, shape (), (N,) or (N, d1, …); or class probabilities in the shape of `logits`.
    weight : Tensor, shape (C,), optional
        A factor for each class. With indices, ``mean`` divides by the sum of the weights used.
    ignore_index : int
        Samples with this index count neither in the sum nor in the mean. Indices only.
    reduction : {"mean", "sum", "none"}
    label_smoothing : float in [0, 1]
        Mixes the target with the uniform distribution over the classes.

    Returns
    -------
    Tensor
        A scalar, or with ``reduction="none"`` the shape of `logits` without its class dimension. Half
        precision logits are computed in, and returned as, float32.

    Raises
    ------
    ValueError
        For an unknown reduction, a label smoothing outside [0, 1], a `weight` or class probabilities of the
        wrong shape, or an `ignore_index` ≥ 0 with probabilities. What torch itself refuses is torch's error.
    """
    check_options(reduction, label_smoothing)
    logits, target = at_least_float32(as_plain(logits)), as_plain(target)
    dim = 0 if logits.dim() == 1 else 1
    classes = logits.shape[dim]
    if weight is not None:
        if weight.shape != (classes,):
            raise ValueError(
                f"weight must hold one number for each of the {classes} classes, got shape {tuple(weight.shape)}"
            )
        weight = weight.to(logits.dtype)

    if (label_smoothing or target.is_floating_point()) and is_sharded(logits, dim):
        raise ValueError(
            "logits that are sharded over the classes (DTensor, loss_parallel) take class indices without label "
            "smoothing: for more, gather them with logits.redistribute(placements=…)"
        )

    def over_classes(share: Tensor | float) -> Tensor:
        terms = phi(finite(-F.log_softmax(logits, dim))) * share
        if weight is not None:
            terms = terms * weight.view([-1 if d == dim else 1 for d in range(terms.dim())])
        return terms.sum(dim)

    if target.is_floating_point():
        if ignore_index >= 0:
            raise ValueError("ignore_index is for class indices: class probabilities leave no sample out")
        if target.shape != logits.shape:
            raise ValueError(
                f"class probabilities must have the shape of the logits, {tuple(logits.shape)}, "
                f"got {tuple(target.shape)}; class indices must be integers"
            )
        loss = over_classes(target.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / classes)
        # As in torch, probabilities are averaged over samples; the class weights do not enter the mean.
        return reduce(loss, reduction, loss.numel())

    if target.dtype == torch.uint8:  # whose comparison with a negative ignore_index would wrap
        target = target.long()
    counted = target != ignore_index
    # An ignored sample has ℓ = 0, and so φ = 0, and no gradient.
    loss = phi(finite(F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")))
    if weight is not None:
        # With a dimension more, since vmap cannot index with a sample's single label.
        of_target = weight[torch.where(counted, target, 0).long().unsqueeze(0)].squeeze(0) * counted
        loss, counted = loss * of_target, of_target
    if label_smoothing:
        smooth = over_classes(1 / classes).masked_fill(target == ignore_index, 0.0)
        loss = (1 - label_smoothing) * loss + label_smoothing * smooth
    return reduce(loss, reduction, counted.sum(dtype=logits.dtype) if reduction == "mean" else None)


def reduce(loss: Tensor, reduction: str, count: Tensor | int | None) -> Tensor:
    """The losses themselves, their sum, or their sum over `count`, NaN where nothing is counted, as in torch."""
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    # Divided before it is summed: a sum of large losses may overflow where their mean does not.
    return (loss / count).sum() if loss.numel() else loss.sum() / 0


class ClassLoss(nn.Module):
    """What the module forms share: the options of ``nn.CrossEntropyLoss``; `weight` is a buffer.

    A subclass names its own parameters in `numbers`, for its ``repr``, and calls its function in ``forward``.
    """

    numbers: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        check_options(reduction, label_smoothing)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.label_smoothing = label_smoothing

    @property
    def logit_scale(self) -> float | None:
        """c such that softmax(c z) are the class probabilities that the loss is minimal at (docs/losses.md §7).

        None where no such number exists.
        """
        return None

    def options(self) -> dict:
        """The keyword arguments that the functional forms share."""
        names = ("weight", "ignore_index", "reduction", "label_smoothing")
        return {name: getattr(self, name) for name in names}

    def extra_repr(self) -> str:
        numbers = [f"{name}={as_float(getattr(self, name)):g}" for name in self.numbers]
        options = [f"label_smoothing={self.label_smoothing:g}", f"reduction={self.reduction!r}"]
        return ", ".join(numbers + options)
