"""VGG with batch norm: torchvision's features under one linear head."""

import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from .registry import Spec, register


class VGG(nn.Module):
    """VGG's convolutions, global average, one linear layer.

    The features are torchvision's, five max-pools included; at 32 px they end at 1×1, where the average
    does nothing. Below 32 px the pools that would take the map under 1 px are left out (their places in
    `features` stay, so that a checkpoint fits any image size).

    Parameters
    ----------
    plan : torchvision's name of the layer plan: A (VGG-11), B (13), D (16) or E (19)
    num_classes : width of the head
    image_size : height and width of the images in pixels

    Shapes
    ------
    images (B, 3, H, W) → logits (B, num_classes)

    References
    ----------
    Simonyan, Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*,
    arXiv 1409.1556.
    """

    def __init__(self, plan: str, num_classes: int, image_size: int):
        super().__init__()
        self.features = make_layers(cfgs[plan], batch_norm=True)
        for index, layer in enumerate(self.features):
            if isinstance(layer, nn.MaxPool2d):
                if image_size < 2:
                    self.features[index] = nn.Identity()
                image_size //= 2
            elif isinstance(layer, nn.Conv2d):
                # torchvision initialises in its VGG class, whose 120M head we do not want to allocate
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(512, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(images)), 1))


@register("vgg11", plan="A")
@register("vgg13", plan="B")
@register("vgg16", plan="D")
@register("vgg19", "vgg", plan="E")
def build_vgg(spec: Spec, plan: str) -> nn.Module:
    """VGG-11/13/16/19 for any image size; `patch_size` and `dim` do not concern it."""
    return VGG(plan, spec.num_classes, spec.image_size)
