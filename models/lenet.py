"""LeNet-5, for MNIST and its like."""

from dataclasses import replace

from torch import nn

from .registry import CNN, ModelError, Spec, register

SMALLEST = 16  # px


# its training step has not been recorded on a GPU yet
@register("lenet", "lenet5", facts=replace(CNN, recordable=False))
def build_lenet(spec: Spec) -> nn.Module:
    """LeNet-5: two 5×5 convolutions of 6 and 16 channels, each followed by a 2×2 mean, then 120, 84 and C units.

    The variant of Mizrahi et al.'s reproduction of Menon et al. 2020: tanh throughout, Xavier's initial weights, and
    a linear layer in the place of the paper's radial basis functions. Images under 32 px are padded by 2, so that
    MNIST's 28 px give the 5 × 5 features of the paper's 32 px. 62,006 parameters at 10 classes and 28 or 32 px; one
    input channel instead of three would have 300 fewer. `patch_size` and `dim` do not concern it.

    Shapes
    ------
    images (B, 3, H, W) → logits (B, num_classes)

    Raises
    ------
    ModelError
        The images are smaller than 16 px.

    References
    ----------
    LeCun et al., *Gradient-Based Learning Applied to Document Recognition*, Proc. IEEE 86(11), 1998.
    Mizrahi et al., *[Re] Can gradient clipping mitigate label noise?*, ReScience C 7, 2021.
    """
    if spec.image_size < SMALLEST:
        raise ModelError(
            f"lenet takes images of {SMALLEST} px or more, got {spec.image_size}; --size enlarges them"
        )
    padding = 2 if spec.image_size < 32 else 0
    side = ((spec.image_size + 2 * padding - 4) // 2 - 4) // 2
    model = nn.Sequential(
        nn.Conv2d(3, 6, kernel_size=5, padding=padding), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, kernel_size=5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(16 * side**2, 120), nn.Tanh(),
        nn.Linear(120, 84), nn.Tanh(),
        nn.Linear(84, spec.num_classes),
    )  # fmt: skip
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    return model
