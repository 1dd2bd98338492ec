"""Names to nets: every family registers its builders here, `build_model` finds them.

A new net is one file with a builder and one line above it::

    @register("mynet", "alias", depth=4)
    def build_mynet(spec: Spec, depth: int) -> nn.Module:
        return MyNet(spec.num_classes, depth)

plus the file's name in `models/__init__.py` and one test.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from common import UserError, did_you_mean, spelling


class ModelError(UserError, ValueError):
    """A user's mistake about a net: its name, its sizes, its weights."""


class WeightsUnavailable(ModelError):
    """Pretrained weights that do not exist or cannot be downloaded."""


@dataclass(frozen=True)
class Spec:
    """What the user asked for; a builder takes from it what its net needs.

    `pretrained` is True only if published weights are to be loaded now.
    """

    num_classes: int
    image_size: int
    patch_size: int = 4
    dim: int = 512
    pretrained: bool = False


@dataclass(frozen=True)
class Facts:
    """What a net wants, known before it is built.

    Parameters
    ----------
    native_size : int, optional
        The image size it is meant for, pixels; None: any.
    mean, std : tuple of float, optional
        What its pretrained weights expect, for pixel values in [0, 1]; None: those of the data.
    interpolation : {"bilinear", "bicubic"}
    crop_pct : float
        Share of the resized image that a test keeps, in (0, 1].
    lr : float
        Peak learning rate of Adam.
    channels_last : bool
        Whether it is fastest in the memory format ``torch.channels_last``.
    recordable : bool
        Whether a training step has been recorded as a CUDA graph and replayed on a GPU.
    """

    native_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str = "bilinear"
    crop_pct: float = 1.0
    lr: float = 1e-3
    channels_last: bool = True
    recordable: bool = True


CNN = Facts()
TRANSFORMER = Facts(lr=1e-4, channels_last=False)


@dataclass(frozen=True)
class Net:
    """A registered net: its builder and what is known of it before it is built."""

    name: str
    build: Callable[[Spec], nn.Module]
    facts: Facts = CNN
    published_weights: bool = False
    pretrained_by_default: bool = False


_NETS: dict[str, Net] = {}
_NAMES: dict[str, str] = {}  # spelling of a name or an alias → name


def register(
    name: str,
    /,
    *aliases: str,
    facts: Facts = CNN,
    published_weights: bool = False,
    pretrained_by_default: bool = False,
    **config,
) -> Callable:
    """Register a builder under a canonical name; `config` goes to it as keyword arguments.

    `facts` say what the net wants: ``CNN`` or ``TRANSFORMER``, or one's own.
    """

    def decorate(builder: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        for alias in map(spelling, (name, *aliases)):
            if alias in _NAMES:
                raise RuntimeError(f"two nets are called {alias!r}")
            _NAMES[alias] = name
        build = functools.partial(builder, **config)
        _NETS[name] = Net(name, build, facts, published_weights, pretrained_by_default)
        return builder

    return decorate


def find_net(name: str) -> Net:
    """The registered net of a name or alias.

    Raises
    ------
    ModelError
        The name is unknown; the message lists near matches and the known names.
    """
    key = spelling(name)
    if key not in _NAMES:
        known = ", ".join([*list_models(), "timm:<name>"])
        raise ModelError(f"unknown net {name!r}{did_you_mean(key, _NAMES, 3)}; known nets: {known}")
    return _NETS[_NAMES[key]]


def list_models() -> list[str]:
    """Canonical names of the nets, sorted; `timm:<name>` comes on top of them."""
    return sorted(_NETS)


def count_parameters(model: nn.Module) -> int:
    """How many parameters the net trains; works on the meta device too."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def nearby(value: int, works: Callable[[int], bool]) -> str:
    """The nearest values below and above `value` that work, for an error message: ``"28, 32"``."""
    below = next((v for v in range(value - 1, 0, -1) if works(v)), None)
    above = next(v for v in itertools.count(value + 1) if works(v))
    return ", ".join(str(v) for v in (below, above) if v is not None)


def patches_per_side(image_size: int, patch_size: int) -> int:
    """How many patches fit along one side of the image; ModelError if they do not tile it."""
    if image_size % patch_size:
        sizes = nearby(image_size, lambda size: size % patch_size == 0)
        raise ModelError(
            f"image size {image_size} is not divisible by patch size {patch_size}; sizes that work: {sizes}"
        )
    return image_size // patch_size


def on_meta_device() -> bool:
    """Whether nets are being built without storage, e.g. to count their parameters."""
    return torch.empty(0).device.type == "meta"  # before torch 2.7, get_default_device ignores `with`
