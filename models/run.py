"""A trained net that stands alone: what its file says of it, and one line to use it."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from common import write_atomically

from .build import build_model
from .registry import ModelError
from .weights import load_checkpoint, read_file

FORMAT = 1


@dataclass
class ModelInfo:
    """All that it takes to build a net again, feed it as it was fed, and name its outputs.

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
        softmax(logit_scale · z) are the probabilities corrected for the loss (docs/losses.md §7); None: the loss
        has no such correction.
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

    def to_dict(self) -> dict:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping, where: object = "the file") -> ModelInfo:
        """The inverse of `to_dict`; ModelError if `data` are not what it gives, or of a later version."""
        try:
            if data["version"] > FORMAT:
                raise ModelError(f"{where} is of a later version of this program: update it")
            info = cls(**{f.name: data[f.name] for f in fields(cls)})
            info.mean, info.std = tuple(info.mean), tuple(info.std)
            # a Mac's file system writes é as two characters, most others as one
            info.class_names = [unicodedata.normalize("NFC", name) for name in info.class_names]
            fits = (info.num_classes, 3, 3) == tuple(map(len, (info.class_names, info.mean, info.std)))
        except (KeyError, TypeError):
            fits = False
        if not fits:
            raise ModelError(f"{where} does not say what net it holds: its info is not what train.py writes")
        return info


def read_info(path: str | Path) -> ModelInfo | None:
    """What a weights file says of its net, or None if it is not a file of train.py's.

    Raises
    ------
    ModelError
        The file cannot be read, or what it says of its net makes no sense.
    """
    info = read_file(path).get("info")
    return None if info is None else ModelInfo.from_dict(info, path)


def save_safetensors(path: Path, state: Mapping[str, Tensor], info: ModelInfo) -> None:
    """Write the weights with `info` as JSON in the metadata, atomically."""
    data = safetensors_bytes(state, info)
    write_atomically(Path(path), lambda file: file.write(data))


def safetensors_bytes(state: Mapping[str, Tensor], info: ModelInfo) -> bytes:
    """What `save_safetensors` writes."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    return safetensors.torch.save(tensors, {"info": json.dumps(info.to_dict()), "format": "pt"})


def weights_file(path: str | Path) -> Path:
    """The weights of a run directory; a file is returned as it is. ModelError if the directory holds none."""
    path = Path(path)
    if not path.is_dir():
        return path
    found = [path / name for name in ("best.pt", "model.safetensors") if (path / name).is_file()]
    if not found:
        raise ModelError(f"{path} holds no weights: neither best.pt nor model.safetensors is there")
    return found[0]


class Transform:
    """From an image file, a Pillow image or a list of them to a tensor (N, 3, H, W), as the training's test saw it.

    A Pillow image is taken as if it were read from a lossless file.
    """

    def __init__(self, info: ModelInfo):
        # Decoding belongs to data/, which models/ does without until a trained net is used.
        from data.images import Square

        self.square = Square(info.image_size, info.interpolation, info.crop_pct)
        self.mean, self.std = (torch.tensor(x).view(3, 1, 1) for x in (info.mean, info.std))

    def __call__(self, images) -> Tensor:
        from data.images import decode

        images = images if isinstance(images, list | tuple) else [images]
        pictures = (image if isinstance(image, Image.Image) else str(image) for image in images)
        pixels = torch.stack([torch.from_numpy(decode(picture, *self.square).copy()) for picture in pictures])
        return self.normalise(pixels)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Squares of uint8, shape (N, 3, H, W), as the net wants them."""
        return (pixels / 255 - self.mean) / self.std


def load_run(path: str | Path) -> tuple[nn.Module, Transform, list[str]]:
    """A trained net, how to feed it, and the names of its classes.

    Parameters
    ----------
    path : path
        A run directory, or its `best.pt` or `model.safetensors`, wherever they are now.

    Returns
    -------
    net : nn.Module
        In evaluation mode, on the CPU.
    transform : Transform
    class_names : list of str

    Raises
    ------
    ModelError
        There are no weights, or none that say what net they are of.
    """
    path = weights_file(path)
    info = read_info(path)
    if info is None:
        raise ModelError(f"{path} does not say what net it holds: only weights that train.py saved do")
    net = build_model(
        info.net, info.num_classes, info.image_size, info.patch_size, info.dim, load_weights=False
    )
    load_checkpoint(net, path, new_head=False)
    return net.eval(), Transform(info), list(info.class_names)
