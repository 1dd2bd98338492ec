"""Rooted losses of a linear layer's output that never hold all of its logits: for a language model's head.

The plain route, ``root_loss(hidden @ weight.T + bias, target)``, holds two matrices of tokens × vocabulary or three;
these keep two of a chunk of tokens × vocabulary (:mod:`losses.chunked`).
"""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from .base import as_float, check_options, check_real
from .chunked import LinearLoss, Settings
from .rooted import _check, _rlo, _root, exact_range

# Rows of hidden in a chunk, unless told. At a quarter as many as hidden has features, a chunk's two matrices of
# logits are half as large as the weight; outside these bounds matrix products are slow or the chunk buys nothing.
CHUNK_BOUNDS = (128, 1024)


def linear_root_loss(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    k: float = 3.0,
    m: float = 3.0,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    chunk_size: int | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """:func:`losses.root_loss` of ``hidden @ weight.T + bias``, a chunk of tokens at a time.

    Equal to the plain route up to rounding, in value and gradients. A `weight`, `bias` or `hidden` that asks
    for no gradient (the frozen head of LoRA) costs none. Under autocast the matrix products are autocast's.
    Half precision is summed over chunks in float32.

    >>> hidden, weight = torch.ones(3, 4, requires_grad=True), torch.zeros(10, 4)
    >>> linear_root_loss(hidden, weight, torch.tensor([5, 0, -100]), k=1, m=1)
    tensor(0.9000, grad_fn=<LinearLossBackward>)

    Parameters
    ----------
    hidden : Tensor, shape (…, D)
        Last hidden states of the tokens.
    weight : Tensor, shape (V, D)
        The head's weight, one row a word.
    target : Tensor of integers, shape (…)
        The right word of each token, 0 to V − 1, or `ignore_index`.
    k, m : float > 0
        Root and scale, see :func:`losses.root_loss`.
    bias : Tensor, shape (V,), optional
    ignore_index : int
        Tokens with this target count neither in the sum nor in the mean.
    reduction : {"mean", "sum", "none"}
        With "none" the logits of a chunk are computed a second time in the backward pass.
    label_smoothing : float in [0, 1]
        As in ``torch.nn.functional.cross_entropy``.
    chunk_size : int > 0, optional
        Tokens in a chunk, which holds ``chunk_size × V`` logits. Default: D/4, but 128 to 1024.
    logit_scale : float
        A factor of the logits (Cohere's ``logit_scale``, Granite's ``1 / logits_scaling``).
    softcap : float > 0, optional
        c in c · tanh(logits / c), after the factor (Gemma's ``final_logit_softcapping``).

    Returns
    -------
    Tensor
        A scalar, or with ``reduction="none"`` the shape of `target`. float32 for half precision.

    Raises
    ------
    ValueError
        For shapes, types or devices that do not fit, an option out of range, a k or m that asks for its
        gradient, and, on the CPU, a target that is no word. (On CUDA finding one would make the host wait; the
        kernel's own assertion reports it.)
    RuntimeError
        In a backward pass with ``create_graph=True``: the gradients made here have none themselves. In
        ``torch.export``, which does not see them.

    References
    ----------
    Wijmans et al.: Cut Your Losses in Large-Vocabulary Language Models, ICLR 2025, arXiv 2411.09009; Hsu et
    al.: Liger Kernel, arXiv 2410.10989: the same idea for cross entropy, as kernels for CUDA.
    """
    k, m = _numbers(k, m, "linear_root_loss")
    return _linear_loss(
        "linear_root_loss", lambda dtype: lambda ell: _root(ell, k, m), hidden, weight, target, bias,
        ignore_index, reduction, label_smoothing, chunk_size, logit_scale, softcap,
    )  # fmt: skip


def linear_rlo_loss(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    k: float = 3.0,
    m: float = 3.0,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    chunk_size: int | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """:func:`losses.rlo_loss` of ``hidden @ weight.T + bias``; all else is as in :func:`linear_root_loss`."""
    k, m = _numbers(k, m, "linear_rlo_loss")

    def phi_for(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        start = exact_range(dtype, k, m)
        return lambda ell: _rlo(ell, k, m, start)

    return _linear_loss(
        "linear_rlo_loss", phi_for, hidden, weight, target, bias,
        ignore_index, reduction, label_smoothing, chunk_size, logit_scale, softcap,
    )  # fmt: skip


def _linear_loss(
    name, phi_for, hidden, weight, target, bias,
    ignore_index, reduction, label_smoothing, chunk_size, logit_scale, softcap,
):  # fmt: skip
    if getattr(torch.compiler, "is_exporting", lambda: False)():  # which torch 2.6 does not have
        raise RuntimeError(
            f"{name} cannot be exported, it would lose its gradient: export the plain route, "
            f"{name.removeprefix('linear_')}(hidden @ weight.T, target)"
        )
    _check_options(reduction, label_smoothing, chunk_size, logit_scale, softcap)
    _check_tensors(hidden, weight, target, bias, ignore_index)
    low, high = CHUNK_BOUNDS
    chunk_size = chunk_size or min(max(hidden.shape[-1] // 4, low), high)
    device, dtype = hidden.device.type, hidden.dtype
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    settings = Settings(
        name, phi_for(dtype), dtype, ignore_index, label_smoothing, chunk_size, logit_scale, softcap
    )
    tokens, labels = hidden.reshape(-1, hidden.shape[-1]), target.reshape(-1).long()
    factor = None
    if reduction != "none":
        factor = torch.ones((), dtype=torch.promote_types(dtype, torch.float32), device=hidden.device)
    if reduction == "mean":  # over no token at all it is 0 · ∞ = NaN, as in torch
        factor = factor / (labels != ignore_index).sum()
    loss = LinearLoss.apply(tokens, weight, bias, labels, factor, torch.is_grad_enabled(), settings)
    return loss.reshape(target.shape) if reduction == "none" else loss


def _numbers(k, m, name: str) -> tuple:
    """k and m, checked; the chunks give neither a gradient."""
    if torch.is_grad_enabled() and any(isinstance(n, Tensor) and n.requires_grad for n in (k, m)):
        plain = name.removeprefix("linear_")
        raise ValueError(
            f"{name} gives k and m no gradient: pass numbers, or learn them on the plain route, "
            f"{plain}(hidden @ weight.T, target, k, m)"
        )
    return _check(k, m)


def _check_options(reduction, label_smoothing, chunk_size, logit_scale, softcap) -> None:
    check_options(reduction, label_smoothing)
    if chunk_size is not None and (type(chunk_size) is not int or chunk_size <= 0):
        raise ValueError(f"chunk_size must be an integer > 0 (tokens at a time) or None, got {chunk_size!r}")
    check_real("logit_scale", logit_scale, -math.inf)
    if softcap is not None:
        check_real("softcap", softcap, 0, inclusive=False)


def _check_tensors(hidden, weight, target, bias, ignore_index) -> None:
    if hasattr(weight, "full_tensor"):
        raise ValueError("the weight is a DTensor, which chunks cannot read: pass weight.full_tensor()")
    if weight.numel() == 0:
        raise ValueError(
            f"the weight is empty, of shape {tuple(weight.shape)}: gather a sharded one (ZeRO-3, FSDP) first, as "
            "the wrapped model's forward does, or deepspeed.zero.GatheredParameters"
        )
    if not hidden.is_floating_point() or not weight.is_floating_point():
        raise ValueError(
            f"hidden and weight must be floating point, got {hidden.dtype} and {weight.dtype} "
            "(hidden states, not token ids)"
        )
    if hidden.dim() < 1 or weight.dim() != 2 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            "hidden (…, D) and weight (V, D) must end in the same D, "
            f"got {tuple(hidden.shape)} and {tuple(weight.shape)}"
        )
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise ValueError(f"target must hold word indices (integers), got {target.dtype}")
    if target.shape != hidden.shape[:-1]:
        raise ValueError(
            f"target must have the shape of hidden without its last dimension, {tuple(hidden.shape[:-1])}, "
            f"got {tuple(target.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias must hold one number for each of the {weight.shape[0]} words, got {tuple(bias.shape)}"
        )
    kinds = {t.dtype for t in (hidden, weight, bias) if t is not None}
    if len(kinds) > 1 and not torch.is_autocast_enabled(hidden.device.type):
        raise ValueError(
            f"hidden, weight and bias must have one dtype outside autocast, got {', '.join(map(str, kinds))}"
        )
    if target.device.type == "cpu" and target.numel():
        wrong = target[(target != ignore_index) & ((target < 0) | (target >= weight.shape[0]))]
        if wrong.numel():
            raise ValueError(
                f"target {int(wrong[0])} is no word: it must be 0 to {weight.shape[0] - 1}, "
                f"or ignore_index ({ignore_index})"
            )


class _LinearRootedLoss(nn.Module):
    function: ClassVar[Callable]

    def __init__(
        self,
        k: float = 3.0,
        m: float = 3.0,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        chunk_size: int | None = None,
        logit_scale: float = 1.0,
        softcap: float | None = None,
    ) -> None:
        super().__init__()
        _check(k, m)
        _check_options(reduction, label_smoothing, chunk_size, logit_scale, softcap)
        self.k, self.m = k, m
        self.options = {
            "ignore_index": ignore_index, "reduction": reduction, "label_smoothing": label_smoothing,
            "chunk_size": chunk_size, "logit_scale": logit_scale, "softcap": softcap,
        }  # fmt: skip

    def forward(self, hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None) -> Tensor:
        return type(self).function(hidden, weight, target, self.k, self.m, bias=bias, **self.options)

    def extra_repr(self) -> str:
        options = [f"{name}={value!r}" for name, value in self.options.items()]
        return ", ".join([f"k={as_float(self.k):g}", f"m={as_float(self.m):g}", *options])


class LinearRootLoss(_LinearRootedLoss):
    """:func:`linear_root_loss` as a module: ``loss(hidden, head.weight, target, head.bias)``."""

    function = staticmethod(linear_root_loss)


class LinearRLOLoss(_LinearRootedLoss):
    """:func:`linear_rlo_loss` as a module: ``loss(hidden, head.weight, target, head.bias)``."""

    function = staticmethod(linear_rlo_loss)
