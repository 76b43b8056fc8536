"""Deterministic convolutional predictor: repaint the latent grid, given the last frames and the action.

The simplest thing that works on any picture, and fast; it averages over what it is unsure of, so long rollouts blur.
Trained on its own multi-step rollouts. A small head learns how large its error is going to be, which is its uncertainty.

Shape legend: B batch, K history, T time, C H W latent, P proprio, A action, F width.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.conditions import Conditions
from worldsim.data.windows import Clip
from worldsim.errors import InvalidInputError
from worldsim.predict.base import History, WindowPredictor

GROUPS = 8
"""Groups of the normalisation."""
FLOOR = 0.01
"""Errors below this, in typical changes, count as none when the expected error is learned."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvConfig:
    """Shape of the predictor.

    Attributes:
        latent_shape: (C, H, W).
        proprio_dim: P.
        action_dim: A.
        history: K frames of context.
        width: F, channels of the trunk, a multiple of 8.
        blocks: Residual blocks.
    """

    latent_shape: tuple[int, int, int]
    proprio_dim: int
    action_dim: int
    history: int = 2
    width: int = 64
    blocks: int = 6


class ModulatedBlock(nn.Module):
    """Residual block whose features are scaled and shifted by the condition (FiLM: Perez et al., AAAI 2018, eq. 2)."""

    def __init__(self, width: int, condition: int, *, dilation: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.modulation = nn.Linear(condition, 2 * width)
        self.first = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x_BFHW: Tensor, condition_BD: Tensor) -> Tensor:
        """Add a conditioned correction."""
        scale, shift = self.modulation(condition_BD)[..., None, None].chunk(2, dim=1)
        h = F.silu(self.norm(x_BFHW) * (1 + scale) + shift)
        out: Tensor = x_BFHW + self.second(F.silu(self.first(h)))
        return out


class ConvPredictor(WindowPredictor):
    """Predict the change of the latent grid."""

    change_scale: Tensor
    proprio_mean_P: Tensor
    proprio_scale_P: Tensor

    def __init__(self, config: ConvConfig) -> None:
        """Make an untrained predictor that predicts no change.

        Raises:
            InvalidInputError: The width is no multiple of 8.
        """
        super().__init__()
        if config.width < GROUPS or config.width % GROUPS:
            raise InvalidInputError(f"width must be a multiple of {GROUPS}; got {config.width}.")
        self.config = config
        channels, height, width = config.latent_shape
        condition = config.history * (config.action_dim + config.proprio_dim)
        self.embed = nn.Sequential(nn.Linear(condition, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU())
        self.conv_in = nn.Conv2d(channels * config.history, config.width, 3, padding=1)
        self.pos_embed = nn.Parameter(torch.zeros(config.width, height, width))
        self.blocks = nn.ModuleList(ModulatedBlock(config.width, 128, dilation=1 + i % 2) for i in range(config.blocks))
        self.conv_out = nn.Conv2d(config.width, channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]
        self.expected_error = nn.Conv2d(config.width, 1, 1)
        self.register_buffer("change_scale", torch.ones(channels, 1, 1))
        self.register_buffer("proprio_mean_P", torch.zeros(config.proprio_dim))
        self.register_buffer("proprio_scale_P", torch.ones(config.proprio_dim))

    def calibrate(self, clip: Clip) -> None:
        """Measure the spread of latent changes and of proprioception."""
        change = clip.z_BTCHW[:, 1:] - clip.z_BTCHW[:, :-1]
        self.change_scale.copy_(change.square().mean((0, 1, 3, 4)).sqrt().clamp_min(1e-4)[:, None, None])
        self.proprio_mean_P.copy_(clip.proprio_BTP.mean((0, 1)))
        self.proprio_scale_P.copy_(clip.proprio_BTP.std((0, 1)).clamp_min(1e-6))

    def predict(
        self, past: History, noise: Tensor | None = None, conditions: Conditions | None = None
    ) -> tuple[Tensor, Tensor]:
        """Next latent [B, C, H, W]; arguments as `WindowPredictor.predict`.

        Returns:
            Next latent, and the error that the predictor has learned to expect of it, root mean square in units of the latents'
            typical change [B].
        """
        body = (past.proprio - self.proprio_mean_P) / self.proprio_scale_P
        condition = self.embed(torch.cat([past.action, body], dim=-1).flatten(1))
        h = self.conv_in(past.z.flatten(1, 2)) + self.pos_embed
        for block in self.blocks:
            h = block(h, condition)
        h = F.silu(h)
        expected_B = F.softplus(self.expected_error(h.detach())).square().mean((1, 2, 3)).sqrt()
        return past.z[:, -1] + self.conv_out(h) * self.change_scale, expected_B

    def loss(
        self, clip: Clip, unroll: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """Squared error of its own rollout, heavier where the latent moves, and how well it expected that error.

        Args:
            clip: Latents [B, T, C, H, W] with T >= history + unroll, and actions in [-1, 1].
            unroll: Steps the predictor is fed its own output.
            generator: Unused; there is no noise in this objective.
        """
        k = self.config.history
        z_BKCHW = clip.z_BTCHW[:, :k]
        total, error = clip.z_BTCHW.new_zeros(()), 0.0
        for h in range(unroll):
            past = History.at(clip, h, z_BKCHW)
            z_BCHW, expected_B = self.predict(past)
            target = clip.z_BTCHW[:, k + h]
            moved = ((target - clip.z_BTCHW[:, k - 1]) / self.change_scale).square().mean(1, keepdim=True) > 0.5
            miss = (z_BCHW - target).square()
            made_B = (miss.detach() / self.change_scale.square()).mean((1, 2, 3)).sqrt()
            calibration = ((expected_B + FLOOR).log() - (made_B + FLOOR).log()).square().mean()
            total = total + (miss * (1 + 4 * moved)).mean() + 0.01 * calibration
            error = float(miss.detach().mean())
            z_BKCHW = past.followed_by(z_BCHW).z
        return total / max(unroll, 1), {"mse": error}
