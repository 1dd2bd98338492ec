"""Data sets by name: batches come out normalised and augmented, on the device.

    d = data.build_data("cifar10", "./datasets", 0, 512, "cuda")
    for epoch in range(200):
        d.train.set_epoch(epoch)
        for images, labels in d.train: ...

A new data set is one file in `data/sources/`, one line in `data/registry.py` and one test.
"""

from .errors import DataError
from .options import DataOptions
from .registry import DATASETS, canonical_name, list_datasets

__all__ = [
    "DATASETS", "Data", "DataError", "DataOptions", "build_data", "canonical_name", "list_datasets",
]  # fmt: skip


def __getattr__(name: str):
    # torch and torchvision take seconds to import; a command line that only lists names should not wait
    if name in ("Data", "build_data"):
        from . import build

        return getattr(build, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
