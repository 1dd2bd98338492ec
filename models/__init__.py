"""Image classifiers by name: `build_model(name, num_classes, image_size)`.

One file a family. A new net is a file with a registered builder (see `registry`), its name in the import
below, and a test.
"""

from . import cait, resnet, swin, timm_models, vgg, vit, vit_small  # noqa: F401  importing registers
from .build import build_model, net_facts
from .registry import Facts, ModelError, count_parameters, list_models
from .run import ModelInfo, freeze_all_but_head, load_run, read_info, save_safetensors
from .weights import WeightsUnavailable, load_checkpoint

__all__ = [
    "Facts",
    "ModelError",
    "ModelInfo",
    "RootedLogisticRegression",
    "WeightsUnavailable",
    "build_model",
    "count_parameters",
    "freeze_all_but_head",
    "list_models",
    "load_checkpoint",
    "load_run",
    "net_facts",
    "read_info",
    "save_safetensors",
]


def __getattr__(name: str):
    # Lazy, so that training a net does not import scikit-learn
    if name == "RootedLogisticRegression":
        from logreg.estimator import RootedLogisticRegression

        return RootedLogisticRegression
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
