"""The contact model: how things move, from how the robot moves relative to them.

The robot is seen through a learned point of the image that follows proprioception, its anchor: where the part is that pushes.
What a thing that has no angle looks like changes as it is pushed (it is seen from another side, a hand hides part of it, a lid opens,
a spinner turns), so that its code is predicted as its place is, by networks of their own: a policy that sees a pushed cube as it
lay at first acts otherwise.
Everything is expressed in the thing's own frame, where it turns, and relative to the thing, so that a push learned at one place and
angle holds at others. A wall is where the places of a thing end at once. How far a thing is from there, in steps fine enough to
tell that it touches, is always given, says nothing farther away, and nothing goes much beyond. Where it is in the frame is
given too, but withheld in half of the training, so that it is used only where it must be.

Shape legend: M members, B batch, K things, d code where a thing has no angle (else 0), J kinds, P proprio, F features,
A anchor dimensions (the first two are in the image).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.predict.mlp import MemberMLP
from worldsim.tokenizers.structured.actor import ActorConfig, ProprioFeatures
from worldsim.tokenizers.structured.state import MOVES, POSE
from worldsim.tokenizers.structured.things import CODE_LIMIT

ANCHOR = 4
WIDTH, DEPTH = 160, 4
LOOK_WIDTH, LOOK_DEPTH = 96, 3
_OTHER = 7
"""Features of another thing."""
_WALLS = 11
"""Features of where a thing is in the frame."""
_NEAR = 8.0
"""Gaps to walls, in halves of the frame's shorter side, are given times this, up to 4."""
_BEYOND = 0.05
"""How far a thing may go into a wall, in the same halves: turned otherwise its centre may come nearer than it was seen."""
_SELDOM, _STEEP = 0.001, 0.03
"""A wall is where as many places again as this share lie within so many halves of the frame of it, beyond which that share is left:
.002 to .023 on the four sides of PushT, and .042 to .082 on FetchPush's table, where pushes only end at different places."""
_ANYWHERE = 9.0
"""Where a wall is said to be that is not known, in the same halves: out of reach."""
_ARRIVE, _ARRIVALS = 0.15, 20
"""Share of the motions near a wall that lead to it, at least (.39 to .53 in PushT), and how many."""


class ContactModel(nn.Module):
    """Predicts the motion of every thing in a step."""

    scale_3: Tensor
    change_d: Tensor
    order_K: Tensor
    kind_KJ: Tensor
    looks_K: Tensor
    low_K2: Tensor
    high_K2: Tensor

    def __init__(
        self,
        *,
        members: int,
        orders: tuple[int, ...],
        proprio_dim: int,
        joints: tuple[int, ...] = (),
        degrees: bool = False,
        kinds: tuple[int, ...] = (),
        code_dim: int = 0,
    ) -> None:
        """Make an untrained ensemble for things of these rotational symmetries, 0 where they do not turn, and kinds.

        All things share its weights; where there are several kinds, each thing's own is given. Where some do not turn, `code_dim` is not
        0, and all poses end with the code.
        """
        super().__init__()
        self.orders = orders
        layout = ActorConfig(image_size=(64, 64), proprio_dim=proprio_dim, joints=joints, degrees=degrees)
        self.features = ProprioFeatures(layout)
        size = self.features.size
        self.linear = nn.Parameter(torch.randn(members, size, ANCHOR) * 0.3)
        self.offset = nn.Parameter(torch.zeros(members, 1, ANCHOR))
        self.bend = MemberMLP(members, 1, (size, 64, ANCHOR))
        self.tilt = nn.Parameter(torch.zeros(members, 1, 1, 2))  # perspective: the last row of a homography
        names = sorted(set(kinds)) if len(set(kinds)) > 1 else []
        entry = (
            8 + 1 + 2 * (ANCHOR - 2) + _WALLS + len(names) + (_OTHER + len(names)) * (len(orders) - 1) + 2 * code_dim
        )
        self.net = MemberMLP(members, 1, (entry, *(WIDTH,) * DEPTH, 3))
        self.look = MemberMLP(members, 1, (entry, *(LOOK_WIDTH,) * LOOK_DEPTH, code_dim)) if code_dim else None
        self.register_buffer("change_d", torch.full((code_dim,), 0.2), persistent=code_dim > 0)
        self.register_buffer("looks_K", torch.tensor([float(not order) for order in orders]), persistent=False)
        self.register_buffer("low_K2", torch.full((len(orders), 2), -_ANYWHERE))
        self.register_buffer("high_K2", torch.full((len(orders), 2), _ANYWHERE))
        self.register_buffer("scale_3", torch.tensor([0.02, 0.02, 0.1]))
        self.register_buffer("order_K", torch.tensor([float(o) for o in orders]))
        own = [[float(kind == name) for name in names] for kind in kinds or orders]
        self.register_buffer("kind_KJ", torch.tensor(own).reshape(len(orders), len(names)), persistent=False)

    def anchor(self, p_MBP: Tensor) -> Tensor:
        """Where the part is that pushes, and how high: [M, B, A]."""
        f = self.features(p_MBP)
        bent: Tensor = torch.baddbmm(self.offset, f, self.linear) + self.bend(f[:, None])[:, 0]
        return bent

    @torch.no_grad()
    def calibrate(self, p_NP: Tensor, xy_N2: Tensor, motion_N2: Tensor, turn_N: Tensor) -> float:
        """Place the anchor by least squares where things are when they move, and measure their motions.

        Args:
            p_NP: Standardised proprioception when a thing moves.
            xy_N2: Where it is.
            motion_N2: How far it goes in a step.
            turn_N: How far it turns in a step, rad.

        Returns:
            Median distance of the anchor from the moving things, in halves of the frame's shorter side.
        """
        f = self.features(p_NP)
        rows = torch.cat([f, torch.ones(len(f), 1)], 1).double()
        weight = torch.ones(len(f), 1, dtype=torch.float64)
        ridge = 1e-6 * len(rows) * torch.eye(rows.shape[1], dtype=torch.float64)
        for _ in range(3):  # robust: rows far off count less
            weighted = rows * weight
            found = torch.linalg.solve(weighted.T @ weighted + ridge, weighted.T @ (xy_N2.double() * weight))
            missed = (rows @ found - xy_N2).norm(dim=1, keepdim=True)
            weight = (missed + 0.05).rsqrt()
        self.linear[..., :2] = found[:-1].float()
        self.offset[..., :2] = found[-1].float()
        self.scale_3[:2] = motion_N2.std(0).mean().clamp_min(1e-3)
        self.scale_3[2] = turn_N.abs().clamp_max(0.5).std().clamp_min(0.02)
        return float(missed.median())

    @torch.no_grad()
    def measure_walls(self, xy_NK2: Tensor, motion_NK2: Tensor, seen_NK: Tensor) -> None:
        """Where things are stopped: at a wall places end at once, elsewhere they become rarer. On other sides nothing is known.

        Where things only leave, and hardly ever arrive, is no wall: episodes begin there.

        Args:
            xy_NK2: Places in halves of the frame's shorter side.
            motion_NK2: How things came there in a step.
            seen_NK: Whether each thing was seen there, and before.
        """
        self.low_K2.fill_(-_ANYWHERE)
        self.high_K2.fill_(_ANYWHERE)
        for k, seen_N in enumerate(seen_NK.unbind(1)):
            xy_N2, motion_N2, few = xy_NK2[seen_N, k], motion_NK2[seen_N, k], int(_SELDOM * int(seen_N.sum()))
            if not few:
                continue
            for at, sign in ((self.low_K2, 1), (self.high_K2, -1)):
                first, second = (sign * xy_N2).sort(0).values[[few, 2 * few]]
                near_N2 = (sign * xy_N2 < first + 2 * _STEEP) & (motion_N2.norm(dim=1, keepdim=True) > MOVES)
                arrive_N2 = near_N2 & (sign * motion_N2 < -MOVES / 2)
                often_2 = arrive_N2.sum(0) > (_ARRIVE * near_N2.sum(0)).clamp_min(_ARRIVALS)
                stopped = (second - first < _STEEP) & often_2
                at[k] = torch.where(stopped, sign * first, at[k])

    def forward(
        self,
        before_MBP: Tensor,
        after_MBP: Tensor,
        pose_MBKS: Tensor,
        motion_MBKS: Tensor,
        walls_MB: Tensor | None = None,
    ) -> Tensor:
        """Poses one step later.

        Args:
            before_MBP: Standardised proprioception before the step.
            after_MBP: And after it.
            pose_MBKS: Poses before it (`worldsim.tokenizers.structured.state.POSE`), followed by codes where some do not turn.
            motion_MBKS: The change of poses in the step before.
            walls_MB: 1 where places in the frame are given, 0 where they are withheld; None gives them.
        """
        at, later = self.anchor(torch.cat([before_MBP, after_MBP], 1))[:, :, None].chunk(2, 1)
        (pose_MBK4, code_MBKd), (motion_MBK4, last_MBKd) = (
            x.tensor_split([POSE], -1) for x in (pose_MBKS, motion_MBKS)
        )
        turn = Turn(pose_MBK4[..., 2:], self.order_K, turns=any(self.orders))
        here = self._flat(pose_MBK4[..., :2])
        move = turn.into((later - at)[..., :2].expand_as(here)) / self.scale_3[:2]
        spin = _cross(pose_MBK4[..., 2:], motion_MBK4[..., 2:])[..., None] / self.order_K.clamp_min(1)[:, None]
        extra = torch.cat([at, later], -1)[..., [2, 3, ANCHOR + 2, ANCHOR + 3]].expand(*here.shape[:3], -1)
        parts = [
            turn.into(at[..., :2] - here) * 4,
            (turn.into(later[..., :2] - here) * 15).clamp(-4, 4),
            move,
            turn.into(motion_MBK4[..., :2]) / self.scale_3[:2],
            spin / self.scale_3[2],
            extra,
            *self._walls(pose_MBK4, turn, walls_MB),
            self.kind_KJ.expand(*here.shape[:3], -1),
            *self._others(pose_MBK4, motion_MBK4, turn),
            *([code_MBKd, last_MBKd / self.change_d] if len(self.change_d) else []),
        ]
        entry = torch.cat(parts, -1).flatten(1, 2)
        out = self.net(entry[:, None])[:, 0].unflatten(1, here.shape[1:3]) * self.scale_3
        place = self._image(here + turn.out_of(out[..., :2]))
        place = place.maximum(self.low_K2 - _BEYOND).minimum(self.high_K2 + _BEYOND)
        moved = torch.cat([place, turn.by(out[..., 2:])], -1)
        if self.look is None:
            return moved
        look = self.look(entry[:, None])[:, 0].unflatten(1, here.shape[1:3]) * self.change_d * self.looks_K[:, None]
        return torch.cat([moved, (code_MBKd + look).clamp(-CODE_LIMIT, CODE_LIMIT)], -1)

    def _walls(self, pose: Tensor, turn: "Turn", walls_MB: Tensor | None) -> list[Tensor]:
        """Gaps to walls; places in the frame, along its axes and the thing's, and whether they are given."""
        xy, one = pose[..., :2], torch.ones_like(pose[..., :1])
        known = one if walls_MB is None else walls_MB[..., None, None].expand_as(one)
        gaps = (torch.cat([self.high_K2 - xy, xy - self.low_K2], -1) * _NEAR).clamp(-1, 4)
        angle = torch.cat([turn.cos, turn.sin], -1)
        return [gaps, xy * known, turn.into(xy) * known, angle * known, known]

    def _others(self, pose: Tensor, motion: Tensor, turn: "Turn") -> list[Tensor]:
        """What every thing sees of the others, from its own frame."""
        parts = list[Tensor]()
        for k in range(1, len(self.orders)):
            other, moved = pose.roll(k, 2), motion.roll(k, 2)
            phase = turn.into(other[..., 2:])
            gap = (turn.into(other[..., :2] - pose[..., :2]) * 6).clamp(-4, 4)
            kind = self.kind_KJ.roll(k, 0).expand(*gap.shape[:3], -1)
            parts += [gap, turn.into(moved[..., :2]) / self.scale_3[:2], phase, torch.ones_like(phase[..., :1]), kind]
        return parts

    def _flat(self, xy: Tensor) -> Tensor:
        """Image -> plane on which things move, by the learned perspective."""
        return xy / (1 + (xy * self.tilt).sum(-1, keepdim=True))

    def _image(self, uv: Tensor) -> Tensor:
        """Plane -> image."""
        return uv / (1 - (uv * self.tilt).sum(-1, keepdim=True))


class Turn:
    """The frames of things, from cosine and sine [..., K, 2] of order * angle."""

    def __init__(self, phase: Tensor, order_K: Tensor, *, turns: bool = True) -> None:
        self.phase, self.order, self.turns = phase, order_K[:, None], turns
        if not turns:
            self.cos, self.sin = torch.ones_like(phase[..., :1]), torch.zeros_like(phase[..., :1])
            return
        angle = torch.atan2(phase[..., 1:], phase[..., :1]) / self.order.clamp_min(1)
        angle = angle * (self.order > 0)
        self.cos, self.sin = angle.cos(), angle.sin()

    def into(self, v: Tensor) -> Tensor:
        """Vectors along the image's axes [..., 2] along the thing's."""
        if not self.turns:
            return v
        x, y = v[..., :1], v[..., 1:2]
        return torch.cat([self.cos * x + self.sin * y, self.cos * y - self.sin * x], -1)

    def out_of(self, v: Tensor) -> Tensor:
        """Vectors along the thing's axes [..., 2] along the image's."""
        if not self.turns:
            return v
        x, y = v[..., :1], v[..., 1:2]
        return torch.cat([self.cos * x - self.sin * y, self.sin * x + self.cos * y], -1)

    def by(self, angle: Tensor) -> Tensor:
        """The phase after turning on by `angle` [..., 1], rad; that of things that do not turn stays."""
        if not self.turns:
            return self.phase
        c, s = (angle * self.order).cos(), (angle * self.order).sin()
        x, y = self.phase[..., :1], self.phase[..., 1:]
        return F.normalize(torch.cat([x * c - y * s, x * s + y * c], -1), dim=-1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """The component out of the plane, [...]."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
