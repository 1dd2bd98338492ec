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
_NESTED = (
    "state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "ema",
    "model", "state_dict", "model_state_dict", "params", "net", "module",
)  # fmt: skip
_COUNTERS = ("n_averaged",)  # torch's AveragedModel counts beside its weights
_WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile prepend

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
    state = _filter_like_timm(model, _strip_attribute(read_state_dict(path), own, path), path)
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
    broken = [key for key, value in fitting.items() if value.is_floating_point() and value.isnan().any()]
    if broken:
        raise ModelError(
            f"checkpoint {path} has NaN in {_first_few(broken)}: its training diverged; give an earlier one"
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
        if path.suffix.lower() == ".safetensors" and os.path.isfile(path):
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
    found = _weights_in(content, path)
    if found is None:
        for _ in range(len(_NESTED)):  # a mapping may hold itself
            inner = [content[key] for key in _NESTED if isinstance(content, Mapping) and key in content]
            content = next((value for value in inner if isinstance(value, Mapping)), content)
        content = content if isinstance(content, Mapping) else {}
        in_the_way = [str(item[0]) for item in content.items() if not _is_entry(item)]
        what = f"; in the way: {_first_few(in_the_way)}" if in_the_way else ""
        raise ModelError(
            f"checkpoint {path} holds no state dict (a mapping from names to plain tensors){what}; "
            "save the net's state_dict()"
        )
    return {_strip_wrappers(key): value for key, value in found.items()}


def _weights_in(content: object, path: str | Path, depth: int = 4) -> Mapping[str, Tensor] | None:
    """The mapping of tensors in what a trainer saved: at its usual place, or the only one that is there."""
    if not isinstance(content, Mapping) or not depth:
        return None
    entries = {key: value for key, value in content.items() if key not in _COUNTERS}
    if entries and all(map(_is_entry, entries.items())):
        return entries
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    found = {key: w for key, v in named.items() if (w := _weights_in(v, path, depth - 1)) is not None}
    usual = next((key for key in _NESTED if key in found), None)
    if usual is None and len(found) > 1:
        raise ModelError(
            f"checkpoint {path} holds several nets ({_first_few(list(found))}); save the state_dict() of one"
        )
    return found[usual or next(iter(found))] if found else None


def _is_entry(item: tuple) -> bool:
    name, value = item
    plain = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta
    return isinstance(name, str) and plain and not value.is_quantized and not value.is_complex()


def _strip_wrappers(key: str) -> str:
    while key.startswith(_WRAPPERS):
        key = key.partition(".")[2]
    return key


def _strip_attribute(state: dict[str, Tensor], own: Mapping[str, Tensor], path: object) -> dict[str, Tensor]:
    """The part of the names below the attribute where a Lightning module, say, keeps the net that it trains.

    What lies beside it (the loss's class weights, a metric) is left out and named in the log.
    """
    known = {key.partition(".")[0] for key in own}
    while not state.keys() & own.keys():
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in state.items():
            first, _, rest = key.partition(".")
            parts.setdefault(first, {})[_strip_wrappers(rest)] = value
        fits = [n for n in parts if len(parts) == 1 or parts[n].keys() & own.keys()]
        if len(fits) != 1 or fits[0] in known or "" in parts[fits[0]]:
            break
        beside = [key for key in state if key.partition(".")[0] != fits[0]]
        if beside:
            _log.warning("%s: left out %s, beside the net", path, _first_few(beside))
        state = parts[fits[0]]
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
