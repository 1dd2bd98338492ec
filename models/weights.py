"""Weights from disk into a net: read without running anything, fit strictly, leave only the head free."""

import argparse
import logging
import os
import sys
import textwrap
import types
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from common import UserError, load_tensors

from .registry import ModelError

# Where training scripts keep the weights in their checkpoints; what is averaged is what they would test.
_NESTED = ("state_dict_ema", "model_ema", "model", "state_dict", "net", "module")
_COUNTERS = ("n_averaged",)  # torch's AveragedModel counts beside its weights
_WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile prepend
_ATTRIBUTES = ("model.", "net.", "backbone.")  # where Lightning modules keep the net that they train

_log = logging.getLogger(__name__)


class WeightsUnavailable(ModelError):
    """Pretrained weights that do not exist or cannot be had from here."""


def load_checkpoint(model: nn.Module, path: str | Path, *, new_head: bool = True) -> None:
    """Load the weights of a file into a net, in place.

    A classification head of another shape, or none, leaves the net's own head as it is (fine-tuning) and
    says so in the log. All else must match. Nets that come from timm pass through timm's filter first, which
    renames old keys and resamples position embeddings to the net's image size.

    Parameters
    ----------
    model : the net
    path : a .safetensors file, or any file that `torch.load(weights_only=True)` reads
    new_head : False: the head must match like all else, because the net is to be tested as it is

    Raises
    ------
    ModelError
        The file cannot be read as plain tensors, or does not fit; the first few keys are named.
    """
    own = model.state_dict()
    state = _filter_like_timm(model, _strip_attribute(read_state_dict(path), own), path)
    fresh = []  # heads
    for head in head_names(model):
        keys = [key for key in (f"{head}.weight", f"{head}.bias") if key in own]
        absent = not any(key in state for key in keys)
        of_other_classes = all(key in state for key in keys) and state[keys[0]].shape != own[keys[0]].shape
        if new_head and (absent or of_other_classes):
            state.update({key: own[key] for key in keys})
            fresh.append(len(own[keys[0]]))

    wrong_shape = [key for key in state if key in own and state[key].shape != own[key].shape]
    fitting = {key: value for key, value in state.items() if key not in wrong_shape}
    result = model.load_state_dict(fitting, strict=False)
    missing = [key for key in result.missing_keys if key not in wrong_shape]
    problems = [
        f"{what} {_first_few(keys)}"
        for what, keys in (
            ("missing", missing),
            ("unexpected", result.unexpected_keys),
            ("of another shape", wrong_shape),
        )
        if keys
    ]
    if problems:
        raise ModelError(
            f"checkpoint {path} does not fit this net: {'; '.join(problems)}; "
            "give the net and sizes that it was made with"
        )
    for classes in fresh:
        _log.warning("%s has no head of %d classes: that layer starts afresh", path, classes)


def plain_data() -> list:
    """What trainers keep beside their weights: plain data that loading may build, none of which runs code."""
    scalar = np.float64(0).__reduce__()[0]
    # numpy 1 and 2 call the folder of the same function differently
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    numbers = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)]
    paths = [(type(Path()), f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")]
    return [argparse.Namespace, types.SimpleNamespace, *names, np.dtype, *numbers, *paths]


def read_file(path: str | Path) -> object:
    """What a .safetensors or .pt file holds, on the CPU; no code is run.

    Raises
    ------
    ModelError
        There is no such file, it is damaged, or it holds anything but plain data.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors" and os.path.isfile(path):
            try:
                return safetensors.torch.load_file(path)
            except Exception as error:  # safetensors' own errors have no public base
                raise UserError(f"{path} cannot be read ({textwrap.shorten(str(error), 200)})") from error
        return load_tensors(path, plain_data())
    except UserError as error:
        text = str(error)
        hint = "give a .pt or .safetensors file"
        if "cannot be read" in text:
            hint = "get it again or give another"
        elif "plain tensors" in text:
            hint = "save the state_dict() alone"
        raise ModelError(f"checkpoint {text}; {hint}") from error


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU.

    Unpacks a state dict nested under "model", "state_dict" and the like and strips the prefixes of
    DistributedDataParallel, `torch.compile` and averaged models.

    Raises
    ------
    ModelError
        There is no such file, it is damaged, or it holds anything but plain data (no code is ever run). A
        .safetensors file has no checksums: damage in the numbers themselves goes unnoticed there.
    """
    content = read_file(path)
    for _ in range(len(_NESTED)):  # a mapping may hold itself
        inner = [content[key] for key in _NESTED if isinstance(content, Mapping) and key in content]
        content = next((value for value in inner if isinstance(value, Mapping)), content)
    content = dict(content) if isinstance(content, Mapping) else {}
    for name in _COUNTERS:
        content.pop(name, None)
    in_the_way = [str(item[0]) for item in content.items() if not _is_entry(item)]
    if in_the_way or not content:
        what = f"; in the way: {_first_few(in_the_way)}" if in_the_way else ""
        raise ModelError(
            f"checkpoint {path} holds no state dict (a mapping from names to plain tensors){what}; "
            "save the net's state_dict()"
        )
    return {_strip_wrappers(key): value for key, value in content.items()}


def _is_entry(item: tuple) -> bool:
    name, value = item
    plain = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta
    return isinstance(name, str) and plain and not value.is_quantized and not value.is_complex()


def _strip_wrappers(key: str) -> str:
    while key.startswith(_WRAPPERS):
        key = key.partition(".")[2]
    return key


def _strip_attribute(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the attribute that all names share, unless the net's own names have it too."""
    for prefix in _ATTRIBUTES:
        if all(key.startswith(prefix) for key in state) and not any(key.startswith(prefix) for key in own):
            return {_strip_wrappers(key.removeprefix(prefix)): value for key, value in state.items()}
    return state


def _filter_like_timm(model: nn.Module, state: dict[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """What timm does to weights of this class of net before it loads them."""
    module = type(model).__module__
    filter_fn = getattr(sys.modules[module], "checkpoint_filter_fn", None)
    if filter_fn is None or not module.startswith("timm."):
        return state
    try:
        return dict(filter_fn(state, model))
    except Exception as error:  # the filters assume a checkpoint of their own family
        raise ModelError(f"checkpoint {path} does not fit this net: {error!r}") from error


def head_names(model: nn.Module) -> list[str]:
    """The layers that give the logits: what timm says, else the last linear layer."""
    heads = (getattr(model, "pretrained_cfg", None) or {}).get("classifier")
    if not heads:
        heads = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
    heads = [heads] if isinstance(heads, str) else heads
    own = model.state_dict()
    return [head for head in heads if f"{head}.weight" in own]


def _first_few(keys: list[str], limit: int = 3) -> str:
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
