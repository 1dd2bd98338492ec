"""Weights from disk into a net: read without running anything, fit strictly, leave only the head free."""

import logging
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

_NESTED = ("model", "state_dict", "net")  # where training scripts keep the weights in their checkpoints
_WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile prepend

_log = logging.getLogger(__name__)


class WeightsUnavailable(ValueError):
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
    ValueError
        The file cannot be read as plain tensors, or does not fit; the first few keys are named.
    """
    state = _filter_like_timm(model, read_state_dict(path), path)
    own = model.state_dict()
    fresh = []  # heads
    for head in _head_names(model):
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
        raise ValueError(
            f"checkpoint {path} does not fit this net: {'; '.join(problems)}; "
            "give the net and sizes that it was made with"
        )
    for classes in fresh:
        _log.warning("%s has no head of %d classes: that layer starts afresh", path, classes)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU.

    Unpacks a state dict nested under "model", "state_dict" or "net" and strips the prefixes of
    DistributedDataParallel and `torch.compile`.

    Raises
    ------
    ValueError
        There is no such file, it is damaged, or it holds anything but plain data (no code is ever run). A
        .safetensors file has no checksums: damage in the numbers themselves goes unnoticed there.
    """
    path = Path(path)
    if not os.path.isfile(path):  # pathlib raises for names too long
        what = "a directory" if os.path.isdir(path) else "not there"
        raise ValueError(f"checkpoint {path} is {what}; give a .pt or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            _check_zip(path)
            with warnings.catch_warnings():  # what torch would warn of, the errors below say
                warnings.simplefilter("ignore")
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"checkpoint {path} is not a file of plain tensors, and nothing else in it will be run; "
            "save the state_dict() alone"
        ) from error
    except Exception as error:  # a damaged file can fail anywhere in zip, pickle or tensor decoding
        reason = str(error).strip().split("\n")[0][:200]
        if not reason or isinstance(error, LookupError):  # torch's pickle reader met a byte it does not know
            reason = "not a checkpoint, or not all of it"
        raise ValueError(
            f"checkpoint {path} cannot be read ({reason}); get it again or give another"
        ) from error

    for _ in range(len(_NESTED)):  # a mapping may hold itself
        inner = [content[key] for key in _NESTED if isinstance(content, Mapping) and key in content]
        content = next((value for value in inner if isinstance(value, Mapping)), content)
    if not (isinstance(content, Mapping) and content and all(map(_is_entry, content.items()))):
        raise ValueError(
            f"checkpoint {path} holds no state dict (a mapping from names to plain tensors); "
            "save the net's state_dict()"
        )
    return {_strip_wrappers(key): value for key, value in content.items()}


def _check_zip(path: Path) -> None:
    """Raise ValueError if a byte of it is not what `torch.save` wrote: torch.load skips the checksums."""
    if not zipfile.is_zipfile(path):  # the format before torch 1.6
        return
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("it is compressed, which torch.save never does")  # and might be a zip bomb
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"it is damaged: the checksum of {damaged} is wrong")


def _is_entry(item: tuple) -> bool:
    name, value = item
    plain = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta
    return isinstance(name, str) and plain and not value.is_quantized and not value.is_complex()


def _strip_wrappers(key: str) -> str:
    while key.startswith(_WRAPPERS):
        key = key.partition(".")[2]
    return key


def _filter_like_timm(model: nn.Module, state: dict[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """What timm does to weights of this class of net before it loads them."""
    module = type(model).__module__
    filter_fn = getattr(sys.modules[module], "checkpoint_filter_fn", None)
    if filter_fn is None or not module.startswith("timm."):
        return state
    try:
        return dict(filter_fn(state, model))
    except Exception as error:  # the filters assume a checkpoint of their own family
        raise ValueError(f"checkpoint {path} does not fit this net: {error!r}") from error


def _head_names(model: nn.Module) -> list[str]:
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
