"""The optimiser by its name in timm, and the learning rate of every step."""

import ast
import inspect
import math
from collections.abc import Callable, Iterable
from contextlib import suppress

import torch

from common import UserError, did_you_mean, one_line

# timm's name of an optimiser where ours is another: its "sgd" is Nesterov's, ours is plain momentum.
NAMES = {"sgd": "momentum"}
MOMENTUM = 0.9


def build_optimizer(
    name: str,
    net: torch.nn.Module,
    lr: float,
    weight_decay: float,
    device: torch.device,
    layer_decay: float = 0.0,
    options: Iterable[str] = (),
) -> torch.optim.Optimizer:
    """An optimizer of timm's for the parameters of `net` that learn, fused where torch has a fused kernel.

    Parameters
    ----------
    name : str
        A name that ``timm.optim.list_optimizers`` lists; ``sgd`` has momentum 0.9 and is not Nesterov's.
    net : nn.Module
    lr : float
    weight_decay : float
        Decoupled for adamw and its like, added to the gradient for others; not of norms and biases, nor of what the
        net exempts itself.
    device : torch.device
    layer_decay : float
        The rate of each layer over that of the next one, in timm's order of layers; 0: one rate.
    options : iterable of str
        Other arguments of the optimizer as ``"key=value"``, the values in Python's notation.

    Raises
    ------
    UserError
        For a name that timm does not know, an optimizer that this loop cannot drive, an argument that it does not
        take, or a net whose layers have no order.
    """
    from timm.optim import create_optimizer_v2, get_optimizer_class, get_optimizer_info, list_optimizers

    known = list_optimizers()
    name = name.lower()
    if name not in known:
        hint = did_you_mean(name, known, 3) or "; timm.optim.list_optimizers() lists the names"
        raise UserError(f"--opt {name} is not an optimizer of timm's{hint}")
    if get_optimizer_info(name).second_order:
        raise UserError(
            f"--opt {name} needs a second backward pass in each step, which train.py does not make"
        )
    if "muon" in name and not any(p.requires_grad and p.ndim >= 2 for p in net.parameters()):
        raise UserError(f"--opt {name} is for matrices, and none of the net's learns")
    if layer_decay and not hasattr(net, "group_matcher"):
        raise UserError(
            "--layer-decay needs a net that names the order of its layers (group_matcher): timm's do"
        )
    name = NAMES.get(name, name)
    kind = get_optimizer_class(name, bind_defaults=False)
    has_fused = kind.__module__.startswith("torch.optim") and "fused" in inspect.signature(kind).parameters
    arguments = {"fused": True} if has_fused and device.type in ("cuda", "cpu") else {}
    arguments |= dict(map(_option, options))
    try:
        return create_optimizer_v2(
            net, opt=name, lr=lr, weight_decay=weight_decay, layer_decay=layer_decay or None,
            **{"momentum": MOMENTUM} | arguments,
        )  # fmt: skip
    except (TypeError, ValueError, AssertionError, ImportError) as error:
        raise UserError(f"--opt {name}: {one_line(error, 200)}") from error


def _option(text: str) -> tuple[str, object]:
    name, _, value = text.partition("=")
    if name in ("lr", "weight_decay"):
        raise UserError(f"--opt-args {text}: that is --{name.replace('_', '-')}")
    with suppress(ValueError, SyntaxError):
        return name, ast.literal_eval(value)
    return name, value


def schedule(
    base: float, total_steps: int, warmup_steps: int = 0, step_size: int = 0
) -> Callable[[int], float]:
    """The learning rate as a function of the step, 0 … total_steps − 1, so that a resumed run needs no state.

    Linear warm-up to `base`, then half a cosine towards 0, or a tenth of the rate every `step_size` steps.
    """

    def rate(step: int) -> float:
        if step < warmup_steps:
            return base * (step + 1) / warmup_steps
        if step_size:
            return base * 0.1 ** ((step - warmup_steps) // step_size)
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return base * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return rate


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of all parameters; layer decay's scale of a group multiplies it."""
    for group in optimizer.param_groups:
        lr_here = lr * group.get("lr_scale", 1.0)
        if hasattr(group["lr"], "fill_"):  # a tensor, see graph.make_capturable
            group["lr"].fill_(lr_here)
        else:
            group["lr"] = lr_here
