"""The diffusion transformer: noisy and clean latent frames in, one value per latent entry out.

The network of Cosmos-Predict2 (arXiv 2511.00062) at any size: a timestep per frame, so that clean history frames and a noisy one sit in the
same clip; what is known of each frame (its action) is embedded and added to that timestep; positions are rotary in three axes. It
knows nothing of noise schedules or of what its output means: `worldsim.predict.dit.flow` does. Parameter names are those of the public weights.

Shape legend: B batch, C channels, T frames, H W latent grid, D width, A condition, L context.
"""

import dataclasses

from torch import Tensor, nn

from worldsim.errors import InvalidInputError
from worldsim.predict.dit.attention import axis_dims, rope_angles
from worldsim.predict.dit.blocks import (
    ActionEmbedding,
    Block,
    FinalLayer,
    PatchEmbed,
    TimestepEmbedding,
    Timesteps,
    unpatchify,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionTransformerConfig:
    """Shape of the network.

    Attributes:
        in_channels: C of the input, masks included.
        out_channels: C of the output.
        patch: Side of a token's patch in latent cells.
        width: D, a multiple of `heads`.
        depth: Blocks.
        heads: Attention heads; each needs an even width of at least 6.
        mlp_ratio: Hidden width of the MLP over D.
        adaln_lora_dim: Rank of the per-block modulation.
        condition_dim: A, what is known of each frame; 0 for nothing.
        context_dim: Width of the tokens that cross-attention looks at; 0 for no cross-attention.
        rope_ratios: Stretch of time, height and width, as in `rope_angles`.
        base_fps_hz: Frame rate at which one frame counts as one.
    """

    in_channels: int
    out_channels: int
    patch: int = 2
    width: int = 128
    depth: int = 6
    heads: int = 4
    mlp_ratio: float = 4.0
    adaln_lora_dim: int = 32
    condition_dim: int = 0
    context_dim: int = 0
    rope_ratios: tuple[float, float, float] = (1.0, 1.0, 1.0)
    base_fps_hz: float = 24.0


class DiffusionTransformer(nn.Module):
    """See the module's text."""

    def __init__(self, config: DiffusionTransformerConfig) -> None:
        """Make an untrained network.

        Raises:
            InvalidInputError: The width does not divide into heads, or heads are too narrow for three axes.
        """
        super().__init__()
        if config.width % config.heads or config.width % 2:
            raise InvalidInputError(
                f"width must be even and a multiple of heads; got {config.width} and {config.heads}."
            )
        axis_dims(config.width // config.heads)
        self.config = config
        width = config.width
        self.x_embedder = PatchEmbed(config.in_channels, width, patch=config.patch)
        self.t_embedder = nn.Sequential(Timesteps(width), TimestepEmbedding(width))
        self.t_embedding_norm = nn.RMSNorm(width, eps=1e-6)
        if config.condition_dim:
            self.action_embedder_B_D = ActionEmbedding(config.condition_dim, width, width)
            self.action_embedder_B_3D = ActionEmbedding(config.condition_dim, width, 3 * width)
        self.blocks = nn.ModuleList(
            Block(
                width,
                heads=config.heads,
                hidden=int(width * config.mlp_ratio),
                rank=config.adaln_lora_dim,
                context_width=config.context_dim,
            )
            for _ in range(config.depth)
        )
        self.final_layer = FinalLayer(width, config.out_channels * config.patch**2, rank=config.adaln_lora_dim)

    def embed_frames(self, time_BT: Tensor, condition_BTA: Tensor | None) -> tuple[Tensor, Tensor]:
        """Normed sinusoids [B, T, D] and shared modulation [B, T, 3 D], from each frame's timestep and condition."""
        dtype = self.final_layer.linear.weight.dtype
        time_embedding_BTD = self.t_embedder[0](time_BT).to(dtype)
        shared_BTE = self.t_embedder[1](time_embedding_BTD)
        if self.config.condition_dim:
            if condition_BTA is None:
                raise InvalidInputError(
                    f"This network needs a condition of width {self.config.condition_dim} for each frame."
                )
            condition_BTA = condition_BTA.to(dtype)
            # Before the norm: added after it, as one public network does, the low-rank paths never see the action.
            time_embedding_BTD = time_embedding_BTD + self.action_embedder_B_D(condition_BTA)
            shared_BTE = shared_BTE + self.action_embedder_B_3D(condition_BTA)
        return self.t_embedding_norm(time_embedding_BTD), shared_BTE

    def forward(
        self,
        x_BCTHW: Tensor,
        time_BT: Tensor,
        *,
        condition_BTA: Tensor | None = None,
        context_BLD: Tensor | None = None,
        fps_hz: float | None = None,
    ) -> Tensor:
        """Run the network.

        Args:
            x_BCTHW: [B, in_channels, T, H, W]; H and W multiples of `patch`.
            time_BT: Timestep of each frame, in the unit the weights were trained with.
            condition_BTA: What is known of each frame.
            context_BLD: Tokens for cross-attention.
            fps_hz: Frame rate; None counts frames.

        Returns:
            [B, out_channels, T, H, W].

        Raises:
            InvalidInputError: The grid does not divide into patches, or a condition is missing.
        """
        patch, config = self.config.patch, self.config
        if x_BCTHW.shape[-1] % patch or x_BCTHW.shape[-2] % patch:
            raise InvalidInputError(
                f"The latent grid {tuple(x_BCTHW.shape[-2:])} is no multiple of patch={patch}. Use patch=1."
            )
        x_BThwD = self.x_embedder(x_BCTHW)
        grid = x_BThwD.shape[1:4]
        angle_SR = rope_angles(
            (grid[0], grid[1], grid[2]),
            head_dim=config.width // config.heads,
            ratios=config.rope_ratios,
            fps_hz=fps_hz,
            base_fps_hz=config.base_fps_hz,
            device=x_BCTHW.device,
        )
        time_embedding_BTD, shared_BTE = self.embed_frames(time_BT, condition_BTA)
        x_BTND = x_BThwD.flatten(2, 3)
        for block in self.blocks:
            x_BTND = block(x_BTND, time_embedding_BTD, shared_BTE, angle_SR, context_BLD)
        y_BTNO = self.final_layer(x_BTND, time_embedding_BTD, shared_BTE)
        return unpatchify(y_BTNO.unflatten(2, (grid[1], grid[2])), patch)
