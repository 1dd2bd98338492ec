"""Vision transformer for small data sets: shifted patch tokenisation and locality self-attention.

References
----------
Lee, Lee, Song, *Vision Transformer for Small-Size Datasets*, arXiv 2112.13492.
"""

import functools
import math

import torch
import torch.nn.functional as F
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from .attention import Attention
from .registry import TRANSFORMER, Spec, patches_per_side, register
from .vit import VisionTransformer

# (left, right, top, bottom) padding: a pixel in on one side, a pixel out on the other
_SHIFTS = ((1, -1, 0, 0), (-1, 1, 0, 0), (0, 0, 1, -1), (0, 0, -1, 1))


class ShiftedPatchTokens(nn.Module):
    """Tokens that see a pixel beyond their patch: the image and four copies of it, shifted by one pixel.

    The five are stacked along the channels (shifted-in pixels are zero), cut into patches, normalised
    and projected. The paper shifts diagonally by half a patch; the published experiments shift by one
    pixel right, left, down and up, and so does this.

    Shapes
    ------
    images (B, 3, H, W) → tokens (B, H·W / patch_size², dim)
    """

    def __init__(self, patch_size: int, dim: int):
        super().__init__()
        width = 3 * (1 + len(_SHIFTS)) * patch_size**2
        self.to_tokens = nn.Sequential(
            Rearrange("b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=patch_size, p2=patch_size),
            nn.LayerNorm(width),
            nn.Linear(width, dim),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.to_tokens(self.stack_shifts(images))

    @staticmethod
    def stack_shifts(images: Tensor) -> Tensor:
        """(B, C, H, W) → (B, 5C, H, W): as it is, right, left, down, up."""
        return torch.cat([images, *(F.pad(images, shift) for shift in _SHIFTS)], dim=1)


class LocalitySelfAttention(Attention):
    """Attention softmax(q kᵀ / τ) v with a learned temperature τ and no token attending to itself.

    τ starts at √head_dim and is kept as its logarithm, so it stays positive. The diagonal is masked for
    every token, the class token included.

    Parameters
    ----------
    dim, heads, head_dim, dropout : as in `Attention`
    num_tokens : number of tokens N, at least 2
    """

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float, *, num_tokens: int):
        super().__init__(dim, heads, head_dim, dropout)
        self.others: Tensor
        self.log_temperature = nn.Parameter(torch.tensor(0.5 * math.log(head_dim)))
        others = ~torch.eye(num_tokens, dtype=torch.bool)
        self.register_buffer("others", others, persistent=False)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # SDPA takes its scale as a number; a learned one has to go into q
        q = q * torch.exp(-self.log_temperature)
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.others, dropout_p=self.dropout_p, scale=1.0
        )


@register("vit_small", facts=TRANSFORMER, depth=6, heads=8, mlp=512)
@register("vit_tiny", facts=TRANSFORMER, depth=4, heads=6, mlp=256)
def build_vit_small(spec: Spec, depth: int, heads: int, mlp: int) -> nn.Module:
    """ViT for small data sets.

    Raises
    ------
    ModelError
        The image size is not divisible by the patch size.
    """
    num_patches = patches_per_side(spec.image_size, spec.patch_size) ** 2
    return VisionTransformer(
        ShiftedPatchTokens(spec.patch_size, spec.dim),
        num_patches,
        spec.num_classes,
        dim=spec.dim,
        depth=depth,
        heads=heads,
        mlp=mlp,
        attention=functools.partial(LocalitySelfAttention, num_tokens=num_patches + 1),
    )
