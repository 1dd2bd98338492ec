"""Optimisers by name, and the learning rate of every step."""

import math
from collections.abc import Iterable

import torch
from torch import nn


def build_optimizer(
    name: str, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, device: torch.device
) -> torch.optim.Optimizer:
    """``adam``, ``adamw`` or ``sgd`` (momentum 0.9), fused where torch has a fused kernel.

    `weight_decay` is decoupled for adamw, added to the gradient for the others, and acts on every
    parameter.

    Raises
    ------
    KeyError
        For an unknown name.
    """
    build = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": lambda *args, **kwargs: torch.optim.SGD(*args, momentum=0.9, **kwargs),
    }[name]
    return build(parameters, lr=lr, weight_decay=weight_decay, fused=device.type in ("cuda", "cpu"))


def learning_rate(step: int, base: float, total_steps: int, warmup_steps: int = 0) -> float:
    """The rate of step 0 … total_steps − 1: linear warm-up to `base`, then half a cosine towards 0.

    A function of the step alone, so a resumed run needs no schedule state.
    """
    if step < warmup_steps:
        return base * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return base * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
