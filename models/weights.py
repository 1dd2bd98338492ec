"""Weights from a file into a net: read without running code, and fitted strictly, but for a new head."""

import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import timm
from torch import Tensor, nn

from common import UserError, load_tensors, one_line

from .registry import ModelError

# Where training scripts keep the weights in their checkpoints; averaged ones are what they would test.
_WEIGHTS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "net")

_log = logging.getLogger(__name__)


def load_checkpoint(model: nn.Module, path: str | Path, *, new_head: bool = True) -> None:
    """Load the weights of a file into a net, in place.

    If the file has a classification head of another shape, or none, the net keeps its own (fine-tuning) and the
    log says so. Everything else must match. timm's filters rename the old keys of its nets, and resample
    position embeddings to the net's image size.

    Parameters
    ----------
    model : the net
    path : a .safetensors file, or any file that ``torch.load(weights_only=True)`` reads
    new_head : False: the head must match too, because the net is to be tested as it is

    Raises
    ------
    ModelError
        The file cannot be read, or does not fit; the first few keys are named.
    """
    own = model.state_dict()
    state = _filter_like_timm(model, read_state_dict(path), path)
    if (
        not state.keys() & own.keys()
    ):  # Lightning, for one, keeps the name of the attribute that holds the net
        attribute = next(iter(state)).partition(".")[0] + "."
        state = {name.removeprefix(attribute): value for name, value in state.items()}
    for head in head_names(model) if new_head else []:
        names = [name for name in (f"{head}.weight", f"{head}.bias") if name in own]
        found = [name for name in names if name in state]
        if not found or (found == names and state[names[0]].shape != own[names[0]].shape):
            _log.warning("%s has no head of %d classes: that layer starts anew", path, len(own[names[0]]))
            state.update({name: own[name] for name in names})

    misfits = {
        "missing": own.keys() - state.keys(),
        "unexpected": state.keys() - own.keys(),
        "of another shape": {n for n in own.keys() & state.keys() if state[n].shape != own[n].shape},
    }
    problems = [f"{what} {_first_few(names)}" for what, names in misfits.items() if names]
    if problems:
        raise ModelError(
            f"checkpoint {path} does not fit this net: {'; '.join(problems)}; "
            "give the net and sizes that it was made with"
        )
    diverged = {name for name, value in state.items() if value.is_floating_point() and value.isnan().any()}
    if diverged:
        raise ModelError(
            f"checkpoint {path} has NaN in {_first_few(diverged)}: its training diverged; give an earlier one"
        )
    model.load_state_dict(state)


def read_file(path: str | Path) -> Mapping[str, Any]:
    """What a checkpoint holds, on the CPU; no code is run.

    A .safetensors file becomes ``{"state_dict": …}``, with the JSON of its metadata's "info" beside it.

    Raises
    ------
    ModelError
        There is no such file, it is damaged, or it would run code.
    """
    try:
        if not str(path).endswith(".safetensors") or not os.path.isfile(path):
            content = load_tensors(path)
            return content if isinstance(content, Mapping) else {}
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                state = {name: file.get_tensor(name) for name in file.keys()}
                return {"state_dict": state, "info": json.loads((file.metadata() or {}).get("info", "null"))}
        except Exception as error:  # safetensors' own errors have no public base
            raise UserError(f"{path} cannot be read ({one_line(error, 200)})") from error
    except UserError as error:
        raise ModelError(
            f"checkpoint {error}; give a .pt or .safetensors file (from Python, save the state_dict() alone)"
        ) from error


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without the prefixes of DistributedDataParallel and ``torch.compile``.

    Raises
    ------
    ModelError
        The file cannot be read (see `read_file`), or holds no state dict.
    """
    content = read_file(path)
    nested = [content[key] for key in _WEIGHTS if isinstance(content.get(key), Mapping)]
    state = timm.models.clean_state_dict(dict(nested[0] if nested else content))
    state.pop("n_averaged", None)  # a counter that torch's AveragedModel keeps among its weights
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(
            f"checkpoint {path} holds no state dict (a mapping from names to tensors); save the net's state_dict()"
        )
    return state


def _filter_like_timm(model: nn.Module, state: dict[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """What timm does to the weights of its nets before it loads them; ours have no filter."""
    filter_fn = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        return dict(filter_fn(state, model)) if filter_fn else state
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


def freeze_all_but_head(net: nn.Module) -> None:
    """Let only the layers learn that give the logits."""
    heads = tuple(f"{head}." for head in head_names(net))
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.startswith(heads))


def _first_few(names: set[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(sorted(names)[:limit]) + more
