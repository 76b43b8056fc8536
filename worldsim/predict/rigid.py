"""Rigid motion: predict how each layer moves, not what it looks like.

Two stages per step. Each layer first proposes its free motion from its own past and the action (absolute position allowed:
workspace limits are absolute). Then a contact network corrects it from what the other layers do *as seen from the layer's
own frame*, so that pushing learned at one place and angle holds at every other (SE(2) equivariance; object-centric
interactions as in Battaglia et al., "Interaction networks", 2016, eq. 1-3). An ensemble of members is trained side by side;
the mean moves the layers, the spread is the uncertainty.

For latents made of poses (`worldsim.tokenizers.layers.tokenizer`); grids of features go to the conv and transformer predictors.

Shape legend: M members, B batch, K history, T time, L layers, P=4 pose channels, D latent channels = 4 L, A action,
F features, O=3 motion (x and y in image half-widths, turn in radians, in the layer's own frame).
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.conditions import Conditions
from worldsim.data.windows import Clip
from worldsim.noise import seeded
from worldsim.predict.base import History, WindowPredictor
from worldsim.predict.mlp import MemberMLP
from worldsim.tokenizers.layers.tokenizer import ABSENT, POSE, apply_motion


@dataclasses.dataclass(frozen=True, kw_only=True)
class RigidConfig:
    """Shape of a rigid motion predictor.

    Attributes:
        latent_shape: (4 L, 1, 1), as the layer tokenizer gives it.
        orders: Rotational symmetry per layer, as in `LayersConfig`.
        proprio_dim: Width of proprioception (unused by the motion itself, kept for the common interface).
        action_dim: A.
        history: K frames of context.
        members: Ensemble size M.
        width: Hidden width of both networks.
        depth: Hidden layers of both networks.
        lever: Image half-widths per radian when a turn is weighed against a displacement: a typical sprite radius.
    """

    latent_shape: tuple[int, int, int]
    orders: tuple[int, ...]
    proprio_dim: int
    action_dim: int
    history: int = 2
    members: int = 3
    width: int = 192
    depth: int = 3
    lever: float = 0.15


def _rotate(vector: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn image-frame vectors [..., 2] into a frame at angle (cos, sin)."""
    x, y = vector[..., 0], vector[..., 1]
    return torch.stack([cos * x + sin * y, cos * y - sin * x], dim=-1)


class RigidPredictor(WindowPredictor):
    """Predict the next poses from K past poses and actions."""

    motion_scale_LO: Tensor

    def __init__(self, config: RigidConfig) -> None:
        """Make an untrained predictor."""
        super().__init__()
        self.config = config
        count, k = len(config.orders), config.history
        hidden = (config.width,) * config.depth
        own = 4 + 3 * (k - 1) + config.action_dim * k
        seen = 3 * k + (count - 1) * (4 + 3 * k)
        self.free = MemberMLP(config.members, count, (own, *hidden, 3))
        self.contact = MemberMLP(config.members, count, (seen, *hidden, 3))
        self.register_buffer("motion_scale_LO", torch.full((count, 3), 0.05))

    def calibrate(self, clip: Clip) -> None:
        """Measure the spread of the layers' motions, to normalise inputs and outputs."""
        z_NTLP = clip.z_BTCHW[..., 0, 0].unflatten(-1, (-1, POSE))
        present_N = (z_NTLP[..., :2].abs() < ABSENT / 2).flatten(1).all(1)
        motion = self._motions(z_NTLP[None, present_N])[0]
        spread = motion.flatten(0, 1).square().mean(0).sqrt()
        plane = (
            spread[:, :2].square().mean(1, keepdim=True).sqrt().expand(-1, 2)
        )  # x and y must share a scale to rotate
        self.motion_scale_LO.copy_(torch.cat([plane, spread[:, 2:]], dim=1).clamp_min(1e-3))

    def members(self) -> tuple["RigidPredictor", ...]:
        """Every member as a predictor of its own, its weights shared; alone, it has no uncertainty."""
        return tuple(self._only(m) for m in range(self.config.members))

    def _only(self, member: int) -> "RigidPredictor":
        with seeded(0):
            alone = RigidPredictor(dataclasses.replace(self.config, members=1))
        alone.free, alone.contact = self.free.only(member), self.contact.only(member)
        alone.motion_scale_LO = self.motion_scale_LO
        return alone.train(self.training)

    def _angles(self, z_LP: Tensor) -> Tensor:
        """Angle of every layer [..., L] in radians; 0 for round layers."""
        order = z_LP.new_tensor([max(o, 1) for o in self.config.orders])
        turns = z_LP.new_tensor([float(o > 0) for o in self.config.orders])
        return torch.atan2(z_LP[..., 3], z_LP[..., 2]) / order * turns

    def _motions(self, z_MBTLP: Tensor) -> Tensor:
        """Motion between consecutive frames, in the earlier frame's own axes: [M, B, T-1, L, 3]."""
        before, after = z_MBTLP[:, :, :-1], z_MBTLP[:, :, 1:]
        angle = self._angles(before)
        shift = _rotate(after[..., :2] - before[..., :2], angle.cos(), angle.sin())
        order = before.new_tensor([max(o, 1) for o in self.config.orders])
        cos = before[..., 2] * after[..., 2] + before[..., 3] * after[..., 3]
        sin = before[..., 2] * after[..., 3] - before[..., 3] * after[..., 2]
        return torch.cat([shift, (torch.atan2(sin, cos) / order)[..., None]], dim=-1)

    def motion(self, z_MBKLP: Tensor, action_BKE: Tensor) -> Tensor:
        """Every member's prediction of the next motion: [M, B, L, 3], in each layer's own frame."""
        past_MBLF = (self._motions(z_MBKLP) / self.motion_scale_LO).clamp(-10, 10).transpose(2, 3).flatten(3)
        now_MBLP = z_MBKLP[:, :, -1]
        angle_MBL = self._angles(now_MBLP)
        cos, sin = angle_MBL.cos(), angle_MBL.sin()
        action = action_BKE.flatten(1)[None, :, None].expand(*past_MBLF.shape[:3], -1)
        free = self.free(torch.cat([now_MBLP, past_MBLF, action], dim=-1).transpose(1, 2)).transpose(1, 2)
        # The free motion is proposed in image axes (walls and actions live there), then turned into the own frame.
        proposal = torch.cat([_rotate(free[..., :2], cos, sin), free[..., 2:]], dim=-1)
        seen = self._seen(now_MBLP, past_MBLF, free, proposal, cos, sin)
        correction = self.contact(seen.transpose(1, 2)).transpose(1, 2)
        return (proposal + correction) * self.motion_scale_LO

    def _seen(self, now: Tensor, past: Tensor, free: Tensor, proposal: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """What each layer sees of itself and of the others from its own frame: [M, B, L, F]."""
        count = now.shape[2]
        rows = []
        for i in range(count):
            c, s = cos[:, :, i], sin[:, :, i]
            parts = [proposal[:, :, i], past[:, :, i]]
            for j in (j for j in range(count) if j != i):
                turn = self.config.orders[j] * torch.atan2(s, c)  # nothing to turn for a round layer
                offset = _rotate(now[:, :, j, :2] - now[:, :, i, :2], c, s)
                phase = _rotate(now[:, :, j, 2:], turn.cos(), turn.sin())
                parts += [offset * 4, phase, self._vectors(free[:, :, j], c, s)]
                # Past motions are in layer j's own axes: turn them into image axes, then into frame i.
                back = _rotate(past[:, :, j].unflatten(-1, (-1, 3))[..., :2], cos[:, :, j, None], -sin[:, :, j, None])
                spin = past[:, :, j].unflatten(-1, (-1, 3))[..., 2:]
                parts.append(torch.cat([_rotate(back, c[..., None], s[..., None]), spin], dim=-1).flatten(2))
            rows.append(torch.cat(parts, dim=-1))
        return torch.stack(rows, dim=2)

    @staticmethod
    def _vectors(motion: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Turn an image-frame motion [..., 3] into a frame; the turn about the normal is unchanged."""
        return torch.cat([_rotate(motion[..., :2], cos, sin), motion[..., 2:]], dim=-1)

    def predict_members(self, z_MBKD: Tensor, action_BKE: Tensor) -> Tensor:
        """Next poses, each member from its own history: [M, B, K, 4 L] -> [M, B, 4 L]."""
        z_MBKLP = z_MBKD.unflatten(-1, (-1, POSE))
        motion = self.motion(z_MBKLP, action_BKE)
        now = z_MBKLP[:, :, -1]
        moved = apply_motion(now.flatten(0, 1), motion.flatten(0, 1), self.config.orders)
        return moved.unflatten(0, motion.shape[:2]).flatten(2)

    def predict(
        self, past: History, noise: Tensor | None = None, conditions: Conditions | None = None
    ) -> tuple[Tensor, Tensor]:
        """Move every layer by the members' mean motion.

        Args:
            past: Poses [B, K, 4 L, 1, 1] and actions [B, K, E]; proprioception is unused.
            noise: Unused; this predictor is deterministic.
            conditions: Unused.

        Returns:
            Next poses [B, 4 L, 1, 1] and the members' disagreement [B] in image half-widths (root mean square).
        """
        z_BKLP = past.z[..., 0, 0].unflatten(-1, (-1, POSE))
        motion_MBLO = self.motion(z_BKLP[None].expand(self.config.members, -1, -1, -1, -1), past.action)
        moved = apply_motion(z_BKLP[:, -1], motion_MBLO.mean(0), self.config.orders)
        spread = motion_MBLO.var(0, correction=0).sum((1, 2)).sqrt()
        return moved.flatten(1)[..., None, None], spread

    def loss(
        self, clip: Clip, unroll: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """Error of every member's own `unroll`-step rollout, in pixels of a 64-pixel frame (Huber, knee at one pixel).

        Args:
            clip: Latents [B, T, 4 L, 1, 1] and actions [B, T, A] in [-1, 1], with T >= history + unroll.
            unroll: Steps the predictor is fed its own output.
            generator: Unused; there is no noise in this objective.
        """
        k = self.config.history
        z_BTD = clip.z_BTCHW[..., 0, 0]
        z_MBKD = z_BTD[None, :, :k].expand(self.config.members, -1, -1, -1)
        scale_D = (
            z_BTD.new_tensor([1.0, 1.0, self.config.lever, self.config.lever]).repeat(len(self.config.orders)) * 32
        )
        present_B = (z_BTD.unflatten(-1, (-1, POSE))[..., :2].abs() < ABSENT / 2).flatten(1).all(1)
        total, error = z_BTD.new_zeros(()), 0.0
        for h in range(unroll):
            z_MBD = self.predict_members(z_MBKD, clip.action_BTA[:, h : h + k])
            target_MBD = z_BTD[None, :, k + h].expand_as(z_MBD)
            miss_MBD = F.smooth_l1_loss(z_MBD * scale_D, target_MBD * scale_D, reduction="none")
            total = total + miss_MBD[:, present_B].sum() / (
                present_B.sum().clamp_min(1) * z_MBD.shape[0] * z_MBD.shape[2]
            )
            z_MBKD = torch.cat([z_MBKD[:, :, 1:], z_MBD[:, :, None]], dim=2)
        if unroll:
            miss = (z_MBD.detach() - target_MBD)[:, present_B].unflatten(-1, (-1, POSE))[..., :2]
            error = float(miss.norm(dim=-1).mean()) * 32
        return total / max(unroll, 1), {"error_px": error}
