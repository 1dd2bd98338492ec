"""The semantics of ``nn.CrossEntropyLoss`` around any function φ of the per-class cross entropy.

Every loss here is s Σ_c t_c φ(−log p_c) with p = softmax(logits). A loss file supplies φ and checks its
own parameters; targets, weights, ignored samples, label smoothing and the reduction are handled once,
in :func:`class_loss`.
"""

import math
from collections.abc import Callable
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

_functorch = torch._C._functorch
REDUCTIONS = ("mean", "sum", "none")
FEW_LOGITS = 2**20  # a GPU takes longer to be told to go over so many once more than to do it
is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # torch 2.6 does not say


def check_real(name: str, value: float | Tensor, minimum: float, *, inclusive: bool = True) -> float | Tensor:
    """`value`, to be computed with; ``ValueError`` unless it is finite, real and ≥ (not inclusive: >) `minimum`.

    NumPy's numbers and fractions become a float, half-precision tensors without dimensions float32. A tensor is
    looked at only where its device needs no waiting for.
    """
    if type(value) is int:
        value = float(
            value
        )  # first: what a compiler has for a whole number that varies is known by few functions
    if type(value) is float and minimum < value < math.inf:
        return value
    number = value
    if isinstance(value, Tensor) and value.dim() == 0:
        if not has_values(value):
            return at_least_float32(value)
        number = value.item()
    ok = isinstance(number, Real) and not isinstance(number, bool) and math.isfinite(number)
    if not ok or number < minimum or (number == minimum and not inclusive):
        relation = "≥" if inclusive else ">"
        raise ValueError(f"{name} must be a finite real number {relation} {minimum:g}, got {number!r}")
    return at_least_float32(value) if isinstance(value, Tensor) else float(value)


def as_float(number: float | Tensor) -> float:
    """A parameter of a loss to print; a learned one is no reason for a warning."""
    return float(number.detach() if isinstance(number, Tensor) else number)


def check_reduction(reduction: str) -> None:
    """Raise ``ValueError`` unless `reduction` is one that torch knows."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision (fp16, bf16) as float32; float32 and float64 untouched."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class _Summed(torch.autograd.Function):
    """Σ_i f_i φ(ℓ_i) over the counted samples as one node, for class indices and constant factors f_i.

    φ′ is computed once a sample. The second output, the log-probabilities, is there for second derivatives,
    which reach the logits through it.
    """

    @staticmethod
    def forward(ctx, logits, target, counted, factor, phi, pair, ignore_index):
        ctx.set_materialize_grads(False)
        ctx.dim, ctx.phi = _class_dim(logits), phi
        log_p = torch.log_softmax(logits, ctx.dim)
        ell = F.nll_loss(log_p, target, ignore_index=ignore_index, reduction="none")
        loss, slope = pair(ell, factor)
        if counted is not None:
            slope = torch.where(counted, slope, 0.0)
            # Whatever index marks an ignored sample, this is one that scatter_add can take.
            target = target.clamp(0, logits.shape[ctx.dim] - 1)
        ctx.save_for_backward(log_p, target.long().unsqueeze(ctx.dim), counted, slope)
        ctx.factor = factor
        return loss.sum(), log_p

    @staticmethod
    def backward(ctx, grad, grad_log_p):
        log_p, target, counted, slope = ctx.saved_tensors
        again = torch.is_grad_enabled()  # create_graph
        p, in_logits = log_p.exp(), None
        if grad_log_p is not None:
            in_logits = grad_log_p - p * grad_log_p.sum(ctx.dim, keepdim=True)
        if grad is not None:
            if again:
                ell = -log_p.gather(ctx.dim, target).squeeze(ctx.dim)
                (slope,) = torch.autograd.grad(ctx.phi(ell).sum(), ell, create_graph=True)
                slope = slope * ctx.factor
                slope = slope if counted is None else torch.where(counted, slope, 0.0)
            slope = (slope * grad).unsqueeze(ctx.dim)
            if not again and not _is_batched(grad):
                p.mul_(slope).scatter_add_(ctx.dim, target, -slope)
            else:
                p = (p * slope).scatter_add(ctx.dim, target, -slope)
            in_logits = p if in_logits is None else in_logits + p
        return in_logits, *[None] * 6


def _is_batched(x: Tensor) -> bool:
    """Whether vmap, torch.func's or that of autograd's batched gradients, has x stand for many."""
    return _functorch.is_batchedtensor(x) or _functorch.is_legacy_batchedtensor(x)


def _is_transformed() -> bool:
    """Whether a compiler, a tracer or a transform of torch.func reads along."""
    return (
        torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()
    )


def are_learned(*numbers: float | Tensor | None) -> bool:
    """Whether one of them is a tensor that asks for its gradient."""
    for n in numbers:  # no generator: what a loss costs the host counts
        if isinstance(n, Tensor) and n.requires_grad:
            return True
    return False


def has_values(x: Tensor) -> bool:
    """Whether the host can look at `x` without waiting for a device, and nobody records what it does then."""
    return not _is_transformed() and x.is_cpu and _is_plain(x)


def _is_plain(x: Tensor) -> bool:
    """Whether `x` is no subclass of a tensor, and no mode of torch's dispatch looks on."""
    return (type(x) is Tensor or type(x) is nn.Parameter) and not torch._C._len_torch_dispatch_stack()


def _is_compiled_for_training() -> bool:
    """Whether a compiler reads along whose gradients have no further derivatives.

    A transform of torch.func inside may differentiate twice; what torch.export writes is differentiated later.
    """
    if not torch.compiler.is_compiling() or is_exporting():
        return False
    return not torch._C._are_functorch_transforms_active()


class _Phi(torch.autograd.Function):
    """φ(ℓ) for compilers, whose derivative they would else compute for every logit instead of every sample.

    Once differentiable: its slope is a constant to whoever differentiates again.
    """

    @staticmethod
    def forward(cross_entropy, phi, pair):
        return phi(cross_entropy)

    @staticmethod
    def setup_context(ctx, inputs, output):
        cross_entropy, _, ctx.pair = inputs
        ctx.save_for_backward(cross_entropy)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.pair(*ctx.saved_tensors, 1.0)[1], None, None


def class_loss(
    phi: Callable[[Tensor], Tensor],
    scale: float | Tensor,
    logits: Tensor,
    target: Tensor,
    *,
    pair: Callable[[Tensor, float | Tensor], tuple[Tensor, Tensor]] | None = None,
    of_log_p: Callable[[Tensor], Tensor] | None = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """s Σ_c t_c φ(−log softmax(logits)_c), with the arguments and semantics of ``F.cross_entropy``.

    Parameters
    ----------
    phi : callable
        Elementwise function of the cross entropy ℓ ∈ [0, ∞]. φ(0) = 0, finite everywhere, infinity included.
    scale : float, or a tensor without dimensions
        The factor s. Applied together with the mean's 1/N, which saves the step a pass over the batch.
    pair : callable, optional
        f φ and f φ′ of ℓ and a factor f (a number or a tensor) as two new tensors, without autograd: makes
        class indices faster.
    of_log_p : callable, optional
        x ↦ −s φ(−x) of the log-probabilities of all classes, −∞ included, in few operations of torch's: makes class
        indices faster where a GPU waits for the host to launch operations.
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
    check_reduction(reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing must be between 0 and 1, got {label_smoothing!r}")
    logits = at_least_float32(logits)
    class_dim = _class_dim(logits)
    if weight is not None:
        if weight.shape != (logits.shape[class_dim],):
            raise ValueError(
                f"weight must hold one number for each of the {logits.shape[class_dim]} classes, "
                f"got shape {tuple(weight.shape)}"
            )
        weight = weight.to(logits.dtype)

    if target.dtype == torch.uint8:  # whose comparison with a negative ignore_index would wrap
        target = target.long()
    if target.is_floating_point():
        if ignore_index >= 0:
            raise ValueError("ignore_index is for class indices: class probabilities leave no sample out")
        if target.shape != logits.shape:
            raise ValueError(
                f"class probabilities must have the shape of the logits, {tuple(logits.shape)}, "
                f"got {tuple(target.shape)}; class indices must be integers"
            )
        target = target.to(logits.dtype)
        if label_smoothing:
            target = target * (1 - label_smoothing) + label_smoothing / logits.shape[class_dim]
        loss = _sum_over_classes(phi, logits, target, weight, class_dim)
        # As in torch, probabilities are averaged over samples; the class weights do not enter the mean.
        return _reduce(loss, scale, loss.numel(), reduction)

    if of_log_p is not None and not label_smoothing and _is_bound_by_launches(logits):
        each = of_log_p(torch.log_softmax(logits, class_dim))
        return F.nll_loss(each, target, weight, ignore_index=ignore_index, reduction=reduction)

    if pair is not None and not label_smoothing and reduction != "none" and target.numel():
        if _is_differentiated_plainly(logits, weight, scale):
            return _summed(phi, pair, scale, logits, target, weight, ignore_index, reduction)
    counted, total = _counted(target, weight, ignore_index)
    denominator = total.sum(dtype=logits.dtype) if reduction == "mean" else 1
    cross_entropy = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")
    faster = pair is not None and _is_compiled_for_training()
    loss = (_Phi.apply(cross_entropy, phi, pair) if faster else phi(cross_entropy)) * total
    if label_smoothing:
        smooth = _sum_over_classes(phi, logits, 1 / logits.shape[class_dim], weight, class_dim)
        loss = (1 - label_smoothing) * loss + label_smoothing * smooth.masked_fill(~counted, 0.0)
    return _reduce(loss, scale, denominator, reduction)


def _is_bound_by_launches(logits: Tensor) -> bool:
    """Whether so few logits are on a GPU that the number of operations is what counts; compilers see to that."""
    return logits.is_cuda and logits.numel() <= FEW_LOGITS and not _is_transformed()


def _counted(target: Tensor, weight: Tensor | None, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Which samples count, and with which weight; without weights both are one tensor."""
    counted = target != ignore_index
    if weight is None:
        return counted, counted
    # A dimension more, as vmap cannot index with a sample's single label.
    return counted, weight[torch.where(counted, target, 0).long().unsqueeze(0)].squeeze(0) * counted


def _is_differentiated_plainly(logits: Tensor, *constants) -> bool:
    """Whether gradients are asked for, by autograd's reverse mode, and in the logits alone."""
    if not logits.requires_grad or not torch.is_grad_enabled() or are_learned(*constants):
        return False
    return forward_ad._current_level < 0 and not _is_transformed()


def _summed(phi, pair, scale, logits, target, weight, ignore_index, reduction):
    """The sum or mean over class indices by :class:`_Summed`; its caller has seen that nothing is transformed."""
    on_host = weight is None and target.is_cpu and _is_plain(target)
    if on_host and ignore_index < 0 <= int(target.min()):
        mask, n = None, target.numel()
    else:
        mask, total = _counted(target, weight, ignore_index)
        n = int(mask.count_nonzero()) if on_host else 0
    if n:
        mask = None if n == target.numel() else mask
        factor = scale / n if reduction == "mean" else scale
    else:
        factor = scale / total.sum(dtype=logits.dtype) if reduction == "mean" else scale
        factor = factor if weight is None else total * factor
    return _Summed.apply(logits, target, mask, factor, phi, pair, ignore_index)[0]


def _class_dim(logits: Tensor) -> int:
    return 0 if logits.dim() == 1 else 1


def _sum_over_classes(phi, logits: Tensor, target: Tensor | float, weight: Tensor | None, dim: int) -> Tensor:
    """Σ_c w_c t_c φ(−log p_c), t the same for all classes where it is a number; a missing w is all ones."""
    terms = phi(-F.log_softmax(logits, dim)) * target
    if weight is not None:
        terms = terms * weight.view([-1 if d == dim else 1 for d in range(terms.dim())])
    return terms.sum(dim)


def _reduce(loss: Tensor, scale: float | Tensor, denominator: Tensor | int, reduction: str) -> Tensor:
    if reduction == "none":
        return loss * scale
    if reduction == "mean" and loss.numel() == 0:
        return loss.sum() / 0  # NaN, as torch's
    # The mean divides before it sums: a sum of large but finite terms may overflow where the mean does not.
    return (loss * (scale / denominator)).sum() if reduction == "mean" else (loss * scale).sum()


class ClassLoss(nn.Module):
    """What the module forms share: the options of ``nn.CrossEntropyLoss``; `weight` is a buffer."""

    def __init__(
        self,
        *,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.label_smoothing = label_smoothing

    @property
    def logit_scale(self) -> float:
        """c such that softmax(c z) are the class probabilities that the loss is minimal at (docs/losses.md §7)."""
        return 1.0

    def options(self) -> dict:
        """The keyword arguments that the functional forms share."""
        return {
            "weight": self.weight,
            "ignore_index": self.ignore_index,
            "reduction": self.reduction,
            "label_smoothing": self.label_smoothing,
        }

    def extra_repr(self) -> str:
        return f"label_smoothing={self.label_smoothing:g}, reduction={self.reduction!r}"
