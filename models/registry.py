"""Names to nets: every family registers its builders here, `build_model` finds them.

A new net is one file with a builder and one line above it::

    @register("mynet", "alias", depth=4)
    def build_mynet(spec: Spec, depth: int) -> nn.Module:
        return MyNet(spec.num_classes, depth)

plus the file's name in `models/__init__.py` and one test.
"""

import difflib
import functools
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import nn


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
class Net:
    """A registered net: its builder and what is known of it before it is built."""

    name: str
    build: Callable[[Spec], nn.Module]
    native_size: int | None = None  # the image size it is meant for; None: any
    published_weights: bool = False  # `pretrained=True` means something
    pretrained_by_default: bool = False  # ... and is what the name stands for


_NETS: dict[str, Net] = {}
_KEYS: dict[str, str] = {}  # spelling without case, "-" and "_" → canonical name


def register(
    name: str,
    /,
    *aliases: str,
    native_size: int | None = None,
    published_weights: bool = False,
    pretrained_by_default: bool = False,
    **config,
) -> Callable:
    """Register a builder under a canonical name; `config` goes to it as keyword arguments."""

    def decorate(builder: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        for spelling in (name, *aliases):
            if _key(spelling) in _KEYS:
                raise RuntimeError(f"two nets are called {spelling!r}")
            _KEYS[_key(spelling)] = name
        build = functools.partial(builder, **config)
        _NETS[name] = Net(name, build, native_size, published_weights, pretrained_by_default)
        return builder

    return decorate


def find_net(name: str) -> Net:
    """The registered net of a name or alias.

    Raises
    ------
    ValueError
        The name is unknown; the message lists near matches and the known names.
    """
    canonical = _KEYS.get(_key(name))
    if canonical is None:
        near = difflib.get_close_matches(_key(name), _KEYS, n=3)
        hint = f"did you mean {' or '.join(dict.fromkeys(_KEYS[key] for key in near))}? " if near else ""
        known = ", ".join([*list_models(), "timm:<name>"])
        raise ValueError(f"unknown net {name!r}; {hint}known nets: {known}")
    return _NETS[canonical]


def list_models() -> list[str]:
    """Canonical names of the nets, sorted; `timm:<name>` comes on top of them."""
    return sorted(_NETS)


def count_parameters(model: nn.Module) -> int:
    """How many parameters the net trains; works on the meta device too."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


# What convolutional nets call attention (squeeze-and-excite relatives, attention pooling, the few
# attention blocks inside a ResNet) asks for a CNN's learning rate.
_ATTENTION = re.compile(r"Att(n|ention)")
_CNN_ATTENTION = re.compile(
    r"Channel|Spatial|Coord|Split|SelectiveKernel|Strip|NonLocal|Bilinear|Halo|Bottleneck"
    r"|^SelfAttnBlock|^(Rot)?AttentionPool"
)


def is_transformer(model: nn.Module) -> bool:
    """Whether the net mixes its tokens by self-attention.

    Decided by the classes inside the built net, so it holds for any `timm:<name>`, and for a net that is
    wrapped by `torch.compile` or DistributedDataParallel.
    """
    names = {type(module).__name__ for module in model.modules()}
    return any(_ATTENTION.search(name) and not _CNN_ATTENTION.search(name) for name in names)


def check_spec(spec: Spec) -> None:
    """Raise ValueError unless every number in the spec is a whole number large enough to mean something."""
    minima = {"num_classes": 2, "image_size": 1, "patch_size": 1, "dim": 1}
    for field, least in minima.items():
        value = getattr(spec, field)
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"{field} must be a whole number of at least {least}, got {value!r}")


def nearby(value: int, works: Callable[[int], bool]) -> str:
    """The nearest values below and above that work, for an error message: `"28, 32"`."""
    below = next((v for v in range(value - 1, 0, -1) if works(v)), None)
    above = next(v for v in itertools.count(value + 1) if works(v))
    return ", ".join(str(v) for v in (below, above) if v is not None)


def patches_per_side(image_size: int, patch_size: int) -> int:
    """How many patches fit along one side of the image.

    Raises
    ------
    ValueError
        The patches do not tile the image; the message names image sizes that would work.
    """
    if image_size % patch_size:
        below = image_size - image_size % patch_size
        sizes = ", ".join(str(size) for size in (below, below + patch_size) if size)
        raise ValueError(
            f"image size {image_size} is not divisible by patch size {patch_size}; sizes that work: {sizes}"
        )
    return image_size // patch_size


def on_meta_device() -> bool:
    """Whether nets are being built without storage, e.g. to count their parameters."""
    return torch.empty(0).device.type == "meta"  # before torch 2.7, get_default_device sees no `with`


def _key(name: str) -> str:
    return re.sub(r"[-_\s]", "", name.lower())
