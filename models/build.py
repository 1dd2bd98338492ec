"""`build_model`: the one way to get a net by name."""

from pathlib import Path

from torch import nn

from .registry import Facts, ModelError, Net, Spec, WeightsUnavailable, find_net, on_meta_device
from .timm_models import PREFIX, find_timm
from .weights import load_checkpoint


def build_model(
    name: str,
    num_classes: int,
    image_size: int | None,
    patch_size: int = 4,
    dim: int = 512,
    *,
    pretrained: bool = False,
    checkpoint: str | Path | None = None,
    load_weights: bool = True,
    new_head: bool = True,
) -> nn.Module:
    """Build a net by name for any class count and image size.

    Parameters
    ----------
    name : a name of `list_models()` or an alias, in any case, "-" and "_" alike; or `timm:<name>`
    num_classes : width of the head, at least 2
    image_size : height and width of the images in pixels; 0 or None for nets with a native size
    patch_size : side of a patch in pixels, for vit*, and cait (swin derives its own from the image size)
    dim : width of the tokens, for vit* and cait
    pretrained : start from published weights, with a new head (`vit_timm` always does, unless a
        checkpoint is given)
    checkpoint : start from the weights of this file (see `load_checkpoint`), instead of published ones
    load_weights : False builds the bare structure, for a caller who fills it; so do nets that are built under
        `torch.device("meta")`
    new_head : False: the checkpoint's head must fit (see `load_checkpoint`)

    Returns
    -------
    nn.Module
        Maps images (B, 3, image_size, image_size) to logits (B, num_classes).

    Raises
    ------
    ModelError
        An unknown name, an impossible size, a checkpoint that cannot be read or does not fit.
    WeightsUnavailable
        There are no published weights, or they cannot be downloaded.
    """
    net = _find(name, pretrained)
    image_size = image_size or net.facts.native_size or 0
    if num_classes < 2 or min(image_size, patch_size, dim) < 1:
        raise ModelError(
            f"{name} needs 2 classes or more, and an image size, a patch size and a dim of 1 or more; "
            f"got {num_classes}, {image_size}, {patch_size} and {dim}"
        )
    load_weights = load_weights and not on_meta_device()
    if pretrained and checkpoint is None and not net.published_weights:
        raise WeightsUnavailable(
            f"there are no pretrained weights for {net.name}; "
            "vit_timm and timm:<name> have them, --checkpoint FILE loads your own"
        )
    pretrained = (pretrained or net.pretrained_by_default) and checkpoint is None and load_weights
    model = net.build(Spec(num_classes, image_size, patch_size, dim, pretrained))
    if checkpoint is not None and load_weights:
        load_checkpoint(model, checkpoint, new_head=new_head)
    return model


def net_facts(name: str, pretrained: bool = False) -> Facts:
    """What the net of that name wants, before it is built: see `Facts`.

    With `pretrained`, or for nets that always are, mean, std, interpolation, crop and size are those of the
    published weights.
    """
    return _find(name, pretrained).facts


def _find(name: str, pretrained: bool) -> Net:
    if name.strip().lower().startswith(PREFIX):
        return find_timm(name.strip()[len(PREFIX) :], pretrained)
    return find_net(name)
