"""Rooted logistic objectives, and the losses they are compared with.

>>> loss = losses.build_loss("root", k=8, m=10)
>>> loss(logits, target).backward()

A new loss is one file with a function of the cross entropy (see ``focal.py``), one line in ``LOSSES``
and one test.
"""

import difflib

from torch import nn

from ._version import __version__
from .focal import FocalLoss, focal_loss
from .language import CausalLMLoss
from .linear import LinearRLOLoss, LinearRootLoss, linear_rlo_loss, linear_root_loss
from .rooted import RLOLoss, RootLoss, rlo_loss, root_loss, rooted_logistic_loss

LOSSES: dict[str, type[nn.Module]] = {
    "ce": nn.CrossEntropyLoss,
    "focal": FocalLoss,
    "root": RootLoss,
    "rlo": RLOLoss,
}

__all__ = [
    "LOSSES",
    "CausalLMLoss",
    "FocalLoss",
    "LinearRLOLoss",
    "LinearRootLoss",
    "RLOLoss",
    "RootLoss",
    "__version__",
    "build_loss",
    "focal_loss",
    "linear_rlo_loss",
    "linear_root_loss",
    "rlo_loss",
    "root_loss",
    "rooted_logistic_loss",
]


def build_loss(name: str, **options) -> nn.Module:
    """The loss module called `name` (any case), made with `options`.

    Parameters
    ----------
    name : str
        One of ``LOSSES``.
    **options
        The arguments of its class: `k`, `m` for root and rlo, `alpha`, `gamma` for focal, and for all
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
