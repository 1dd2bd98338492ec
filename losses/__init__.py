"""Rooted logistic objectives, and the losses they are compared with.

>>> loss = losses.build_loss("root", k=8, m=10)
>>> loss(logits, target).backward()

A new loss is one file with a function of the cross entropy (see ``focal.py``), one line in ``_CLASSES`` and
one test. Nothing here imports torch before a loss is asked for, so that a command line lists names at once.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from ._version import __version__
    from .focal import FocalLoss, focal_from_ce, focal_loss
    from .language import CausalLMLoss
    from .linear import LinearRLOLoss, LinearRootLoss, linear_rlo_loss, linear_root_loss
    from .rivals import APLLoss, Poly1Loss, SCELoss, apl_loss, poly1_loss, sce_loss
    from .rooted import (
        RLOLoss,
        RootLoss,
        alpha_loss,
        gce,
        rlo_from_ce,
        rlo_loss,
        root_from_ce,
        root_loss,
        rooted_logistic_loss,
    )  # fmt: skip

    LOSSES: dict[str, type[nn.Module]]

# One line a loss: its class. The order is that of tables and plots.
_CLASSES = {
    "ce": "torch.nn:CrossEntropyLoss",
    "focal": ".focal:FocalLoss",
    "root": ".rooted:RootLoss",
    "rlo": ".rooted:RLOLoss",
    "sce": ".rivals:SCELoss",
    "apl": ".rivals:APLLoss",
    "poly1": ".rivals:Poly1Loss",
}
# What else there is, and where.
_OTHERS = {
    "CausalLMLoss": ".language",
    "LinearRLOLoss": ".linear",
    "LinearRootLoss": ".linear",
    "__version__": "._version",
    "linear_rlo_loss": ".linear",
    "linear_root_loss": ".linear",
    "alpha_loss": ".rooted",
    "apl_loss": ".rivals",
    "focal_from_ce": ".focal",
    "focal_loss": ".focal",
    "gce": ".rooted",
    "poly1_loss": ".rivals",
    "rlo_from_ce": ".rooted",
    "rlo_loss": ".rooted",
    "root_from_ce": ".rooted",
    "root_loss": ".rooted",
    "rooted_logistic_loss": ".rooted",
    "sce_loss": ".rivals",
}

__all__ = [
    "LOSSES",
    "APLLoss",
    "CausalLMLoss",
    "FocalLoss",
    "LinearRLOLoss",
    "LinearRootLoss",
    "Poly1Loss",
    "RLOLoss",
    "RootLoss",
    "SCELoss",
    "__version__",
    "alpha_loss",
    "apl_loss",
    "build_loss",
    "focal_from_ce",
    "focal_loss",
    "gce",
    "linear_rlo_loss",
    "linear_root_loss",
    "loss_names",
    "loss_parameters",
    "poly1_loss",
    "rlo_from_ce",
    "rlo_loss",
    "root_from_ce",
    "root_loss",
    "rooted_logistic_loss",
    "sce_loss",
]


def loss_names() -> tuple[str, ...]:
    """The names that :func:`build_loss` takes."""
    return tuple(_CLASSES)


def _class_of(name: str) -> type[nn.Module]:
    where, _, attribute = _CLASSES[name].partition(":")
    return getattr(importlib.import_module(where, __name__), attribute)


def loss_parameters(name: str) -> dict[str, float]:
    """The parameters of a loss's own and their defaults, read off its signature: ``{"k": 3.0, "m": 3.0}``."""
    parameters = inspect.signature(_class_of(name)).parameters.values()
    return {p.name: p.default for p in parameters if type(p.default) is float and p.name != "label_smoothing"}


def build_loss(name: str, **options) -> nn.Module:
    """The loss module called `name` (any case), made with `options`.

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
    if key not in _CLASSES:
        near = difflib.get_close_matches(key, _CLASSES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"unknown loss {name!r}{hint}; known losses: {', '.join(_CLASSES)}")
    return _class_of(key)(**options)


def __getattr__(name: str):
    if name == "LOSSES":
        return {key: _class_of(key) for key in _CLASSES}
    for where in _CLASSES.values():
        if where.startswith(".") and where.endswith(f":{name}"):
            return getattr(importlib.import_module(where.partition(":")[0], __name__), name)
    if name in _OTHERS:
        return getattr(importlib.import_module(_OTHERS[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """With the names that are imported on first use, for completion and ``help``."""
    return sorted({*globals(), *__all__})
