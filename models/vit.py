"""Vision transformer in the sizes of the published experiments."""

from collections.abc import Callable

import torch
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from .attention import Attention, Block, FeedForward
from .registry import TRANSFORMER, Spec, patches_per_side, register

HEAD_DIM = 64


class VisionTransformer(nn.Module):
    """Patches to tokens, a class token in front, learned positions, blocks, a head on the class token.

    Parameters
    ----------
    to_tokens : module from images (B, 3, H, W) to tokens (B, num_patches, dim)
    num_patches : how many tokens that gives
    num_classes : width of the head
    dim, depth, heads, mlp : width of the tokens, number of blocks, heads of 64 each, hidden width of the
        feed-forward layers
    dropout : probability, on the embedded tokens and inside the blocks
    attention : builds the attention of a block from `(dim, heads, head_dim, dropout)`

    Shapes
    ------
    images (B, 3, H, W) → logits (B, num_classes)

    References
    ----------
    Dosovitskiy et al., *An Image is Worth 16x16 Words*, arXiv 2010.11929.
    """

    def __init__(
        self,
        to_tokens: nn.Module,
        num_patches: int,
        num_classes: int,
        *,
        dim: int,
        depth: int,
        heads: int,
        mlp: int,
        dropout: float = 0.1,
        attention: Callable[..., nn.Module] = Attention,
    ):
        super().__init__()
        self.to_tokens = to_tokens
        self.class_token = nn.Parameter(torch.empty(dim))
        self.positions = nn.Parameter(torch.empty(num_patches + 1, dim))
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(
            *(
                Block(attention(dim, heads, HEAD_DIM, dropout), FeedForward(dim, mlp, dropout))
                for _ in range(depth)
            )
        )
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.to_tokens(images)
        # not einops' repeat, with which torch.compile compiles twice, nor len(), which fixes the batch size
        class_token = self.class_token.expand(patches.shape[0], 1, -1)
        tokens = torch.cat((class_token, patches), dim=1) + self.positions
        tokens = self.blocks(self.dropout(tokens))
        return self.head(tokens[:, 0])


@register("vit", "vit_base", facts=TRANSFORMER, depth=12, heads=16, mlp=1024)
@register("vit_large", facts=TRANSFORMER, depth=24, heads=16, mlp=4096)
def build_vit(spec: Spec, depth: int, heads: int, mlp: int) -> nn.Module:
    """ViT whose patches go through one linear layer with bias.

    Raises
    ------
    ModelError
        The image size is not divisible by the patch size.
    """
    side, patch = patches_per_side(spec.image_size, spec.patch_size), spec.patch_size
    to_tokens = nn.Sequential(
        Rearrange("b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=patch, p2=patch),
        nn.Linear(3 * patch**2, spec.dim),
    )
    return VisionTransformer(
        to_tokens, side**2, spec.num_classes, dim=spec.dim, depth=depth, heads=heads, mlp=mlp
    )
