"""torchvision's ResNets, with a stem that suits small images."""

import torchvision
from torch import nn

from .registry import Spec, register

SMALL_IMAGE = 64  # px: up to here the 4-fold reduction of the standard stem loses too much


@register("resnet18", "res18", depth=18)
@register("resnet34", "res34", depth=34)
@register("resnet50", "res50", depth=50)
@register("resnet101", "res101", depth=101)
def build_resnet(spec: Spec, depth: int) -> nn.Module:
    """ResNet-18/34/50/101 for any image size; `patch_size` and `dim` do not concern it.

    Up to 64 px the stem is a 3×3 convolution of stride 1 without max-pool, as He et al. used on CIFAR;
    above, it is the standard 7×7 convolution of stride 2 with max-pool.

    Shapes
    ------
    images (B, 3, H, W) → logits (B, num_classes)

    References
    ----------
    He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, arXiv 1512.03385.
    """
    model = getattr(torchvision.models, f"resnet{depth}")(num_classes=spec.num_classes)
    if spec.image_size <= SMALL_IMAGE:
        model.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model
