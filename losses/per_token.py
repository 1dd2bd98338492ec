"""Is a fused kernel's cross entropy right token by token? Its mean may be, and its gradients still wrong."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def check_per_token(
    fn: Callable[..., Tensor],
    *,
    linear: bool = False,
    tokens: int = 32,
    words: int = 128,
    dim: int = 64,
    ignore_index: int = -100,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Raise ``ValueError`` unless `fn` is the cross entropy of each token, in value and gradient.

    A rooted loss of a fused kernel's losses, ``root_from_ce(fn(logits, target), k, m)``, gives each token a
    gradient of its own size. Kernels that were written for a mean have got that wrong. This calls `fn` on small
    random data, sends a different gradient back to each token, and compares with torch.

    >>> check_per_token(lambda logits, target: F.cross_entropy(logits, target, reduction="none"))
    >>> check_per_token(lambda hidden, weight, target: F.cross_entropy(hidden @ weight.T, target), linear=True)
    Traceback (most recent call last):
        ...
    ValueError: fn gives one number, of shape (), for 32 tokens: ask it for reduction="none"

    Parameters
    ----------
    fn : callable
        ``fn(logits, target)``, or with `linear` ``fn(hidden, weight, target)``, to the cross entropies (N,) in
        nats; 0 for a target of `ignore_index`.
    linear : bool
        Whether `fn` multiplies hidden states with a head's weight itself.
    tokens, words, dim : int
        N, V and D of logits (N, V) or hidden (N, D) and weight (V, D).
    ignore_index : int
        Every fifth target is this.
    device, dtype
        Where `fn` runs, and what in: kernels want "cuda", some bfloat16.

    Raises
    ------
    ValueError
        Says what is wrong: no gradient, every token weighed alike, ignored tokens counted, log-probabilities or
        base 2 for losses, one number for all tokens, or the relative error of whatever else.

    References
    ----------
    Liger Kernel up to 0.8.1 gave every token the first one's scale under ``reduction="none"``.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()

    inputs = [normal(tokens, dim), normal(words, dim)] if linear else [normal(tokens, words)]
    inputs[-1].data.mul_(3 / math.sqrt(dim) if linear else 1)
    target = torch.randint(words, (tokens,), generator=generator).to(device)
    target[::5] = ignore_index
    counted = target != ignore_index
    upstream = (torch.rand(tokens, generator=generator) + 0.1).to(device)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    logits = exact[0] @ exact[1].T if linear else exact[0]
    truth = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")

    losses = fn(*inputs, target)
    if not isinstance(losses, Tensor):
        raise ValueError(
            f"fn gives a {type(losses).__name__}: it must be one tensor, the losses of the tokens"
        )
    if losses.shape != target.shape:
        number = "one number, of shape" if losses.numel() == 1 else "the shape"
        raise ValueError(
            f'fn gives {number} {tuple(losses.shape)}, for {tokens} tokens: ask it for reduction="none"'
        )
    tolerance = TOLERANCES[dtype]
    _check_values(losses.detach().double(), truth.detach(), counted, tolerance)
    if not losses.requires_grad:
        raise ValueError("fn gives no gradient: its losses are not part of the graph")
    found = torch.autograd.grad(losses, inputs, upstream.to(losses.dtype), allow_unused=True)
    wanted = torch.autograd.grad(truth, exact, upstream.double(), retain_graph=True)
    alike = torch.autograd.grad(truth, exact, torch.ones_like(truth))
    names = ("hidden", "weight") if linear else ("logits",)
    for name, got, want, of_ones in zip(names, found, wanted, alike, strict=True):
        if got is None or not got.any():
            raise ValueError(f"fn gives no gradient in {name}")
        error = _error(got, want)
        if error < tolerance:
            continue
        factor = _factor(got, of_ones)
        if _error(got, factor * of_ones) < tolerance:
            raise ValueError(
                f"the gradient of {name} has one scale, {factor:.3g}, for all tokens: fn ignores what weighs each, "
                "and no function of its losses would train right"
            )
        if name != "weight" and got[~counted].any():
            raise ValueError(
                f"the gradient of {name} is not 0 where the target is ignore_index ({ignore_index})"
            )
        raise ValueError(f"the gradient of {name} is off by {error:.1e} of its norm (at most {tolerance:g})")


def _check_values(losses: Tensor, truth: Tensor, counted: Tensor, tolerance: float) -> None:
    ours, theirs = losses[counted], truth[counted]
    error, factor = _error(ours, theirs), _factor(ours, theirs)
    if error >= tolerance and _error(ours, factor * theirs) < tolerance:
        advice = "these are log-probabilities, pass their negative" if factor < 0 else "divide by that"
        if math.isclose(abs(factor), 1 / math.log(2), rel_tol=10 * tolerance):
            advice = f"these are {'log-probabilities' if factor < 0 else 'losses'} of base 2, not of base e"
        raise ValueError(f"fn gives {factor:.4g} times the cross entropy: {advice}")
    if error >= tolerance and (ours - ours[0]).abs().max() < tolerance * ours[0].abs():
        raise ValueError(
            f"fn gives every token the same number, {ours[0]:.4g}: a sum or mean, not its own loss"
        )
    if error >= tolerance:
        raise ValueError(f"the losses are off by {error:.1e} of their norm (at most {tolerance:g})")
    if losses[~counted].any():
        raise ValueError("fn gives a loss to tokens whose target is ignore_index: it must be 0 there")


def _error(x: Tensor, truth: Tensor) -> float:
    """|x − truth| / |truth|; ∞ for NaN."""
    error = float((x.double() - truth).norm() / truth.norm())
    return math.inf if math.isnan(error) else error


def _factor(x: Tensor, truth: Tensor) -> float:
    """The number whose product with `truth` is nearest to x."""
    return float((x.double() * truth).sum() / truth.square().sum())
