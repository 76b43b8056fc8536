"""Small ensembles: multilayer perceptrons evaluated in one go, and the predictor made of them for true states.

The predictor gives the change of state and body from history and actions, for true states that are no planar poses (those
move rigidly: `worldsim.predict.rigid`). Not for pictures.

Shape legend: M members, L layers (or 1), B batch, F features, K history, T time, D latent channels, P proprio, A action.
"""

import dataclasses
import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.conditions import Conditions
from worldsim.data.windows import Clip
from worldsim.noise import seeded
from worldsim.predict.base import History, WindowPredictor


class MemberMLP(nn.Module):
    """M x L independent multilayer perceptrons evaluated as batched matrix products: [M, L, B, F] -> [M, L, B, out]."""

    def __init__(self, members: int, layers: int, sizes: tuple[int, ...]) -> None:
        """Make the weights; `sizes` lists input, hidden and output widths. The last layer starts near zero."""
        super().__init__()
        self.layers, self.sizes = layers, sizes
        self.weight = nn.ParameterList()
        self.bias = nn.ParameterList()
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            gain = 0.01 if i == len(sizes) - 2 else math.sqrt(2)
            self.weight.append(torch.randn(members * layers, fan_in, fan_out) * gain / math.sqrt(fan_in))
            self.bias.append(torch.zeros(members * layers, 1, fan_out))

    def only(self, member: int) -> "MemberMLP":
        """One member as an ensemble of one; its weights are shared, not copied."""
        with seeded(0):  # what follows draws the same random numbers
            alone = MemberMLP(1, self.layers, self.sizes)
        rows = slice(member * self.layers, (member + 1) * self.layers)
        for own, every in ((alone.weight, self.weight), (alone.bias, self.bias)):
            for i, value in enumerate(every):
                own[i] = nn.Parameter(value.detach()[rows], requires_grad=value.requires_grad)
        return alone

    def forward(self, x_MLBF: Tensor) -> Tensor:
        """Apply each member's network of each layer to its own features."""
        h = x_MLBF.flatten(0, 1)
        weights, biases = (list[Any](each._parameters.values()) for each in (self.weight, self.bias))
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            h = torch.baddbmm(bias, h, weight)
            h = F.silu(h, inplace=not h.requires_grad)
        return torch.baddbmm(biases[-1], h, weights[-1]).unflatten(0, x_MLBF.shape[:2])


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Shape of the predictor.

    Attributes:
        latent_shape: (D, 1, 1).
        proprio_dim: P.
        action_dim: A.
        history: K frames of context.
        members: Ensemble size M.
        width: Hidden width.
        depth: Hidden layers.
    """

    latent_shape: tuple[int, int, int]
    proprio_dim: int
    action_dim: int
    history: int = 2
    members: int = 3
    width: int = 192
    depth: int = 3


class MLPPredictor(WindowPredictor):
    """Predict the change of latent and body together, so that a rollout is fed its own body too."""

    mean_S: Tensor
    scale_S: Tensor
    change_S: Tensor

    def __init__(self, config: MLPConfig) -> None:
        """Make an untrained predictor."""
        super().__init__()
        self.config = config
        size = config.latent_shape[0] + config.proprio_dim
        entry = config.history * (size + config.action_dim)
        self.net = MemberMLP(config.members, 1, (entry, *(config.width,) * config.depth, size))
        for name in ("mean_S", "scale_S", "change_S"):
            self.register_buffer(name, torch.ones(size) if name != "mean_S" else torch.zeros(size))

    def calibrate(self, clip: Clip) -> None:
        """Measure the spread of states and of their changes."""
        s_BTS = torch.cat([clip.z_BTCHW[..., 0, 0], clip.proprio_BTP], dim=-1)
        self.mean_S.copy_(s_BTS.mean((0, 1)))
        self.scale_S.copy_(s_BTS.std((0, 1)).clamp_min(1e-4))
        self.change_S.copy_((s_BTS[:, 1:] - s_BTS[:, :-1]).square().mean((0, 1)).sqrt().clamp_min(1e-5))

    def members(self) -> tuple["MLPPredictor", ...]:
        """Every member as a predictor of its own, its weights shared; alone, it has no uncertainty."""
        return tuple(self._only(m) for m in range(self.config.members))

    def _only(self, member: int) -> "MLPPredictor":
        with seeded(0):
            alone = MLPPredictor(dataclasses.replace(self.config, members=1))
        alone.net = self.net.only(member)
        alone.mean_S, alone.scale_S, alone.change_S = self.mean_S, self.scale_S, self.change_S
        return alone.train(self.training)

    def _next(self, s_MBKS: Tensor, action_BKE: Tensor) -> Tensor:
        """Each member's next state [M, B, S]."""
        entry = torch.cat([((s_MBKS - self.mean_S) / self.scale_S).flatten(2), self._expand(action_BKE)], dim=-1)
        out: Tensor = s_MBKS[:, :, -1] + self.net(entry[:, None])[:, 0] * self.change_S
        return out

    def _expand(self, action_BKE: Tensor) -> Tensor:
        return action_BKE.flatten(1)[None].expand(self.config.members, -1, -1)

    def predict(
        self, past: History, noise: Tensor | None = None, conditions: Conditions | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean of the members' next latents [B, D, 1, 1], and their spread [B] in typical changes."""
        s_BKS = torch.cat([past.z[..., 0, 0], past.proprio], dim=-1)
        s_MBS = self._next(s_BKS[None].expand(self.config.members, -1, -1, -1), past.action)
        spread = (s_MBS / self.change_S).var(0, correction=0).mean(-1).sqrt()
        return s_MBS.mean(0)[:, : self.config.latent_shape[0], None, None], spread

    def loss(
        self, clip: Clip, unroll: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """Huber error of every member's own rollout, in typical changes, a scalar."""
        k = self.config.history
        s_BTS = torch.cat([clip.z_BTCHW[..., 0, 0], clip.proprio_BTP], dim=-1)
        s_MBKS = s_BTS[None, :, :k].expand(self.config.members, -1, -1, -1)
        total = s_BTS.new_zeros(())
        for h in range(unroll):
            s_MBS = self._next(s_MBKS, clip.action_BTA[:, h : h + k])
            miss = (s_MBS - s_BTS[None, :, k + h]) / self.change_S
            total = total + nn.functional.smooth_l1_loss(miss, torch.zeros_like(miss))
            s_MBKS = torch.cat([s_MBKS[:, :, 1:], s_MBS[:, :, None]], dim=2)
        return total / max(unroll, 1), {"miss": float(miss.detach().abs().mean()) if unroll else 0.0}
