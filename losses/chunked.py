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

from .base import at_least_float32

# Words at a time of the half-precision parts of the weight's gradient, which are summed in float32.
WORDS_AT_A_TIME = 8192
# Words at a time of a half-precision weight whose gradient is summed in float32.
BLOCK = 512


@dataclass(frozen=True)
class Settings:
    """What a chunk needs beside its tensors; `phi` gives value and slope of the loss of a cross entropy."""

    name: str
    phi: Callable[[Tensor], tuple[Tensor, Tensor]]
    dtype: torch.dtype
    ignore_index: int
    label_smoothing: float
    chunk_size: int

    @property
    def precise(self) -> torch.dtype:
        """What is computed and summed in."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32


def _over_chunks(tokens, weight, bias, labels, settings: Settings, wanted, factors=None):
    """Losses of all tokens (N,), and the gradients of Σ_i factors_i loss_i that `wanted` (three bools) names.

    Gradients come in float32 or better. No factors are ones.
    """
    precise = settings.precise
    losses = tokens.new_zeros(len(tokens), dtype=precise)
    grads = [
        x.new_zeros(x.shape, dtype=precise) if want else None
        for x, want in zip((tokens, weight, bias), wanted, strict=True)
    ]
    # Casts to the dtype of the products happen here, so that autocast has nothing left to do.
    with torch.no_grad(), torch.autocast(tokens.device.type, enabled=False):
        weight = weight.to(settings.dtype)
        bias = None if bias is None else bias.to(settings.dtype)
        for rows in _slices(len(tokens), settings.chunk_size):
            hidden = tokens[rows].to(settings.dtype)
            logits = at_least_float32(F.linear(hidden, weight, bias))
            factor = None if factors is None else factors[rows].to(precise)
            losses[rows] = _chunk(logits, labels[rows], factor, settings, any(wanted))[0]
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


def _chunk(logits, labels, factor, settings: Settings, want_slopes: bool) -> tuple[Tensor, tuple]:
    """Losses of a chunk's tokens (n,), and what their gradient needs of each token, (n, 1).

    That is: the largest logit, the logarithm of Σ e^(z − it), the sum of the slopes φ′ and the label's share in
    it. With `want_slopes`, `logits` (n, V) turn into the gradient in them.
    """
    counted = (labels != settings.ignore_index)[:, None]
    labels = torch.where(counted, labels[:, None], 0)
    largest = logits.amax(1, keepdim=True)
    logits.sub_(largest)
    smoothing = settings.label_smoothing
    if smoothing:
        log_total = logits.exp().sum(1, keepdim=True).log()
        ell = log_total - logits
        value, slope = settings.phi(ell)
        share = smoothing / logits.shape[1]
        # Each is made small before their sum is formed, which may overflow where the mean over words does not.
        loss = (1 - smoothing) * value.gather(1, labels) + value.mul_(share).sum(1, keepdim=True)
        of_label = slope.gather(1, labels) * (1 - smoothing)
        slopes = of_label + slope.mul_(share).sum(1, keepdim=True)
    else:
        at_label = logits.gather(1, labels)
        logits.exp_()
        total = logits.sum(1, keepdim=True)
        log_total = total.log()
        loss, slopes = settings.phi(log_total - at_label)
        of_label = slopes
    if want_slopes:
        factor = counted if factor is None else counted * factor[:, None]
        if smoothing:
            slope.scatter_add_(1, labels, of_label).mul_(factor)
            torch.exp(-ell, out=logits)
            logits.mul_(slopes * factor).sub_(slope)
        else:
            slope = slopes * factor
            logits.mul_(slope / total).scatter_add_(1, labels, -slope)
    return torch.where(counted, loss, 0.0).squeeze(1), (largest, log_total, slopes, of_label)


def _add_product(total: Tensor, slopes: Tensor, hidden: Tensor) -> None:
    """``total += slopes.T @ hidden``, the sum in the dtype of `total`."""
    if slopes.dtype == total.dtype:
        total.addmm_(slopes.T, hidden)
        return
    for start in range(0, len(total), WORDS_AT_A_TIME):
        words = slice(start, start + WORDS_AT_A_TIME)
        total[words] += slopes[:, words].T @ hidden


def _refuse_create_graph(settings: Settings) -> None:
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


class Summed(torch.autograd.Function):
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


class PerToken(torch.autograd.Function):
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


class ByWords(torch.autograd.Function):
    """loss_i of each token, for a half-precision weight whose float32 gradient is never held as a whole.

    The forward pass keeps a few numbers a token. The backward pass takes a block of words after the other:
    from all tokens' logits of these words it has their whole gradient, and rounds it.
    """

    @staticmethod
    def forward(ctx, tokens, weight, bias, labels, settings):
        losses, *known = tokens.new_empty(5, len(tokens), 1, dtype=settings.precise)
        with torch.autocast(tokens.device.type, enabled=False):
            for rows in _slices(len(tokens), settings.chunk_size):
                hidden = tokens[rows].to(settings.dtype)
                logits = hidden.new_empty(len(hidden), len(weight), dtype=settings.precise)
                for words in _slices(len(weight), BLOCK):
                    logits[:, words] = F.linear(hidden, *_block(weight, bias, words, settings))
                each, parts = _chunk(logits, labels[rows], None, settings, False)
                for whole, part in zip((losses, *known), (each[:, None], *parts), strict=True):
                    whole[rows] = part
                del logits  # before the next chunk's are made
        ctx.save_for_backward(tokens, weight, bias, labels, *known)
        ctx.settings = settings
        return losses.squeeze(1)

    @staticmethod
    def backward(ctx, grad_output):
        _refuse_create_graph(ctx.settings)
        tokens, weight, bias, labels, *known = ctx.saved_tensors
        settings, wanted = ctx.settings, ctx.needs_input_grad[:3]
        of_tokens = torch.zeros_like(tokens, dtype=settings.precise) if wanted[0] else None
        of_weight, of_bias = (
            torch.zeros_like(x) if want else None for x, want in ((weight, wanted[1]), (bias, wanted[2]))
        )
        # A quarter of a chunk's logits at a time: mostly all tokens, whose product is the whole gradient.
        step = settings.chunk_size * max(1, len(weight) // (4 * BLOCK))
        factor = (grad_output * (labels != settings.ignore_index))[:, None]
        with torch.autocast(tokens.device.type, enabled=False):
            for words in _slices(len(weight), BLOCK):
                block, shift = _block(weight, bias, words, settings)
                total, total_of_bias = None, factor.new_zeros(len(block))
                for rows in _slices(len(tokens), step):
                    hidden = tokens[rows].to(settings.dtype)
                    logits = at_least_float32(F.linear(hidden, block, shift))
                    here, each = labels[rows] - words.start, [x[rows] for x in known]
                    _turn_into_slopes(logits, here, each, factor[rows], len(weight), settings)
                    if wanted[2]:
                        total_of_bias += logits.sum(0)
                    slopes = logits.to(settings.dtype)
                    if wanted[0]:
                        of_tokens[rows] += slopes @ block
                    if wanted[1] and total is None:
                        total = slopes.T @ hidden
                    elif wanted[1]:
                        total = at_least_float32(total)
                        _add_product(total, slopes, hidden)
                if total is not None:
                    of_weight[words] = total
                if wanted[2]:
                    of_bias[words] = total_of_bias
        return *_as_inputs((of_tokens, of_weight, of_bias), (tokens, weight, bias)), None, None


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, length, step)]


def _block(weight, bias, words: slice, settings: Settings):
    """Weight and bias of some words in the dtype of the products."""
    return weight[words].to(settings.dtype), None if bias is None else bias[words].to(settings.dtype)


def _turn_into_slopes(logits, labels, known, factor, vocabulary: int, settings: Settings) -> None:
    """Turn logits (n, b) of a block of words into the gradient in them; `labels` (n,) count from its first word."""
    largest, log_total, slopes, of_label = known
    logits.sub_(largest)
    if settings.label_smoothing:
        ell = logits.neg_().add_(log_total)
        slope = settings.phi(ell)[1].mul_(factor * (settings.label_smoothing / vocabulary))
        ell.neg_().exp_().mul_(slopes * factor).sub_(slope)
    else:
        logits.exp_().mul_(slopes * factor * torch.exp(-log_total))
    labels = labels[:, None]
    here = (labels >= 0) & (labels < logits.shape[1])
    logits.scatter_add_(1, torch.where(here, labels, 0), torch.where(here, -of_label * factor, 0.0))
