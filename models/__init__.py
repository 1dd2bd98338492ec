"""Image classifiers by name: `build_model(name, num_classes, image_size)`.

One file a family. A new net is a file with a registered builder (see `registry`), its name in the import
below, and a test.
"""

from . import cait, lenet, resnet, swin, timm_models, vgg, vit, vit_small  # noqa: F401  importing registers
from .build import build_model, net_facts
from .registry import Facts, ModelError, WeightsUnavailable, count_parameters, list_models
from .run import ModelInfo, load_run, read_info, save_safetensors
from .weights import freeze_all_but_head, load_checkpoint

__all__ = [
    "Facts", "ModelError", "ModelInfo", "WeightsUnavailable", "build_model", "count_parameters", "freeze_all_but_head",
    "list_models", "load_checkpoint", "load_run", "net_facts", "read_info", "save_safetensors",
]  # fmt: skip
