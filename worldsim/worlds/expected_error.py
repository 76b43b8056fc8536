"""How far off an open-loop prediction is expected to be, learned from a world's own errors on recordings.

Members of an ensemble that learned from the same episodes err alike where the data says little, so that their spread tells
little of their errors. What makes errors large is how long a prediction has run, how far things and readings went in it, under
which actions, and where it ended. Small networks read that, the spread among it, and say how large errors were where it was alike.

Shape legend: B batch, G groups of readings, R readings, D latent channels (twice as many where latents are grids), K things,
E encoded action, X features, J horizons, M members.
"""

import dataclasses

import torch
from torch import Tensor, nn

from worldsim.core import Rows
from worldsim.predict.mlp import MemberMLP
from worldsim.tokenizers.base import LatentSpace
from worldsim.tokenizers.cameras import held_places

_SMALL = 1e-3
"""Motions below this, in standard deviations, count as none."""
_LITTLE = 1e-5
"""Spreads below this count as none."""
_FAR = 4.0
"""Features count up to so many standard deviations from their mean."""
OUTCOMES = 2
"""Progress and success, which every world reads."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ErrorModelConfig:
    """Shape of an error model.

    Attributes:
        channels: D, numbers that a latent is described by.
        things: K whose places are read off latents.
        action_dim: E.
        horizons: Steps ahead at which errors were known, rising.
        members: M of both ensembles.
        width: Hidden width.
    """

    channels: int
    things: int
    action_dim: int
    horizons: tuple[int, ...]
    members: int = 4
    width: int = 64

    @property
    def groups(self) -> list[int]:
        """Readings of which motion is measured together: progress, success, each thing's place, the latent."""
        return [*[1] * OUTCOMES, *[2] * self.things, self.channels]

    @property
    def few(self) -> int:
        """Features that do not depend on what a latent's channels mean."""
        return 2 + OUTCOMES + 2 * len(self.groups) + self.action_dim

    @property
    def all(self) -> int:
        """All features."""
        return self.few + 3 * self.channels + self.action_dim + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenLoop(Rows):
    """What B predictions did since they began, or since something was last observed."""

    start: Tensor  # [B, R], readings then
    now: Tensor  # [B, R]
    path: Tensor  # [B, R], absolute changes, summed over the steps
    action: Tensor  # [B, E], summed
    effort: Tensor  # [B, E], absolute actions, summed
    spread: Tensor  # [B], squared, summed
    last_spread: Tensor  # [B], of the last step
    steps: Tensor  # [B]

    @classmethod
    def begin(cls, reading_BR: Tensor, action_BE: Tensor) -> "OpenLoop":
        """Nothing predicted yet; of the actions only the shape is used."""
        none_B, none_BE = torch.zeros_like(reading_BR[:, 0]), torch.zeros_like(action_BE)
        return cls(
            start=reading_BR,
            now=reading_BR,
            path=torch.zeros_like(reading_BR),
            action=none_BE,
            effort=none_BE,
            spread=none_B,
            last_spread=none_B,
            steps=none_B,
        )

    def go_on(self, reading_BR: Tensor, action_BE: Tensor, spread_B: Tensor) -> "OpenLoop":
        """One step later."""
        return OpenLoop(
            start=self.start,
            now=reading_BR,
            path=self.path + (reading_BR - self.now).abs(),
            action=self.action + action_BE,
            effort=self.effort + action_BE.abs(),
            spread=self.spread + spread_B.square(),
            last_spread=spread_B,
            steps=self.steps + 1,
        )


def describe_latent(z_BCHW: Tensor) -> Tensor:
    """A latent as numbers [B, D]: itself, or mean and standard deviation of each channel where it is a grid."""
    if z_BCHW.shape[2] * z_BCHW.shape[3] == 1:
        return z_BCHW.flatten(1)
    flat = z_BCHW.flatten(2)
    return torch.cat([flat.mean(2), flat.var(2, correction=0).clamp_min(_SMALL**2).sqrt()], 1)


def read_all(tokenizer: LatentSpace, z_BCHW: Tensor, progress_B: Tensor, success_B: Tensor) -> Tensor:
    """What an error model follows, [B, R]: progress, success, places of things in pixels, and the latent's numbers."""
    places = held_places(tokenizer, z_BCHW)
    xy_BK2 = [] if places is None else [places[0].flatten(1)]
    return torch.cat([progress_B[:, None], success_B[:, None], *xy_BK2, describe_latent(z_BCHW)], 1)


class ErrorModel(nn.Module):
    """Expected error of what outcomes are read from, as a share of what a constant prediction is off by.

    Half of the networks see few features, which say the same in every world; the other half see the latents too.
    """

    reading_scale_R: Tensor
    group_RG: Tensor
    mean_X: Tensor
    scale_X: Tensor
    horizon_J: Tensor
    level_J: Tensor
    scale: Tensor

    def __init__(self, config: ErrorModelConfig) -> None:
        """Make an untrained error model."""
        super().__init__()
        self.config = config
        hidden = (config.width, config.width)
        self.by_few = MemberMLP(config.members, 1, (config.few, *hidden, 1))
        self.by_all = MemberMLP(config.members, 1, (config.all, *hidden, 1))
        self.register_buffer("reading_scale_R", torch.ones(sum(config.groups)))
        self.register_buffer("group_RG", torch.block_diag(*[torch.ones(n, 1) for n in config.groups]), persistent=False)
        self.register_buffer("mean_X", torch.zeros(config.all))
        self.register_buffer("scale_X", torch.ones(config.all))
        self.register_buffer("horizon_J", torch.tensor(config.horizons, dtype=torch.float32).log())
        self.register_buffer("level_J", torch.zeros(len(config.horizons)))
        self.register_buffer("scale", torch.ones(()))

    def features(self, done: OpenLoop) -> Tensor:
        """What is read of predictions, [B, X], the few first."""
        scaled_2BR = torch.stack([done.now - done.start, done.path]) / self.reading_scale_R
        moved_BG, path_BG = _log((scaled_2BR.square() @ self.group_RG).clamp_min(_SMALL**4).sqrt())
        few = [
            (1 + done.steps[:, None]).log(),
            (done.spread[:, None] + _LITTLE**2).log() / 2,
            done.now[:, :OUTCOMES],
            moved_BG,
            path_BG,
            done.effort,
        ]
        latents = [done.now[:, -self.config.channels :], *_log(scaled_2BR[..., -self.config.channels :].abs())]
        return torch.cat([*few, *latents, done.action, (done.last_spread[:, None] + _LITTLE).log()], 1)

    @torch.no_grad()
    def calibrate(self, done: OpenLoop) -> Tensor:
        """Measure the scales of readings and features on predictions; their standardised features, [B, X]."""
        self.reading_scale_R.copy_(done.now.std(0, correction=0).clamp_min(1e-6))
        raw_BX = self.features(done)
        self.mean_X.copy_(raw_BX.mean(0))
        self.scale_X.copy_(raw_BX.std(0, correction=0).clamp_min(1e-6))
        return self._standardise(raw_BX)

    def _standardise(self, raw_BX: Tensor) -> Tensor:
        return ((raw_BX - self.mean_X) / self.scale_X).clamp(-_FAR, _FAR)

    def look(self, x_MBX: Tensor) -> Tensor:
        """How each network thinks that errors compare with others at their horizon, in standard deviations.

        Args:
            x_MBX: Standardised features, a batch for each network, [2 M, B, X].

        Returns:
            [2 M, B].
        """
        few, every = x_MBX.split(self.config.members)
        parts = [self.by_few(few[:, None, :, : self.config.few]), self.by_all(every[:, None])]
        return torch.cat(parts)[:, 0, :, 0]

    def forward(self, done: OpenLoop) -> Tensor:
        """Expected error of what outcomes are read from, [B], 1 where a constant is as good."""
        x_BX = self._standardise(self.features(done))
        compared_B = self.look(x_BX[None].expand(2 * self.config.members, -1, -1)).mean(0)
        return (self._level(done.steps) + self.scale * compared_B).exp()

    def _level(self, steps_B: Tensor) -> Tensor:
        """The logarithm of what errors come to after so many steps, [B], between horizons by the logarithm of steps."""
        widths_J = self.horizon_J.diff()
        at_BJ = steps_B.clamp_min(1).log()[:, None] - self.horizon_J[:-1]
        along_BJ = torch.minimum(at_BJ.clamp_min(0), widths_J)
        return self.level_J[0] + along_BJ @ (self.level_J.diff() / widths_J)


def _log(x: Tensor) -> Tensor:
    return (x + _SMALL).log()
