"""Swin transformer: timm's, with the paper's widths, depths and heads, fitted to the image size."""

from timm.layers import use_fused_attn
from timm.models.swin_transformer import SwinTransformer, WindowAttention
from torch import nn

from .registry import TRANSFORMER, ModelError, Spec, nearby, register

STAGES = 4
MIN_WINDOW = 4


def swin_geometry(image_size: int) -> tuple[int, int] | None:
    """Patch size and window that tile an image exactly in all four stages, or None.

    The patch grows with the image: 1 px below 32, 2 up to 64, 4 (the paper's) above. Three halvings
    leave a last stage of u × u tokens, u = image / (8 · patch). The window is u, as in the paper (7 at
    224 px, 12 at 384 px), doubled until it is at least 4; a stage is then a whole number of windows, or
    smaller than one, where timm makes it a single window.

    ======  =====  ======  ===============
    image   patch  window  tokens per side
    ======  =====  ======  ===============
    8       1      4       8, 4, 2, 1
    32      2      4       16, 8, 4, 2
    64      2      4       32, 16, 8, 4
    96      4      6       24, 12, 6, 3
    224     4      7       56, 28, 14, 7
    384     4      12      96, 48, 24, 12
    ======  =====  ======  ===============
    """
    patch = 1 if image_size < 32 else 2 if image_size <= 64 else 4
    window, rest = divmod(image_size, patch * 2 ** (STAGES - 1))
    if rest or not window:
        return None
    while window < MIN_WINDOW:
        window *= 2
    return patch, window


@register("swin", "swin_base", facts=TRANSFORMER, width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32))
@register("swin_small", facts=TRANSFORMER, width=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24))
@register("swin_tiny", facts=TRANSFORMER, width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24))
def build_swin(spec: Spec, width: int, depths: tuple[int, ...], heads: tuple[int, ...]) -> nn.Module:
    """Swin base, small or tiny; patch and window follow from the image size (see `swin_geometry`).

    `patch_size` and `dim` do not concern it. Stochastic depth is timm's default (up to 0.1).

    Shapes
    ------
    images (B, 3, H, W) → logits (B, num_classes)

    Raises
    ------
    ModelError
        No patch and window tile the image in all stages.

    References
    ----------
    Liu et al., *Swin Transformer: Hierarchical Vision Transformer using Shifted Windows*, arXiv 2103.14030.
    """
    geometry = swin_geometry(spec.image_size)
    if geometry is None:
        sizes = nearby(spec.image_size, lambda size: swin_geometry(size) is not None)
        raise ModelError(
            f"swin's stages cannot halve image size {spec.image_size} evenly; sizes that work: {sizes}"
        )
    patch, window = geometry
    model = SwinTransformer(
        img_size=spec.image_size,
        patch_size=patch,
        window_size=window,
        num_classes=spec.num_classes,
        embed_dim=width,
        depths=depths,
        num_heads=heads,
    )
    for module in model.modules():
        if isinstance(module, WindowAttention):
            # timm has it off until its users have tried it: same values (tested), fewer kernels
            setattr(module, "fused_attn", use_fused_attn())  # noqa: B010  timm declares it Final
    return model
