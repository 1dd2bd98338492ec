"""The transformer block that our ViTs share."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class Attention(nn.Module):
    """Pre-norm multi-head self-attention: out = W_o softmax(q kᵀ / √d) v, heads side by side.

    q, k, v come from one linear layer without bias; the output projection has one. The inner width
    heads · head_dim is free of `dim`.

    Parameters
    ----------
    dim : width of the tokens
    heads, head_dim : number of heads and width of each
    dropout : probability, on the attention weights and on the output, in training only

    Shapes
    ------
    tokens (B, N, dim) → (B, N, dim)

    References
    ----------
    Vaswani et al., *Attention Is All You Need*, arXiv 1706.03762.
    """

    def __init__(self, dim: int, heads: int, head_dim: int = 64, dropout: float = 0.0):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        # cut before it is reshaped: the gradients of three parts are then joined by one copy, not by two
        parts = self.qkv(self.norm(tokens)).chunk(3, dim=-1)
        q, k, v = (rearrange(part, "b n (h d) -> b h n d", h=self.heads) for part in parts)
        mixed = self.attend(q, k, v)
        return self.dropout(self.out(rearrange(mixed, "b h n d -> b n (h d)")))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Mix the values (B, heads, N, head_dim); what a variant of attention overrides."""
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout_p)

    @property
    def dropout_p(self) -> float:
        return self.dropout.p if self.training else 0.0


class FeedForward(nn.Sequential):
    """Pre-norm two-layer perceptron with GELU: (B, N, dim) → (B, N, dim)."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0):
        super().__init__(
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, dim),
            nn.Dropout(dropout),
        )


class Block(nn.Module):
    """Attention, then feed-forward, each added to what came in: (B, N, dim) → (B, N, dim)."""

    def __init__(self, attention: nn.Module, feed_forward: nn.Module):
        super().__init__()
        self.attention = attention
        self.feed_forward = feed_forward

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(tokens)
        return tokens + self.feed_forward(tokens)
