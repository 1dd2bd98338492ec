"""Optimisers by name, and the learning rate of every step."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# One line an optimiser: its class, imported when it is used, and options that differ from the class's own.
OPTIMIZERS: dict[str, tuple[str, dict]] = {
    "adam": ("torch.optim:Adam", {}),
    "adamw": ("torch.optim:AdamW", {}),
    "sgd": ("torch.optim:SGD", {"momentum": 0.9}),
}


def build_optimizer(
    name: str,
    parameters: Iterable[torch.nn.Parameter],
    lr: float,
    weight_decay: float,
    device: torch.device,
) -> torch.optim.Optimizer:
    """The optimiser of that name in ``OPTIMIZERS``, fused where torch has a fused kernel.

    `weight_decay` is decoupled for adamw, added to the gradient for the others, and acts on every
    parameter.

    Raises
    ------
    KeyError
        For an unknown name.
    """
    where, options = OPTIMIZERS[name]
    module, _, class_name = where.partition(":")
    build = getattr(importlib.import_module(module), class_name)
    if module == "torch.optim" and device.type in ("cuda", "cpu"):
        options = options | {"fused": True}
    return build(parameters, lr=lr, weight_decay=weight_decay, **options)


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
        if hasattr(group["lr"], "fill_"):  # a tensor, see graph.make_capturable
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
