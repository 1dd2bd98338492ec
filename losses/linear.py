"""Rooted losses of a linear layer's output that never hold all of its logits: for a language model's head.

The plain route, ``root_loss(hidden @ weight.T + bias, target)``, keeps three matrices of tokens × vocabulary;
these keep one of a chunk of tokens × vocabulary (:mod:`losses.chunked`).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .chunked import check_options, chunked_loss
from .rooted import _check, exact_range, rlo_pair, root_pair


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
) -> Tensor:
    """:func:`losses.root_loss` of ``hidden @ weight.T + bias``, a chunk of tokens at a time.

    Equal to the plain route up to rounding, in value and gradients. A `weight`, `bias` or `hidden` that asks
    for no gradient (the frozen head of LoRA) costs none. Under autocast the matrix products are autocast's.
    Half precision is summed over chunks in float32, and on a CPU multiplied in it too.

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
        Tokens in a chunk, which holds ``chunk_size × V`` logits. Default: D/2, but 128 to 1024.

    Returns
    -------
    Tensor
        A scalar, or with ``reduction="none"`` the shape of `target`. float32 for half precision.

    Raises
    ------
    ValueError
        For shapes, types or devices that do not fit, an option out of range, and, on the CPU, a target that
        is no word. (On CUDA finding one would make the host wait; the kernel's own assertion reports it.)
    RuntimeError
        In a backward pass with ``create_graph=True``: the gradients made here have none themselves.

    References
    ----------
    Wijmans et al.: Cut Your Losses in Large-Vocabulary Language Models, ICLR 2025, arXiv 2411.09009; Hsu et
    al.: Liger Kernel, arXiv 2410.10989: the same idea for cross entropy, as kernels for CUDA.
    """
    _check(k, m)

    return chunked_loss(
        "linear_root_loss", lambda dtype: lambda ell: root_pair(ell, k), m, hidden, weight, target, bias,
        ignore_index, reduction, label_smoothing, chunk_size,
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
) -> Tensor:
    """:func:`losses.rlo_loss` of ``hidden @ weight.T + bias``; all else is as in :func:`linear_root_loss`."""
    _check(k, m)

    def pair(dtype: torch.dtype) -> Callable:
        start = exact_range(dtype, k, m)

        return lambda ell: rlo_pair(ell, k, start)

    return chunked_loss(
        "linear_rlo_loss", pair, m, hidden, weight, target, bias, ignore_index, reduction, label_smoothing,
        chunk_size,
    )  # fmt: skip


class _LinearRootedLoss(nn.Module):
    def __init__(
        self,
        k: float = 3.0,
        m: float = 3.0,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        _check(k, m)
        check_options(reduction, label_smoothing, chunk_size)
        self.k, self.m = k, m
        self.ignore_index, self.reduction = ignore_index, reduction
        self.label_smoothing, self.chunk_size = label_smoothing, chunk_size

    def options(self) -> dict:
        return {
            "ignore_index": self.ignore_index, "reduction": self.reduction,
            "label_smoothing": self.label_smoothing, "chunk_size": self.chunk_size,
        }  # fmt: skip

    def extra_repr(self) -> str:
        options = f"label_smoothing={self.label_smoothing:g}, reduction={self.reduction!r}"
        return f"k={self.k:g}, m={self.m:g}, {options}"


class LinearRootLoss(_LinearRootedLoss):
    """:func:`linear_root_loss` as a module: ``loss(hidden, head.weight, target, head.bias)``."""

    def forward(self, hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None) -> Tensor:
        return linear_root_loss(hidden, weight, target, self.k, self.m, bias=bias, **self.options())


class LinearRLOLoss(_LinearRootedLoss):
    """:func:`linear_rlo_loss` as a module: ``loss(hidden, head.weight, target, head.bias)``."""

    def forward(self, hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None) -> Tensor:
        return linear_rlo_loss(hidden, weight, target, self.k, self.m, bias=bias, **self.options())
