"""The names of the data sets and what is fixed about each: one line a name."""

from __future__ import annotations

import difflib
import importlib
import os
from dataclasses import dataclass
from typing import Any

from .errors import DataError


@dataclass(frozen=True)
class Dataset:
    """What is known of a data set before any of its files is read."""

    # File in `data/sources/` whose ``load(name, root, options)`` returns the set's `Source`. `root` is the data
    # directory or, for an image folder, the folder.
    module: str
    native_size: int  # height and width in pixels that ``image_size=0`` gives; 0: found from the images
    flip: bool = True  # whether a mirrored image still shows its class, so that training may flip it
    mean: tuple[float, float, float] | None = None  # of the training images in [0, 1]; absent: computed
    std: tuple[float, float, float] | None = None
    aliases: tuple[str, ...] = ()  # other spellings; case, ``-`` and ``_`` never matter

    def load(self, name, root, options):
        """Call the data set's own module, imported only now."""
        return importlib.import_module(f"data.sources.{self.module}").load(name, root, options)


_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_CIFAR10: dict[str, Any] = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
_CIFAR100: dict[str, Any] = {"mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762)}
_MNIST: dict[str, Any] = {"mean": (0.1307,) * 3, "std": (0.3081,) * 3}
_FASHION: dict[str, Any] = {"mean": (0.2860,) * 3, "std": (0.3530,) * 3}

DATASETS: dict[str, Dataset] = {
    "digits": Dataset("digits", 8, flip=False),
    "cifar10": Dataset("published", 32, **_CIFAR10),
    "cifar100": Dataset("published", 32, **_CIFAR100),
    "tiny-imagenet": Dataset("tiny_imagenet", 64, **_IMAGENET, aliases=("tiny-imagenet-200",)),
    "food-101": Dataset("published", 224, **_IMAGENET),
    "mnist": Dataset("published", 28, flip=False, **_MNIST),
    "fashion-mnist": Dataset("published", 28, **_FASHION, aliases=("fmnist",)),
    "folder": Dataset("folder", 0),
}


def list_datasets() -> list[str]:
    """Names that `build_data` takes, as a user types them."""
    return [f"{name}:<path>" if name == "folder" else name for name in DATASETS]


def canonical_name(name: str) -> str:
    """One spelling of a data set: ``folder:imgs``, ``folder:./imgs/`` and the absolute path are the same."""
    key, _, path = resolve(name)
    return f"{key}:{os.path.realpath(os.path.expanduser(path))}" if path else key


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def resolve(name: str) -> tuple[str, Dataset, str]:
    """The name in `DATASETS`, the data set, and the path of ``folder:<path>`` ('' for others), by any spelling.

    Raises
    ------
    DataError
        Unknown name (near matches and all names are listed), or ``folder`` without a path.
    """
    head, colon, path = str(name).partition(":")
    known = {_plain(spelling): key for key, d in DATASETS.items() for spelling in (key, *d.aliases)}
    key = known.get(_plain(head.strip()))
    if key is None or (colon and key != "folder"):
        near = list(dict.fromkeys(known[n] for n in difflib.get_close_matches(_plain(head), known, n=3)))
        if not colon and os.path.isdir(os.path.expanduser(head)):
            near.append(f"folder:{head}")
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise DataError(f"unknown data set {name!r}{hint} (known: {', '.join(list_datasets())})")
    if key == "folder" and not path:
        raise DataError("folder needs a path: folder:<path> with train/<class>/* and val/<class>/* in it")
    return key, DATASETS[key], path
