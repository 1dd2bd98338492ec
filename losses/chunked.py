"""A loss of a linear layer's output, a chunk of its rows at a time: what :mod:`losses.linear` is made of.

A chunk's logits become the loss, then their own gradient, then parts of the gradients of `hidden`, `weight`
and `bias`, and are dropped. With ℓ the cross entropy of a token, the gradient of a loss φ in its logits is
φ′(ℓ) (softmax(z) − e_y): one number a token more than cross entropy needs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import at_least_float32, finite

# Whether a product of half-precision matrices can be added to a float32 one (torch 2.8, on CUDA).
ADDS_HALF_PRODUCTS = "dtype_out" in torch.ops.aten.addmm.overloads()


@dataclass(frozen=True)
class Settings:
    """What a chunk needs beside its tensors; `dtype` is that of the matrix products."""

    name: str
    phi: Callable[[Tensor], Tensor]
    dtype: torch.dtype
    ignore_index: int
    label_smoothing: float
    chunk_size: int
    logit_scale: float
    softcap: float | None


class LinearLoss(torch.autograd.Function):
    """factor × Σ_i loss_i, or where `factor` is None the loss_i of each token.

    The gradients of a sum are made in the forward pass, while a chunk's logits are at hand, and the backward
    pass scales them. What weighs single tokens is known only in the backward pass, which does it all again.
    """

    @staticmethod
    def forward(ctx, tokens, weight, bias, labels, factor, grad_enabled, settings):
        early = grad_enabled and factor is not None
        wanted = [early and need for need in ctx.needs_input_grad[:3]]
        losses, grads = _over_chunks(tokens, weight, bias, labels, None, wanted, settings)
        ctx.save_for_backward(tokens, weight, bias, labels)
        ctx.grads, ctx.factor, ctx.settings = grads if early else None, factor, settings
        return losses if factor is None else (losses * factor).sum()

    @staticmethod
    def backward(ctx, grad_output):
        if torch.is_grad_enabled():
            name = ctx.settings.name
            raise RuntimeError(
                f"{name} has no second derivatives: create_graph=True needs the plain route, "
                f"{name.removeprefix('linear_')}(hidden @ weight.T, target)"
            )
        tokens, weight, bias, labels = ctx.saved_tensors
        by_token = ctx.factor is None
        grads, ctx.grads = ctx.grads, None
        if grads is None:  # by token, or in the second pass of a retained graph
            factors = grad_output if by_token else None
            wanted = ctx.needs_input_grad[:3]
            grads = _over_chunks(tokens, weight, bias, labels, factors, wanted, ctx.settings)[1]
        if not by_token:
            grads = [None if grad is None else grad.mul_(grad_output * ctx.factor) for grad in grads]
        inputs = (tokens, weight, bias)
        grads = [None if grad is None else grad.to(x.dtype) for grad, x in zip(grads, inputs, strict=True)]
        return *grads, None, None, None, None


@torch.no_grad()
def _over_chunks(tokens, weight, bias, labels, factors, wanted, settings: Settings):
    """Losses of all tokens (N,), and the gradients of Σ_i factors_i loss_i that `wanted` (three bools) names.

    Both come in float32 or better. No factors are ones.
    """
    precise = torch.promote_types(settings.dtype, torch.float32)
    losses = tokens.new_zeros(len(tokens), dtype=precise)
    grads = [
        x.new_zeros(x.shape, dtype=precise) if want else None
        for x, want in zip((tokens, weight, bias), wanted, strict=True)
    ]
    # Casts to the dtype of the products happen here, so that autocast has nothing left to do.
    with torch.autocast(tokens.device.type, enabled=False):
        weight = weight.to(settings.dtype)
        bias = None if bias is None else bias.to(settings.dtype)
        for rows in _slices(len(tokens), settings.chunk_size):
            hidden = tokens[rows].to(settings.dtype)
            logits, capped = at_least_float32(F.linear(hidden, weight, bias)), None
            if settings.logit_scale != 1:
                logits *= settings.logit_scale
            if settings.softcap is not None:
                capped = logits.div_(settings.softcap).tanh_()
                logits = capped * settings.softcap
            log_p = F.log_softmax(logits, 1)
            del logits
            losses[rows], slopes = _loss_and_slopes(log_p, labels[rows], settings, any(wanted))
            if slopes is None:
                continue
            if factors is not None:
                slopes *= factors[rows, None]
            if capped is not None:
                slopes *= 1 - capped.square_()  # the derivative of tanh
            if settings.logit_scale != 1:
                slopes *= settings.logit_scale
            if wanted[2]:
                grads[2] += slopes.sum(0)
            rounded = slopes.to(settings.dtype)
            if wanted[0]:
                grads[0][rows] = rounded @ weight
            # Rounding each chunk's product to half before it is added would bias the sum.
            if wanted[1] and ADDS_HALF_PRODUCTS and hidden.is_cuda and settings.dtype != precise:
                torch.addmm(grads[1], rounded.T, hidden, out_dtype=precise, out=grads[1])
            elif wanted[1]:
                grads[1].addmm_(slopes.T, hidden.to(precise))
            del log_p, capped, slopes, rounded  # before the next chunk's are made
    return losses, grads


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, length, step)]


def _loss_and_slopes(log_p, labels, settings: Settings, want_slopes: bool):
    """Losses (n,) of a chunk, and `log_p` (n, V) turned into their gradients in the logits, if wanted."""
    counted = (labels != settings.ignore_index)[:, None]
    labels = torch.where(counted, labels[:, None], 0)
    smoothing, share = settings.label_smoothing, settings.label_smoothing / log_p.shape[1]
    loss, of_label = _value_and_slope(settings.phi, -log_p.gather(1, labels))
    loss, of_label = loss * (1 - smoothing), of_label * (1 - smoothing)
    total = of_label
    if smoothing:
        values, of_words = _value_and_slope(settings.phi, -log_p)
        # Each is made small before their sum is formed, which may overflow where the mean over words does not.
        loss = loss + values.mul_(share).sum(1, keepdim=True)
        total = of_label + of_words.mul_(share).sum(1, keepdim=True)
    loss = torch.where(counted, loss, 0.0)[:, 0]
    if not want_slopes:
        return loss, None
    # Σ_c s_c (p − e_c), s_c the slope of class c times its share of the target.
    slopes = log_p.exp_().mul_(total).scatter_add_(1, labels, -of_label)
    if smoothing:
        slopes -= of_words
    return loss, slopes.mul_(counted)


def _value_and_slope(phi, ell: Tensor) -> tuple[Tensor, Tensor]:
    """φ and φ′, elementwise."""
    with torch.enable_grad():
        ell = ell.detach().requires_grad_()
        value = phi(finite(ell))
        (slope,) = torch.autograd.grad(value, ell, torch.ones_like(value))
    return value.detach(), slope
