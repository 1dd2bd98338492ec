"""Names to nets: every family registers its builders here, `build_model` finds them.

A new net is one file with a builder and one line above it::

    @register("mynet", "alias", depth=4)
    def build_mynet(spec: Spec, depth: int) -> nn.Module:
        return MyNet(spec.num_classes, depth)

plus the file's name in `models/__init__.py` and one test.
"""

import functools
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import nn

from common import UserError, did_you_mean


class ModelError(UserError, ValueError):
    """A user's mistake about a net: its name, its sizes, its weights."""


@dataclass(frozen=True)
class Spec:
    """What the user asked for; a builder takes from it what concerns its net.

    `pretrained` is True only where published weights shall be loaded now.
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
        What its pretrained weights expect; None: the data's own.
    interpolation : {"bilinear", "bicubic"}
    crop_pct : float
        Share of the resized image that a test keeps, in (0, 1].
    lr : float
        Peak learning rate of Adam.
    channels_last : bool
        Whether it is fastest where a pixel's channels lie together.
    recordable : bool
        Whether its step is known to be one CUDA graph: it has been recorded and replayed on a GPU.
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
    published_weights: bool = False  # `pretrained=True` means something
    pretrained_by_default: bool = False  # ... and is what the name stands for


_NETS: dict[str, Net] = {}
_KEYS: dict[str, str] = {}  # spelling without case, "-" and "_" → canonical name


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
        for spelling in (name, *aliases):
            if _key(spelling) in _KEYS:
                raise RuntimeError(f"two nets are called {spelling!r}")
            _KEYS[_key(spelling)] = name
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
    canonical = _KEYS.get(_key(name))
    if canonical is None:
        hint = did_you_mean(_key(name), _KEYS, 3)
        known = ", ".join([*list_models(), "timm:<name>"])
        raise ModelError(f"unknown net {name!r}{hint}; known nets: {known}")
    return _NETS[canonical]


def list_models() -> list[str]:
    """Canonical names of the nets, sorted; `timm:<name>` comes on top of them."""
    return sorted(_NETS)


def count_parameters(model: nn.Module) -> int:
    """How many parameters the net trains; works on the meta device too."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def check_spec(spec: Spec) -> None:
    """Raise ValueError unless every number in the spec is a whole number large enough to mean something."""
    minima = {"num_classes": 2, "image_size": 1, "patch_size": 1, "dim": 1}
    for field, least in minima.items():
        value = getattr(spec, field)
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ModelError(f"{field} must be a whole number of at least {least}, got {value!r}")


def nearby(value: int, works: Callable[[int], bool]) -> str:
    """The nearest values below and above that work, for an error message: `"28, 32"`."""
    below = next((v for v in range(value - 1, 0, -1) if works(v)), None)
    above = next(v for v in itertools.count(value + 1) if works(v))
    return ", ".join(str(v) for v in (below, above) if v is not None)


def patches_per_side(image_size: int, patch_size: int) -> int:
    """How many patches fit along one side of the image.

    Raises
    ------
    ModelError
        The patches do not tile the image; the message names image sizes that would work.
    """
    if image_size % patch_size:
        below = image_size - image_size % patch_size
        sizes = ", ".join(str(size) for size in (below, below + patch_size) if size)
        raise ModelError(
            f"image size {image_size} is not divisible by patch size {patch_size}; sizes that work: {sizes}"
        )
    return image_size // patch_size


def on_meta_device() -> bool:
    """Whether nets are being built without storage, e.g. to count their parameters."""
    return torch.empty(0).device.type == "meta"  # before torch 2.7, get_default_device sees no `with`


def _key(name: str) -> str:
    return re.sub(r"[-_\s]", "", name.lower())
