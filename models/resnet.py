"""torchvision's ResNets, with a stem that suits small images, and He et al.'s nets for CIFAR."""

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1

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


class CifarResNet(nn.Module):
    """A 3×3 stem, three stages of 16, 32 and 64 channels at full, half and quarter size, mean, one linear layer.

    Depth 6 n + 2. Where a stage halves the image its shortcut is a projection (a 1×1 convolution with batch
    norm: option B of the paper), as in torchvision's nets.

    Parameters
    ----------
    blocks : n, the blocks of each stage
    num_classes : width of the head

    Shapes
    ------
    images (B, 3, H, W) → logits (B, num_classes)
    """

    def __init__(self, blocks: int, num_classes: int):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        )
        self.stages = nn.Sequential(_stage(16, 16, blocks), _stage(16, 32, blocks), _stage(32, 64, blocks))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # what torchvision's nets start from
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.stages(self.stem(images))), 1))


def _stage(inputs: int, channels: int, blocks: int) -> nn.Sequential:
    first = BasicBlock(inputs, channels)
    if inputs != channels:
        projection = nn.Sequential(conv1x1(inputs, channels, stride=2), nn.BatchNorm2d(channels))
        first = BasicBlock(inputs, channels, stride=2, downsample=projection)
    return nn.Sequential(first, *(BasicBlock(channels, channels) for _ in range(blocks - 1)))


@register("resnet20", "res20", depth=20)
@register("resnet32", "res32", depth=32)
def build_cifar_resnet(spec: Spec, depth: int) -> nn.Module:
    """ResNet-20/32 of He et al.'s section 4.2, a tenth of ResNet-18's cost, for any image size.

    `patch_size` and `dim` do not concern it.

    References
    ----------
    He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, arXiv 1512.03385.
    """
    return CifarResNet((depth - 2) // 6, spec.num_classes)
