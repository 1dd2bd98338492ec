"""Class-attention transformer: timm's CaiT in the size of the published experiments."""

from timm.models.cait import Cait
from torch import nn

from .registry import TRANSFORMER, ModelError, Spec, nearby, patches_per_side, register

HEADS = 8
MLP = 512


@register("cait", facts=TRANSFORMER)
def build_cait(spec: Spec) -> nn.Module:
    """CaiT with 6 blocks of talking-heads attention and 2 of class attention, 8 heads.

    The hidden width is 512 in the former and the paper's 4 · dim in the latter.

    The layer scale starts at 0.1, which is what the paper gives nets of up to 18 blocks; timm's 1e-4 is
    meant for deeper ones and learns slowly from scratch.

    Shapes
    ------
    images (B, 3, H, W) → logits (B, num_classes)

    Raises
    ------
    ModelError
        The image size is not divisible by the patch size, or `dim` not by the 8 heads.

    References
    ----------
    Touvron et al., *Going deeper with Image Transformers*, arXiv 2103.17239.
    """
    patches_per_side(spec.image_size, spec.patch_size)
    if spec.dim % HEADS:
        dims = nearby(spec.dim, lambda dim: dim % HEADS == 0)
        raise ModelError(f"dim {spec.dim} is not divisible by cait's {HEADS} heads; dims that work: {dims}")
    return Cait(
        img_size=spec.image_size,
        patch_size=spec.patch_size,
        num_classes=spec.num_classes,
        embed_dim=spec.dim,
        depth=6,
        depth_token_only=2,
        num_heads=HEADS,
        # timm takes int(dim · ratio): half a unit keeps rounding from losing one
        mlp_ratio=(MLP + 0.5) / spec.dim,
        init_values=0.1,
    )
