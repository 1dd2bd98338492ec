"""Rooted logistic objectives, and the losses they are compared with.

>>> import torch
>>> logits, target = torch.zeros(4, 10, requires_grad=True), torch.arange(4)
>>> build_loss("root", k=8, m=10)(logits, target).backward()

A loss is a function of the cross entropy, given to :func:`losses.base.class_loss`: see ``focal.py``.
"""

from ._version import __version__
from .focal import FocalLoss, focal_from_ce, focal_loss
from .language import CausalLMLoss
from .linear import LinearRLOLoss, LinearRootLoss, linear_rlo_loss, linear_root_loss
from .per_token import check_per_token
from .quality import label_quality
from .registry import LOSSES, build_loss, loss_names, loss_parameters
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

__all__ = [
    "LOSSES", "APLLoss", "CausalLMLoss", "FocalLoss", "LinearRLOLoss", "LinearRootLoss", "Poly1Loss", "RLOLoss",
    "RootLoss", "SCELoss", "__version__", "alpha_loss", "apl_loss", "build_loss", "check_per_token", "focal_from_ce",
    "focal_loss", "gce", "label_quality", "linear_rlo_loss", "linear_root_loss", "loss_names", "loss_parameters",
    "poly1_loss", "rlo_from_ce", "rlo_loss", "root_from_ce", "root_loss", "rooted_logistic_loss", "sce_loss",
]  # fmt: skip
