"""Image classifiers by name: `build_model(name, num_classes, image_size)`.

One file a family. A new net is a file with a registered builder (see `registry`), its name in the import
below, and a test.
"""

from . import cait, resnet, swin, timm_models, vgg, vit, vit_small  # noqa: F401  importing registers
from .build import build_model, default_image_size
from .registry import count_parameters, is_transformer, list_models
from .weights import WeightsUnavailable, load_checkpoint

__all__ = [
    "RootedLogisticRegression",
    "WeightsUnavailable",
    "build_model",
    "count_parameters",
    "default_image_size",
    "is_transformer",
    "list_models",
    "load_checkpoint",
]


def __getattr__(name: str):
    # Lazy, so that training a net does not import scikit-learn
    if name == "RootedLogisticRegression":
        from logreg.estimator import RootedLogisticRegression

        return RootedLogisticRegression
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
