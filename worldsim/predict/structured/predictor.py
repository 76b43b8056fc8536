"""The predictor of structured scenes: body dynamics, then the contact model, each an ensemble trained in a stage of its own.

Members follow paths of their own from the same beginning, and what is drawn is their mean; so their spread, which is the
uncertainty, grows as they come to disagree.

Shape legend: M members, B batch, T time, H history, P proprio, E action, K things, d code, D latent channels.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.conditions import Conditions
from worldsim.core import Rows
from worldsim.data.windows import Clip
from worldsim.errors import InvalidInputError
from worldsim.predict.base import Context, Prediction
from worldsim.predict.mlp import MemberMLP
from worldsim.predict.structured.contact import ContactModel
from worldsim.tokenizers.structured.compose import robust
from worldsim.tokenizers.structured.state import POSE, SceneLayout, SceneState, things_move
from worldsim.tokenizers.structured.tracking import LOST, Track

_BODY_WIDTH = 128
_MARGIN = 0.1
"""Share of the range seen by which proprioception may leave it."""
_HALF_PX = 32.0
"""Pixels of half of a frame's shorter side in which errors are weighed."""
_LOOK = 6.0
"""What an error of a code weighs beside one in pixels."""
_FOUND = 0.5
"""A thing seen better than this looks as it is seen."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StructuredPredictorConfig:
    """Shape of the predictor.

    Attributes:
        latent_shape: (D, 1, 1), as the structured tokenizer gives it.
        proprio_dim: P.
        action_dim: E.
        orders: Rotational symmetry of each thing, 0 where it does not turn.
        things: Of each camera; together as many as `orders`.
        kinds: Of which kind each thing is, counted over all cameras; empty where all differ.
        joints: Which numbers of proprioception are joint angles.
        degrees: Whether they are in degrees, not in radians.
        code_dim: d.
        canvases: Numbers of each camera's canvas code, as of `SceneLayout`.
        changes: Whether each thing's look changes where it stands, beyond its turning; empty where none does. Such a thing
            moves where its look does.
        history: H.
        members: M.
    """

    latent_shape: tuple[int, int, int]
    proprio_dim: int
    action_dim: int
    orders: tuple[int, ...] = ()
    things: tuple[int, ...] = (0,)
    kinds: tuple[int, ...] = ()
    joints: tuple[int, ...] = ()
    degrees: bool = False
    code_dim: int = 4
    canvases: tuple[int, ...] = ()
    changes: tuple[bool, ...] = ()
    history: int = 3
    members: int = 3

    @property
    def kind_of(self) -> tuple[int, ...]:
        """Of which kind each thing is, K numbers."""
        return self.kinds or tuple(range(len(self.orders)))

    @property
    def looks(self) -> tuple[bool, ...]:
        """Of which things the look is predicted: of those that have no angle."""
        return tuple(not order for order in self.orders)

    @property
    def layout(self) -> SceneLayout:
        """Where the latent holds what."""
        return SceneLayout(
            proprio_dim=self.proprio_dim, things=self.things, code_dim=self.code_dim, canvases=self.canvases
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneCarry(Rows):
    """Where B episodes stand."""

    p: Tensor  # [B, H, P], standardised, newest last
    action: Tensor  # [B, H - 1, E]
    pose: Tensor  # [B, M, K, 4 (+ d)], of every member, with its code where looks are predicted
    motion: Tensor  # [B, M, K, 4 (+ d)], its last change
    seen: Tensor  # [B, K]
    trust: Tensor  # [B, K], in the place of each, less the longer ago it was seen
    code: Tensor  # [B, K, d], as it was seen last
    canvas: Tensor  # [B, S]


class BodyModel(nn.Module):
    """Predicts the change of standardised proprioception from the last few and the actions: velocities may be missing."""

    change_P: Tensor
    low_P: Tensor
    high_P: Tensor

    def __init__(self, *, members: int, proprio_dim: int, action_dim: int, history: int) -> None:
        """Make an untrained ensemble."""
        super().__init__()
        entry = history * (proprio_dim + action_dim)
        self.net = MemberMLP(members, 1, (entry, _BODY_WIDTH, _BODY_WIDTH, proprio_dim))
        self.register_buffer("change_P", torch.ones(proprio_dim))
        self.register_buffer("low_P", torch.full((proprio_dim,), -4.0))
        self.register_buffer("high_P", torch.full((proprio_dim,), 4.0))

    @torch.no_grad()
    def calibrate(self, p_BTP: Tensor) -> None:
        """Measure changes from row to row, and the range that is seen."""
        self.change_P.copy_((p_BTP[:, 1:] - p_BTP[:, :-1]).flatten(0, 1).std(0).clamp_min(1e-3))
        low, high = p_BTP.flatten(0, 1).amin(0), p_BTP.flatten(0, 1).amax(0)
        self.low_P.copy_(low - _MARGIN * (high - low))
        self.high_P.copy_(high + _MARGIN * (high - low))

    def forward(self, p_MBKP: Tensor, action_MBKE: Tensor) -> Tensor:
        """The next proprioception [M, B, P] of every member, from its own last K and the actions that followed each."""
        now = p_MBKP[:, :, -1]
        changes = (p_MBKP[:, :, 1:] - p_MBKP[:, :, :-1]) / self.change_P
        entry = torch.cat([now, changes.flatten(2), action_MBKE.flatten(2)], -1)
        moved: Tensor = now + self.net(entry[:, None])[:, 0] * self.change_P
        return torch.minimum(torch.maximum(moved, self.low_P), self.high_P)


class StructuredPredictor(nn.Module):
    """Moves the body by actions and things by contact."""

    noise_shape: tuple[int, ...] | None = None
    frames_per_step = 1
    reads: frozenset[str] = frozenset()

    def __init__(self, config: StructuredPredictorConfig) -> None:
        """Make an untrained predictor.

        Raises:
            InvalidInputError: The latent's shape does not fit.
        """
        super().__init__()
        if config.latent_shape != (config.layout.size, 1, 1) or sum(config.things) != len(config.orders):
            raise InvalidInputError(
                f"A latent of {config.things} things is {(config.layout.size, 1, 1)}, with as many orders; got "
                f"{config.latent_shape} and {config.orders}."
            )
        self.config = config
        self.member: int | None = None
        self.body = BodyModel(
            members=config.members,
            proprio_dim=config.proprio_dim,
            action_dim=config.action_dim,
            history=config.history,
        )
        self.contact = nn.ModuleList(
            ContactModel(
                members=config.members,
                orders=config.orders[own],
                proprio_dim=config.proprio_dim,
                joints=config.joints,
                degrees=config.degrees,
                kinds=config.kind_of[own],
                code_dim=config.code_dim if any(config.looks) else 0,
            )
            for own in self._spans()
        )

    def _spans(self) -> list[slice]:
        """The things of each camera that sees any."""
        ends = itertools.accumulate(self.config.things)
        return [slice(end - n, end) for n, end in zip(self.config.things, ends, strict=True) if n]

    def _touch(
        self, before_MBP: Tensor, after_MBP: Tensor, pose: Tensor, motion: Tensor, walls: Tensor | None = None
    ) -> Tensor:
        """Poses [M, B, K, 4] one step later, by each camera's contact model."""
        moved = [
            contact(before_MBP, after_MBP, pose[:, :, own], motion[:, :, own], walls)
            for contact, own in zip(self.contact, self._spans(), strict=True)
        ]
        return torch.cat([pose[:, :, :0], *moved], 2)

    def members(self) -> tuple["StructuredPredictor", ...]:
        """Each member as a predictor of its own that continues the same carries; alone, it has no uncertainty."""
        return tuple(self._only(m) for m in range(self.config.members))

    def _only(self, member: int) -> "StructuredPredictor":
        alone = StructuredPredictor(dataclasses.replace(self.config, members=1))
        alone.member = member
        own = alone.state_dict()
        rows = {k: v if v.shape == own[k].shape else v[member : member + 1] for k, v in self.state_dict().items()}
        alone.load_state_dict(rows)
        return alone.to(self.body.change_P.device).train(self.training)

    def start(self, context: Context) -> SceneCarry:
        """See `worldsim.predict.base.Predictor.start`."""
        now = self.config.layout.split(context.z[..., 0, 0])
        pose = self._posed(now)[:, None].expand(-1, self.config.members, -1, -1)
        h = self.config.history
        return SceneCarry(
            p=now.p[:, None].expand(-1, h, -1),
            action=context.action[:, None].expand(-1, h - 1, -1),
            pose=pose,
            motion=torch.zeros_like(pose),
            seen=now.seen,
            trust=now.seen,
            code=now.code,
            canvas=now.canvas,
        )

    def step(
        self, carry: Rows, action_BE: Tensor, proprio_BP: Tensor, conditions: Conditions, noise: Tensor | None
    ) -> tuple[SceneCarry, Prediction]:
        """See `worldsim.predict.base.Predictor.step`; proprioception is taken from the carry."""
        own = self._own(carry)
        action_BHE = torch.cat([own.action, action_BE[:, None]], 1)
        every = (self.config.members, -1, -1, -1)
        p_MBP = self.body(own.p[None].expand(every), action_BHE[None].expand(every))
        p_BP = p_MBP.mean(0)
        both, before = (self.config.members, -1, -1), own.pose.transpose(0, 1)
        pose = self._touch(own.p[:, -1].expand(both), p_BP.expand(both), before, own.motion.transpose(0, 1))
        after = dataclasses.replace(
            own,
            p=torch.cat([own.p[:, 1:], p_BP[:, None]], 1),
            action=action_BHE[:, 1:],
            pose=pose.transpose(0, 1),
            motion=(pose - before).transpose(0, 1),
        )
        z_BD = self._joined(after)
        spread = pose[..., :2] if self.config.orders else p_MBP[:, :, None] - p_BP[:, None]
        uncertainty = spread.var(0, correction=0).sum((1, 2)).sqrt()
        return after, Prediction(z=z_BD[:, None, :, None, None], uncertainty=uncertainty)

    def observe(self, carry: Rows, z_BCHW: Tensor, action_BE: Tensor, proprio_BP: Tensor) -> SceneCarry:
        """See `worldsim.predict.base.Predictor.observe`.

        Things of a kind are distinguished by where they were expected; a thing that is not found, or only where it cannot
        be, is where it was predicted.
        """
        own = self._own(carry)
        expected, _ = self.step(own, action_BE, proprio_BP, Conditions(), None)
        known = Track(xy_BK2=_mean_pose(expected.pose)[..., :2], trust_BK=own.trust)
        now = known.judge(known.assign(self.config.layout.split(z_BCHW[..., 0, 0]), self.config.kind_of))
        posed = self._posed(now)[:, None]
        found_BK = now.seen > LOST
        found = found_BK[:, None, :, None]
        tracked = found & (own.trust[:, None, :, None] > LOST)
        clear = found & (now.seen > _FOUND)[:, None, :, None]  # what is half hidden looks like what hides it
        pose = torch.where(found, posed[..., :POSE], expected.pose[..., :POSE])
        pose = torch.cat([pose, torch.where(clear, posed[..., POSE:], expected.pose[..., POSE:])], -1)
        motion = torch.where(tracked, pose - own.pose.mean(1, keepdim=True), expected.motion)
        motion = torch.where(found & ~tracked, torch.zeros_like(motion), motion)
        p = torch.cat([own.p[:, 1:], now.p[:, None]], 1)
        seen = torch.where(found_BK, now.seen, own.seen)
        trust = known.go_on(now.pose[..., :2], now.seen * found_BK).trust_BK
        code = torch.where((found_BK & (now.seen > _FOUND))[..., None], now.code, own.code)
        return dataclasses.replace(
            expected, p=p, pose=pose, motion=motion, seen=seen, trust=trust, code=code, canvas=now.canvas
        )

    def latent(self, carry: Rows) -> Tensor:
        """See `worldsim.predict.base.Tracking.latent`."""
        own = self._own(carry)
        return self._joined(own)[..., None, None]

    def _posed(self, state: SceneState) -> Tensor:
        """Poses [..., K, 4], with codes behind them where looks are predicted."""
        return torch.cat([state.pose, state.code], -1) if any(self.config.looks) else state.pose

    def _joined(self, carry: SceneCarry) -> Tensor:
        """The latent [B, D] of a carry: the mean of its members, and of looks that are predicted that of the member nearest to it.

        A mean of looks need not look like anything.
        """
        mean = _mean_pose(carry.pose)
        code = carry.code
        if any(self.config.looks):
            looks_BMKd = carry.pose[..., POSE:]
            nearest_BK = (looks_BMKd - looks_BMKd.mean(1, keepdim=True)).square().sum(-1).argmin(1)
            chosen = looks_BMKd.gather(1, nearest_BK[:, None, :, None].expand(-1, -1, -1, code.shape[-1]))[:, 0]
            code = torch.where(torch.tensor(self.config.looks, device=code.device)[:, None], chosen, code)
        state = SceneState(p=carry.p[:, -1], canvas=carry.canvas, pose=mean[..., :POSE], seen=carry.seen, code=code)
        return self.config.layout.join(state)

    def _own(self, carry: Rows) -> SceneCarry:
        if not isinstance(carry, SceneCarry):
            raise InvalidInputError(
                f"A predictor continues its own carries; expected a SceneCarry, got a {type(carry).__name__}."
            )
        if self.member is not None and carry.pose.shape[1] > 1:
            rows = slice(self.member, self.member + 1)
            return dataclasses.replace(carry, pose=carry.pose[:, rows], motion=carry.motion[:, rows])
        return carry

    @torch.no_grad()
    def calibrate(self, clip: Clip) -> None:
        """Measure the body's changes, and where and how things move."""
        state = self.config.layout.split(clip.z_BTCHW[..., 0, 0])
        self.body.calibrate(state.p)
        moves, motion = things_move(state, self.config.changes)
        for contact, own in zip(self.contact, self._spans(), strict=True):
            assert isinstance(contact, ContactModel)
            if self.config.joints:
                contact.features.measure_both(state.p.flatten(0, 1), clip.proprio_BTP.flatten(0, 1))
            b, t, k = moves[..., own].nonzero(as_tuple=True)
            if len(b) < 10:
                continue
            before, after = state.pose[:, :, own][b, t, k], state.pose[:, :, own][b, t + 1, k]
            turn = before[:, 2] * after[:, 3] - before[:, 3] * after[:, 2]
            turn = turn / contact.order_K[k].clamp_min(1)
            contact.calibrate(state.p[b, t], before[:, :2], motion[:, :, own][b, t, k, :2], turn)
            if len(contact.change_d):
                codes = state.code[:, :, own]
                contact.change_d.copy_((codes[b, t + 1, k] - codes[b, t, k]).square().mean(0).sqrt().clamp_min(0.02))

    @torch.no_grad()
    def measure_walls(self, episodes: Sequence[Tensor]) -> None:
        """Find walls in all that was seen, latents [F, D, 1, 1] of each episode: in a sample that seeks motion a few pushes count often."""
        states = [self.config.layout.split(z_FDHW[..., 0, 0]) for z_FDHW in episodes]
        for contact, own in zip(self.contact, self._spans(), strict=True):
            assert isinstance(contact, ContactModel)
            after = torch.cat([s.pose[1:, own, :2] for s in states])
            motion = torch.cat([s.pose[1:, own, :2] - s.pose[:-1, own, :2] for s in states])
            seen = torch.cat([(s.seen[1:, own] > _FOUND) & (s.seen[:-1, own] > _FOUND) for s in states])
            contact.measure_walls(after, motion, seen)

    def loss(
        self, clip: Clip, unroll: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of both stages together; see `body_loss` and `contact_loss`."""
        body, figures = self.body_loss(clip, unroll)
        if not self.config.orders:
            return body, figures
        contact, more = self.contact_loss(clip, unroll, generator)
        return body + contact, {**figures, **more}

    def body_loss(self, clip: Clip, unroll: int) -> tuple[Tensor, dict[str, float]]:
        """Robust error of every member's own rollout of proprioception, a scalar, in typical changes."""
        h, every = self.config.history, (self.config.members, -1, -1, -1)
        p_BTP = self.config.layout.split(clip.z_BTCHW[..., 0, 0]).p
        p_MBHP = p_BTP[None, :, :h].expand(every)
        total = p_BTP.new_zeros(())
        for t in range(unroll):
            p_MBP = self.body(p_MBHP, clip.action_BTA[None, :, t : t + h].expand(every))
            miss = (p_MBP - p_BTP[None, :, h + t]) / self.body.change_P
            total = total + robust(miss / 2, 0.1).mean()
            p_MBHP = torch.cat([p_MBHP[:, :, 1:], p_MBP[:, :, None]], 2)
        return total / max(unroll, 1), {"body_changes": float(miss.detach().abs().mean()) if unroll else 0.0}

    def contact_loss(
        self, clip: Clip, unroll: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """Robust error of every member's own rollout of poses under the true proprioception, a scalar, in pixels of 64.

        Errors count as much as the thing is seen.
        """
        h, m = self.config.history, self.config.members
        state = self.config.layout.split(clip.z_BTCHW[..., 0, 0])
        begins = (state.seen[:, h - 1] > LOST).float()
        true = self._posed(state)
        pose = true[None, :, h - 1].expand(m, -1, -1, -1)
        known = (begins * (state.seen[:, h - 2] > LOST))[None, ..., None]
        motion = (pose - true[None, :, h - 2]) * known
        size = pose.new_tensor([0.004, 0.004, 0.02, 0.02, *(0.02,) * (true.shape[-1] - POSE)])
        noisy = pose + size * torch.randn(pose.shape, generator=generator).to(pose)
        pose = torch.cat([noisy[..., :2], F.normalize(noisy[..., 2:POSE], dim=-1), noisy[..., POSE:]], -1)
        walls = (torch.rand(pose.shape[:2], generator=generator) < 0.5).to(pose)
        total, error, both = pose.new_zeros(()), pose.new_zeros(()), (m, -1, -1)
        for t in range(h - 1, h - 1 + unroll):
            last = pose
            pose = self._touch(state.p[:, t].expand(both), state.p[:, t + 1].expand(both), pose, motion, walls)
            motion = pose - last
            miss = pose - true[None, :, t + 1]
            weight = (state.seen[:, t + 1] * begins)[None]
            place = robust(miss[..., :2] * _HALF_PX, 0.5).mean(-1) + 0.5 * robust(miss[..., 2:POSE] * 6, 0.5).mean(-1)
            if any(self.config.looks):
                look = robust(miss[..., POSE:] * _LOOK, 0.5).mean(-1)
                place = place + look * torch.tensor(self.config.looks).to(look)
            total = total + (place * weight).mean()
            error = (miss[..., :2].norm(dim=-1) * weight).sum() / weight.sum().clamp_min(1e-6) / m * _HALF_PX
        return total / max(unroll, 1), {"contact_px": float(error.detach())}


def _mean_pose(pose_BMKS: Tensor) -> Tensor:
    """The mean of the members' poses, [B, K, 4 (+ d)]."""
    mean = pose_BMKS.mean(1)
    return torch.cat([mean[..., :2], F.normalize(mean[..., 2:POSE], dim=-1), mean[..., POSE:]], -1)
