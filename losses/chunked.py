"""A loss of a linear layer's output, a chunk of its rows at a time: what :mod:`losses.linear` is made of.

A chunk's logits become the loss, then their own gradient, then parts of the gradients of `hidden`, `weight`
and `bias`, and are dropped. With ℓ the cross entropy of a token, the gradient of a loss φ in its logits is
φ′(ℓ) (softmax(z) − e_y): one number a token more than cross entropy needs. Gradients are made in the forward
pass, while the chunk is at hand; the backward pass only scales them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import at_least_float32, check_reduction

# Rows of hidden in a chunk, unless told. At half as many as hidden has features, a chunk's logits are half as
# large as the weight; outside these bounds matrix products are slow or the chunk buys nothing.
CHUNK_BOUNDS = (128, 1024)
# Words at a time of the half-precision parts of the weight's gradient, which are summed in float32.
WORDS_AT_A_TIME = 8192


@dataclass(frozen=True)
class _Settings:
    """What a chunk needs beside its tensors; `phi` gives value and slope of the loss of a cross entropy."""

    name: str
    phi: Callable[[Tensor], tuple[Tensor, Tensor]]
    dtype: torch.dtype
    ignore_index: int
    label_smoothing: float
    chunk_size: int


def chunked_loss(
    name, pair, scale, hidden, weight, target, bias, ignore_index, reduction, label_smoothing, chunk_size
):
    check_options(reduction, label_smoothing, chunk_size)
    _check_tensors(hidden, weight, target, bias, ignore_index)
    low, high = CHUNK_BOUNDS
    chunk_size = chunk_size or min(max(hidden.shape[-1] // 2, low), high)
    dtype = _plain_dtype(hidden)
    settings = _Settings(
        name, pair(dtype), _product_dtype(dtype, hidden.device), ignore_index, label_smoothing, chunk_size
    )
    tokens, labels = hidden.reshape(-1, hidden.shape[-1]), target.reshape(-1).long()
    if reduction == "none":
        loss = _PerToken.apply(tokens, weight, bias, labels, settings) * scale
        return loss.reshape(target.shape)
    # Where a mean is over no token at all, it is 0/0 = nan, as in torch.
    counted = (labels != ignore_index).sum(dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    factor = scale / counted if reduction == "mean" else scale
    return _Summed.apply(tokens, weight, bias, labels, factor, torch.is_grad_enabled(), settings)


def _plain_dtype(hidden: Tensor) -> torch.dtype:
    """The dtype that the logits of the plain route would have."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def _product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of the matrix products: on a CPU never half, which many multiply 10 to 200 times slower."""
    return torch.float32 if device.type == "cpu" and dtype in (torch.float16, torch.bfloat16) else dtype


def check_options(reduction, label_smoothing, chunk_size) -> None:
    check_reduction(reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing must be between 0 and 1, got {label_smoothing!r}")
    if chunk_size is None:
        return
    if not isinstance(chunk_size, int) or isinstance(chunk_size, bool) or chunk_size <= 0:
        raise ValueError(f"chunk_size must be an integer > 0 (tokens at a time) or None, got {chunk_size!r}")


def _check_tensors(hidden, weight, target, bias, ignore_index) -> None:
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
    given = [t for t in (hidden, weight, target, bias) if t is not None]
    if len({t.device for t in given}) > 1:
        raise ValueError(f"all tensors must be on one device, got {', '.join(str(t.device) for t in given)}")
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


def _over_chunks(tokens, weight, bias, labels, settings: _Settings, wanted, factors=None):
    """Losses of all tokens (N,), and the gradients of Σ_i factors_i loss_i that `wanted` (three bools) names.

    Gradients come in float32 or better. No factors are ones.
    """
    precise = torch.float64 if settings.dtype == torch.float64 else torch.float32
    losses = tokens.new_zeros(len(tokens), dtype=precise)
    grads = [
        x.new_zeros(x.shape, dtype=precise) if want else None
        for x, want in zip((tokens, weight, bias), wanted, strict=True)
    ]
    # Casts to the dtype of the products happen here, so that autocast has nothing left to do.
    with torch.no_grad(), torch.autocast(tokens.device.type, enabled=False):
        weight = weight.to(settings.dtype)
        bias = None if bias is None else bias.to(settings.dtype)
        for start in range(0, len(tokens), settings.chunk_size):
            rows = slice(start, start + settings.chunk_size)
            hidden = tokens[rows].to(settings.dtype)
            logits = at_least_float32(F.linear(hidden, weight, bias))
            factor = None if factors is None else factors[rows].to(precise)
            losses[rows] = _chunk(logits, labels[rows], factor, settings, any(wanted))
            if not any(wanted):
                continue
            slopes = logits.to(settings.dtype)
            if wanted[0]:
                grads[0][rows] = slopes @ weight
            if wanted[1]:
                _add_product(grads[1], slopes, hidden)
            if wanted[2]:
                grads[2] += logits.sum(0)
            del logits, slopes  # before the next chunk's are made
    return losses, grads


def _chunk(logits, labels, factor, settings: _Settings, want_slopes: bool) -> Tensor:
    """Losses of a chunk's tokens (n,). With `want_slopes`, `logits` (n, V) turn into the gradient in them."""
    counted = (labels != settings.ignore_index)[:, None]
    labels = torch.where(counted, labels[:, None], 0)
    logits.sub_(logits.amax(1, keepdim=True))
    smoothing = settings.label_smoothing
    if smoothing:
        ell = logits.exp().sum(1, keepdim=True).log() - logits
        value, slope = settings.phi(ell)
        share = smoothing / logits.shape[1]
        loss = (1 - smoothing) * value.gather(1, labels) + share * value.sum(1, keepdim=True)
    else:
        at_label = logits.gather(1, labels)
        logits.exp_()
        total = logits.sum(1, keepdim=True)
        loss, slope = settings.phi(total.log() - at_label)
    if want_slopes:
        factor = counted if factor is None else counted * factor[:, None]
        if smoothing:
            right = slope.gather(1, labels) * (1 - smoothing)
            slope.mul_(share).scatter_add_(1, labels, right).mul_(factor)
            torch.exp(-ell, out=logits)
            logits.mul_(slope.sum(1, keepdim=True)).sub_(slope)
        else:
            slope = slope * factor
            logits.mul_(slope / total).scatter_add_(1, labels, -slope)
    return torch.where(counted, loss, 0.0).squeeze(1)


def _add_product(total: Tensor, slopes: Tensor, hidden: Tensor) -> None:
    """``total += slopes.T @ hidden``, the sum in the dtype of `total`."""
    if slopes.dtype == total.dtype:
        total.addmm_(slopes.T, hidden)
        return
    for start in range(0, len(total), WORDS_AT_A_TIME):
        words = slice(start, start + WORDS_AT_A_TIME)
        total[words] += slopes[:, words].T @ hidden


def _refuse_create_graph(settings: _Settings) -> None:
    if torch.is_grad_enabled():
        plain = settings.name.removeprefix("linear_")
        raise RuntimeError(
            f"{settings.name} has no second derivatives: create_graph=True needs the plain route, "
            f"{plain}(hidden @ weight.T, target)"
        )


def _as_inputs(grads, inputs, factor=None):
    """Gradients scaled in place and in the dtypes of their inputs."""
    if factor is not None:
        for grad in filter(lambda g: g is not None, grads):
            grad.mul_(factor)
    return [None if g is None else g.to(x.dtype) for g, x in zip(grads, inputs, strict=True)]


class _Summed(torch.autograd.Function):
    """factor × Σ_i loss_i. Its gradients are made in the forward pass and given away in the backward pass."""

    @staticmethod
    def forward(ctx, tokens, weight, bias, labels, factor, grad_enabled, settings):
        wanted = [grad_enabled and need for need in ctx.needs_input_grad[:3]]
        losses, ctx.grads = _over_chunks(tokens, weight, bias, labels, settings, wanted)
        ctx.save_for_backward(tokens, weight, bias, labels)
        ctx.factor, ctx.settings = factor, settings
        return (losses * factor).sum()  # not sum × factor: a sum may overflow where a mean does not

    @staticmethod
    def backward(ctx, grad_output):
        _refuse_create_graph(ctx.settings)
        tokens, weight, bias, labels = ctx.saved_tensors
        grads, ctx.grads = ctx.grads, None
        if grads is None:  # a second time (retain_graph): the first call gave its tensors away
            grads = _over_chunks(tokens, weight, bias, labels, ctx.settings, ctx.needs_input_grad[:3])[1]
        return *_as_inputs(grads, (tokens, weight, bias), grad_output * ctx.factor), None, None, None, None


class _PerToken(torch.autograd.Function):
    """loss_i of each token. What weighs them is known only in the backward pass, which does it all again."""

    @staticmethod
    def forward(ctx, tokens, weight, bias, labels, settings):
        ctx.save_for_backward(tokens, weight, bias, labels)
        ctx.settings = settings
        return _over_chunks(tokens, weight, bias, labels, settings, (False, False, False))[0]

    @staticmethod
    def backward(ctx, grad_output):
        _refuse_create_graph(ctx.settings)
        *inputs, labels = ctx.saved_tensors
        grads = _over_chunks(*inputs, labels, ctx.settings, ctx.needs_input_grad[:3], grad_output)[1]
        return *_as_inputs(grads, inputs), None, None
