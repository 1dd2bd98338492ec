"""A trained net that stands alone: what its file says of it, and one line to use it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from common import write_atomically

from .build import build_model
from .registry import ModelError
from .weights import head_names, load_checkpoint, read_file

FORMAT = 1


@dataclass
class ModelInfo:
    """All that it takes to build a net again, feed it as it was fed, and name what it says.

    Parameters
    ----------
    net : str
        As `build_model` takes it, with `patch_size` and `dim`.
    num_classes : int
    image_size : int
        Pixels.
    mean, std : tuple of float
        Of the three channels, for pixel values in [0, 1].
    interpolation : {"bilinear", "bicubic"}
    crop_pct : float
        Share of the resized image that a test keeps.
    class_names : list of str
    loss : str
    loss_options : dict
    logit_scale : float or None
        softmax(logit_scale · z) are the probabilities corrected for the loss (docs/losses.md §7); None: uncorrected.
    dataset, fingerprint : str
        What it was trained on.
    """

    net: str
    num_classes: int
    image_size: int
    class_names: list[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    patch_size: int = 4
    dim: int = 512
    interpolation: str = "bilinear"
    crop_pct: float = 1.0
    loss: str = ""
    loss_options: dict[str, float] = field(default_factory=dict)
    logit_scale: float | None = 1.0
    dataset: str = ""
    fingerprint: str = ""
    version: int = FORMAT

    # What `net_facts` says too, so that either can say how to feed a net.
    native_size = property(lambda self: self.image_size)

    def to_dict(self) -> dict:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping, where: object = "the file") -> ModelInfo:
        """The inverse of `to_dict`.

        Raises
        ------
        ModelError
            A value is missing, of another kind, or of a later version.
        """
        kinds: dict[str, Any] = {
            "int": int,
            "float": (float, int),
            "float | None": (float, int, type(None)),
            "str": str,
            "list[str]": list,
            "dict[str, float]": Mapping,
        }
        known = {f.name: f for f in fields(cls)}
        try:
            values = {name: data[name] for name in known}
        except (KeyError, TypeError) as error:
            raise ModelError(f"{where} does not say what net it holds: {error} is missing") from None
        for name, value in values.items():
            kind = kinds.get(str(known[name].type), (list, tuple))
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ModelError(f"{where} says nothing sensible of its net: {name} is {value!r}")
        if values["version"] > FORMAT:
            raise ModelError(f"{where} is of a later version of this program: update it")
        if (
            len(values["class_names"]) != values["num_classes"]
            or not len(values["mean"]) == len(values["std"]) == 3
        ):
            raise ModelError(f"{where} says nothing sensible of its net: its numbers contradict each other")
        values["mean"], values["std"] = tuple(values["mean"]), tuple(values["std"])
        return cls(**values)


def read_info(path: str | Path) -> ModelInfo | None:
    """What a weights file says of its net, or None if it is not a file of ours.

    Raises
    ------
    ModelError
        The file cannot be read, or what it says makes no sense.
    """
    path = Path(path)
    content = read_file(path)
    if path.suffix.lower() == ".safetensors":
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("info")
        try:
            content = {"info": json.loads(text)} if text else {}
        except ValueError:
            raise ModelError(f"checkpoint {path} says nothing sensible of its net; get it again") from None
    info = content.get("info") if isinstance(content, Mapping) else None
    return None if info is None else ModelInfo.from_dict(info, path)


def save_safetensors(path: Path, state: Mapping[str, Tensor], info: ModelInfo | Mapping) -> None:
    """Write the weights with `info` as JSON in the metadata, atomically."""
    data = safetensors_bytes(state, info)
    write_atomically(Path(path), lambda file: file.write(data))


def safetensors_bytes(state: Mapping[str, Tensor], info: ModelInfo | Mapping) -> bytes:
    """What `save_safetensors` writes."""
    info = info.to_dict() if isinstance(info, ModelInfo) else dict(info)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    return safetensors.torch.save(tensors, {"info": json.dumps(info), "format": "pt"})


def weights_file(path: str | Path) -> Path:
    """The weights of a run directory; a file is given back as it is.

    Raises
    ------
    ModelError
        The directory holds none.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    found = [path / name for name in ("best.pt", "model.safetensors") if (path / name).is_file()]
    if not found:
        raise ModelError(f"{path} holds no weights: neither best.pt nor model.safetensors is there")
    return found[0]


def load_run(path: str | Path) -> tuple[nn.Module, Callable[..., Tensor], list[str]]:
    """A trained net, how to feed it, and what its outputs are called.

    Parameters
    ----------
    path : path
        A run directory, or its `best.pt` or `model.safetensors`, wherever they are now.

    Returns
    -------
    net : nn.Module
        In evaluation mode, on the CPU.
    transform : callable
        From an image file, a Pillow image or a list of them to a tensor (N, 3, H, W): the pixels that the
        training's own test saw. A Pillow image is taken as it would be read from a lossless file.
    class_names : list of str

    Raises
    ------
    ModelError
        No weights there, or none that say what net they are of.
    """
    # Decoding is the data's; imported here, where both meet.
    from data.images import decode, resize_squares

    path = weights_file(path)
    info = read_info(path)
    if info is None:
        raise ModelError(f"{path} does not say what net it holds: only weights that train.py saved do")
    net = build_model(
        info.net, info.num_classes, info.image_size, info.patch_size, info.dim, load_weights=False
    )
    load_checkpoint(net, path, new_head=False)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (info.mean, info.std))

    def pixels_of(image) -> Tensor:
        size, how = info.image_size, (info.interpolation, info.crop_pct)
        image = image if isinstance(image, Image.Image) else str(image)
        # small squares are enlarged as tensors, as the training does
        pixels = torch.from_numpy(decode(image, size, *how, enlarge=False).copy())[None]
        if pixels.shape[-1] < size:
            pixels = resize_squares(pixels, size, *how)
        return (pixels / 255 - mean) / std

    def transform(images) -> Tensor:
        return torch.cat([pixels_of(i) for i in (images if isinstance(images, list | tuple) else [images])])

    return net.eval(), transform, list(info.class_names)


def freeze_all_but_head(net: nn.Module) -> None:
    """Let only the layers learn that give the logits."""
    heads = tuple(f"{name}." for name in head_names(net))
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.startswith(heads))
