"""The losses by name: a new one is a file like ``focal.py`` and a line here."""

import difflib
import inspect

from torch import nn

from .focal import FocalLoss
from .rivals import APLLoss, Poly1Loss, SCELoss
from .rooted import RLOLoss, RootLoss

# The order is that of tables and plots.
LOSSES: dict[str, type[nn.Module]] = {
    "ce": nn.CrossEntropyLoss,
    "focal": FocalLoss,
    "root": RootLoss,
    "rlo": RLOLoss,
    "sce": SCELoss,
    "apl": APLLoss,
    "poly1": Poly1Loss,
}


def loss_names() -> tuple[str, ...]:
    """The names that :func:`build_loss` takes."""
    return tuple(LOSSES)


def loss_parameters(name: str) -> dict[str, float]:
    """The numbers that only this loss has, and their defaults, read off its signature.

    >>> loss_parameters("root")
    {'k': 3.0, 'm': 3.0}
    """
    parameters = inspect.signature(LOSSES[name]).parameters.values()
    return {p.name: p.default for p in parameters if type(p.default) is float and p.name != "label_smoothing"}


def build_loss(name: str, **options) -> nn.Module:
    """The loss module called `name` (any case), made with `options`.

    >>> build_loss("focal", gamma=1)
    FocalLoss(alpha=0.25, gamma=1, label_smoothing=0, reduction='mean')

    Parameters
    ----------
    name : str
        One of ``LOSSES``.
    **options
        The arguments of its class: `k`, `m` for root and rlo, `alpha`, `gamma` for focal, `alpha`, `beta`,
        `A` for sce and apl, `epsilon` for poly1, and for all
        `weight`, `ignore_index`, `reduction`, `label_smoothing`.

    Raises
    ------
    ValueError
        For an unknown name (the known ones are listed) or a value out of range.
    TypeError
        For an option that the loss does not have.
    """
    key = str(name).lower()
    if key not in LOSSES:
        near = difflib.get_close_matches(key, LOSSES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"unknown loss {name!r}{hint}; known losses: {', '.join(LOSSES)}")
    return LOSSES[key](**options)
