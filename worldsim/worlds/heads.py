"""Small networks that read a predicted latent: next proprioception, task progress and success.

Shape legend: B batch, c h w latent, P proprio, A action, F features.
"""

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.data.windows import Clip

DRIFT = 0.05
"""Disturbance of proprioception in training, in its standard deviations."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadsConfig:
    """Shape of the heads.

    Attributes:
        latent_shape: (c, h, w).
        proprio_dim: P.
        action_dim: A.
        width: Hidden width.
    """

    latent_shape: tuple[int, int, int]
    proprio_dim: int
    action_dim: int
    width: int = 96


class Heads(nn.Module):
    """Proprioception, progress and success from a latent, its episode's first latent, and the action just taken."""

    proprio_scale_P: Tensor
    latent_mean: Tensor
    latent_scale: Tensor

    def __init__(self, config: HeadsConfig) -> None:
        """Make untrained heads."""
        super().__init__()
        self.config = config
        channels, height, width = config.latent_shape
        if height * width == 1:
            self.features: nn.Module = nn.Flatten()
            size = 2 * channels
        else:
            self.features = nn.Sequential(
                nn.Conv2d(2 * channels, 32, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(32, 32, 3, stride=2, padding=1),
                nn.SiLU(),
                nn.Flatten(),
            )
            size = 32 * ((height + 1) // 2) * ((width + 1) // 2)
        self.task = _mlp(size, config.width, 2)
        self.body = _mlp(size + config.proprio_dim + config.action_dim, config.width, config.proprio_dim)
        self.register_buffer("proprio_scale_P", torch.ones(config.proprio_dim))
        self.register_buffer("latent_mean", torch.zeros(channels, 1, 1))
        self.register_buffer("latent_scale", torch.ones(channels, 1, 1))

    def forward(
        self, z_BCHW: Tensor, start_BCHW: Tensor, proprio_BP: Tensor, action_BA: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Read one step.

        Args:
            z_BCHW: The latent after the action.
            start_BCHW: The episode's first latent (progress may be measured from where it began).
            proprio_BP: Proprioception before the action, physical units.
            action_BA: The action, in [-1, 1].

        Returns:
            Proprioception after the action [B, P], progress logit [B], success logit [B].
        """
        features = self._look(z_BCHW, start_BCHW)
        progress, success = self.task(features).unbind(-1)
        body = self.body(torch.cat([features, proprio_BP / self.proprio_scale_P, action_BA], dim=-1))
        return proprio_BP + body * self.proprio_scale_P, progress, success

    def outcome(self, z_BCHW: Tensor, start_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Progress, and the probability that the task stands solved, both [B], in latents of episodes that began with others."""
        progress_B, success_B = self.task(self._look(z_BCHW, start_BCHW)).sigmoid().unbind(-1)
        return progress_B, success_B

    def _look(self, z_BCHW: Tensor, start_BCHW: Tensor) -> Tensor:
        """What is read of a latent and its episode's first, [B, F]."""
        both = torch.stack([z_BCHW, start_BCHW], dim=1)
        scaled = ((both - self.latent_mean) / self.latent_scale).clamp(-5, 5)
        return self.features(scaled.flatten(1, 2))  # type: ignore[no-any-return]

    def calibrate(self, clip: Clip) -> None:
        """Measure the scales of latents and of proprioceptive change on windows of two frames or more."""
        self.latent_mean.copy_(clip.z_BTCHW.mean((0, 1, 3, 4))[:, None, None])
        self.latent_scale.copy_(clip.z_BTCHW.std((0, 1, 3, 4)).clamp_min(1e-2)[:, None, None])
        self.proprio_scale_P.copy_(clip.proprio_BTP.std((0, 1)).clamp_min(1e-6))

    def loss(self, clip: Clip, generator: torch.Generator | None = None) -> tuple[Tensor, dict[str, float]]:
        """Errors of all three heads, a scalar, on windows of two frames; labels that are nan are left out.

        Proprioception before the action is disturbed, so that the head learns to pull a drifting body back to where the
        latent shows it.

        Args:
            clip: Windows of two frames.
            generator: Source of the disturbance.
        """
        z_BCHW, before = clip.z_BTCHW[:, 1], clip.proprio_BTP[:, 0]
        noise = torch.randn(before.shape, generator=generator).to(before)
        before = before + noise * self.proprio_scale_P * DRIFT
        proprio, progress, success = self(z_BCHW, clip.start_BCHW, before, clip.action_BTA[:, 0])
        body = ((proprio - clip.proprio_BTP[:, 1]) / self.proprio_scale_P).square().mean()
        how_far = _labelled(progress.sigmoid(), clip.progress_BT[:, 1], F.mse_loss)
        solved = _labelled(success, clip.success_BT[:, 1], F.binary_cross_entropy_with_logits)
        figures = {
            "proprio": float(body.detach()),
            "progress": float(how_far.detach()),
            "success": float(solved.detach()),
        }
        return 10 * body + 10 * how_far + solved, figures


def _labelled(given: Tensor, label: Tensor, miss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Mean loss over the rows that have a label; zero where none has."""
    known = label.isfinite()
    return miss(given[known], label[known]) if bool(known.any()) else given.sum() * 0


def _mlp(size: int, width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, out))
