"""The blocks of the diffusion transformer: adaLN-LoRA, QK-normed attention, GELU MLP, timestep and action embeddings.

As in Cosmos-Predict2 (arXiv 2511.00062, section 3; arXiv 2501.03575, section 5.2), at any size, with its parameter names, so that public weights
fit.

Shape legend: B batch, T frames, S tokens = T h w, N = h w tokens of a frame, D width, H heads, L context, A condition, P patch side.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.predict.dit.attention import attend, rotate

EPS = 1e-6


def init_linear(layer: nn.Linear, *, zero: bool = False) -> nn.Linear:
    """Give a bias-free layer its start: zero, or a normal of std 1 / sqrt(fan in) cut at three deviations."""
    if zero:
        nn.init.zeros_(layer.weight)
    else:
        std = layer.in_features**-0.5
        nn.init.trunc_normal_(layer.weight, std=std, a=-3 * std, b=3 * std)
    return layer


def linear(fan_in: int, fan_out: int, *, zero: bool = False) -> nn.Linear:
    """A linear layer without bias, initialised as `init_linear` says."""
    return init_linear(nn.Linear(fan_in, fan_out, bias=False), zero=zero)


class Patchify(nn.Module):
    """Cut every frame into P x P patches: [B, C, T, h P, w P] -> [B, T, h, w, C P P]."""

    def __init__(self, patch: int) -> None:
        """Remember the patch side."""
        super().__init__()
        self.patch = patch

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Cut."""
        p = self.patch
        cut = x_BCTHW.unflatten(4, (-1, p)).unflatten(3, (-1, p))
        out: Tensor = cut.permute(0, 2, 3, 5, 1, 4, 6).flatten(4)
        return out


def unpatchify(y_BThwO: Tensor, patch: int) -> Tensor:
    """Undo the cut for the final layer's order (row, column, channel): [B, T, h, w, P P C] -> [B, C, T, h P, w P]."""
    parts = y_BThwO.unflatten(4, (patch, patch, -1))
    out: Tensor = parts.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)
    return out


class PatchEmbed(nn.Module):
    """Patches to tokens by one linear map."""

    def __init__(self, channels: int, width: int, *, patch: int) -> None:
        """Make the map."""
        super().__init__()
        self.proj = nn.Sequential(Patchify(patch), linear(channels * patch**2, width))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """[B, C, T, h P, w P] -> [B, T, h, w, D]."""
        out: Tensor = self.proj(x_BCTHW)
        return out


class Timesteps(nn.Module):
    """Sinusoids of the timestep: cosines, then sines, at frequencies 1 .. 1/10000."""

    def __init__(self, width: int) -> None:
        """Remember D."""
        super().__init__()
        self.width = width

    def forward(self, time_BT: Tensor) -> Tensor:
        """[B, T] -> float32 [B, T, D]."""
        half = self.width // 2
        exponent = -math.log(10000) / half * torch.arange(half, device=time_BT.device, dtype=torch.float32)
        angle = time_BT.float()[..., None] * exponent.exp()
        return torch.cat([angle.cos(), angle.sin()], dim=-1)


class TimestepEmbedding(nn.Module):
    """From the sinusoids to the modulation that all blocks share: [B, T, D] -> [B, T, 3 D]."""

    def __init__(self, width: int) -> None:
        """Make both layers."""
        super().__init__()
        self.linear_1 = linear(width, width)
        self.linear_2 = linear(width, 3 * width)

    def forward(self, time_embedding_BTD: Tensor) -> Tensor:
        """Embed."""
        out: Tensor = self.linear_2(F.silu(self.linear_1(time_embedding_BTD)))
        return out


class ActionEmbedding(nn.Module):
    """A two-layer perceptron from what is known of a frame (the action that led to it, ...) to an embedding."""

    def __init__(self, condition: int, width: int, out: int) -> None:
        """Make both layers."""
        super().__init__()
        self.fc1 = nn.Linear(condition, 4 * width)
        self.fc2 = nn.Linear(4 * width, out)

    def forward(self, condition_BTA: Tensor) -> Tensor:
        """[B, T, A] -> [B, T, out]."""
        out: Tensor = self.fc2(F.gelu(self.fc1(condition_BTA), approximate="tanh"))
        return out


class Attention(nn.Module):
    """Multi-head attention with RMS-normed queries and keys; over its own tokens, or over a context."""

    def __init__(self, width: int, *, heads: int, context_width: int | None = None) -> None:
        """Make the projections; `context_width` None attends over its own tokens."""
        super().__init__()
        self.heads = heads
        source = width if context_width is None else context_width
        self.q_proj = linear(width, width)
        self.k_proj = linear(source, width)
        self.v_proj = linear(source, width)
        self.output_proj = linear(width, width)
        self.q_norm = nn.RMSNorm(width // heads, eps=EPS)
        self.k_norm = nn.RMSNorm(width // heads, eps=EPS)

    def forward(self, x_BSD: Tensor, context_BLD: Tensor | None = None, angle_SR: Tensor | None = None) -> Tensor:
        """[B, S, D] -> [B, S, D]; `angle_SR` turns queries and keys to their places."""
        source = x_BSD if context_BLD is None else context_BLD
        q = self.q_norm(self.q_proj(x_BSD).unflatten(-1, (self.heads, -1)))
        k = self.k_norm(self.k_proj(source).unflatten(-1, (self.heads, -1)))
        v = self.v_proj(source).unflatten(-1, (self.heads, -1))
        if angle_SR is not None:
            q, k = rotate(q, angle_SR), rotate(k, angle_SR)
        out: Tensor = self.output_proj(attend(q, k, v).flatten(2))
        return out


class FeedForward(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        """Make both layers."""
        super().__init__()
        self.layer1 = linear(width, hidden)
        self.layer2 = linear(hidden, width)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        out: Tensor = self.layer2(F.gelu(self.layer1(x_BSD)))
        return out


def modulation(width: int, rank: int, *, chunks: int) -> nn.Sequential:
    """The low-rank path of adaLN-LoRA, D -> rank -> chunks * D; it starts at exactly zero."""
    return nn.Sequential(nn.SiLU(), linear(width, rank), linear(rank, chunks * width, zero=True))


def modulate(x_BTND: Tensor, shift_BTD: Tensor, scale_BTD: Tensor) -> Tensor:
    """Layer norm without parameters, then each frame's scale and shift."""
    normed = F.layer_norm(x_BTND, x_BTND.shape[-1:], eps=EPS)
    return normed * (1 + scale_BTD[:, :, None]) + shift_BTD[:, :, None]


class Block(nn.Module):
    """Self-attention, attention to a context where there is one, MLP; each modulated and gated per frame."""

    def __init__(self, width: int, *, heads: int, hidden: int, rank: int, context_width: int = 0) -> None:
        """Make the block; without `context_width` there is no cross-attention."""
        super().__init__()
        self.self_attn = Attention(width, heads=heads)
        self.adaln_modulation_self_attn = modulation(width, rank, chunks=3)
        if context_width:
            self.cross_attn = Attention(width, heads=heads, context_width=context_width)
            self.adaln_modulation_cross_attn = modulation(width, rank, chunks=3)
        self.context_width = context_width
        self.mlp = FeedForward(width, hidden)
        self.adaln_modulation_mlp = modulation(width, rank, chunks=3)

    def forward(
        self,
        x_BTND: Tensor,
        time_embedding_BTD: Tensor,
        shared_BTE: Tensor,
        angle_SR: Tensor,
        context_BLD: Tensor | None = None,
    ) -> Tensor:
        """Apply the block.

        Args:
            x_BTND: Tokens.
            time_embedding_BTD: Normed timestep sinusoids of each frame, for the low-rank paths.
            shared_BTE: Modulation [B, T, 3 D] that all blocks share.
            angle_SR: Rotary angles of all tokens.
            context_BLD: What cross-attention looks at.

        Returns:
            [B, T, N, D].
        """
        frames = x_BTND.shape[1:3]
        shift, scale, gate = (self.adaln_modulation_self_attn(time_embedding_BTD) + shared_BTE).chunk(3, dim=-1)
        mixed = self.self_attn(modulate(x_BTND, shift, scale).flatten(1, 2), None, angle_SR).unflatten(1, frames)
        x_BTND = x_BTND + gate[:, :, None] * mixed
        if self.context_width:
            shift, scale, gate = (self.adaln_modulation_cross_attn(time_embedding_BTD) + shared_BTE).chunk(3, dim=-1)
            mixed = self.cross_attn(modulate(x_BTND, shift, scale).flatten(1, 2), context_BLD).unflatten(1, frames)
            x_BTND = x_BTND + gate[:, :, None] * mixed
        shift, scale, gate = (self.adaln_modulation_mlp(time_embedding_BTD) + shared_BTE).chunk(3, dim=-1)
        out: Tensor = x_BTND + gate[:, :, None] * self.mlp(modulate(x_BTND, shift, scale))
        return out


class FinalLayer(nn.Module):
    """Modulated norm and a linear map to patches."""

    def __init__(self, width: int, out: int, *, rank: int) -> None:
        """Make the layer; `out` counts all values of a patch."""
        super().__init__()
        self.linear = linear(width, out)
        self.adaln_modulation = modulation(width, rank, chunks=2)

    def forward(self, x_BTND: Tensor, time_embedding_BTD: Tensor, shared_BTE: Tensor) -> Tensor:
        """[B, T, N, D] -> [B, T, N, out]."""
        both = self.adaln_modulation(time_embedding_BTD) + shared_BTE[..., : 2 * x_BTND.shape[-1]]
        shift, scale = both.chunk(2, dim=-1)
        out: Tensor = self.linear(modulate(x_BTND, shift, scale))
        return out
