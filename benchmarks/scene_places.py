"""Heads that read a pushing scene's task off the place where a structured world says the thing is, instead of learning it.

The place in the frame becomes the place in the thing's plane by a fit on true places of the episodes that the world learned
from; progress and success then follow by the task's own rule.

Shape legend: B batch, N rows, C H W latent, P proprio, A action.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.scene_base import ANGLE, PLACE
from benchmarks.scene_policies import WAYS_RAD
from worldsim.core import STATE
from worldsim.data.lerobot.read import Dataset
from worldsim.tokenizers.structured.state import SceneLayout
from worldsim.tokenizers.structured.tokenizer import StructuredTokenizer
from worldsim.worlds.heads import Heads
from worldsim.worlds.latent import LatentWorld

FAR = {"fetch_push": 0.1, "pusht": 60.0}
"""How far the thing is to go, in units of its plane."""
_SURE, _STEEP, _ROUNDS = 0.6, 100.0, 10
_EPISODES, _EVERY = 80, 5
_EDGE = 1e-4
"""Progress is kept this far from 0 and 1, whose logits are not finite."""


class PlaceHeads(Heads):
    """Heads of one thing that moves in a plane.

    Args:
        heads: The world's own; proprioception is left to them.
        layout: Where the latent holds what.
        scene: A key of `FAR`.
        fit: How its pose in the frame becomes one in its plane.
        thing: Which thing it is.
    """

    def __init__(self, heads: Heads, layout: SceneLayout, *, scene: str, fit: "Fit", thing: int = 0) -> None:
        super().__init__(heads.config)
        self.load_state_dict(heads.state_dict())
        self.layout, self.scene, self.fit, self.thing = layout, scene, fit, thing

    def pose(self, z_BCHW: Tensor) -> Tensor:
        """The thing's pose in the frame, [..., 4], of latents [..., C, H, W]."""
        return self.layout.split(z_BCHW[..., 0, 0]).pose[..., self.thing, :]

    def place(self, z_BCHW: Tensor) -> Tensor:
        """Where the thing is in its plane, [..., 2]."""
        return self.fit.place(self.pose(z_BCHW))

    def angle_rad(self, z_BCHW: Tensor) -> Tensor:
        """The thing's angle times its symmetry, [...]."""
        _, _, cos, sin = self.pose(z_BCHW).unbind(-1)
        return self.fit.sense * torch.atan2(sin, cos) + self.fit.turn_rad

    def done(self, z_BCHW: Tensor, start_BCHW: Tensor) -> Tensor:
        """How much of the task is done, [B]: 0 at the beginning, 1 where it is solved."""
        way = torch.tensor(WAYS_RAD[self.scene])
        ahead = torch.stack([way.cos(), way.sin()]).to(z_BCHW)
        return (self.place(z_BCHW) - self.place(start_BCHW)) @ ahead / FAR[self.scene]

    def forward(
        self, z_BCHW: Tensor, start_BCHW: Tensor, proprio_BP: Tensor, action_BA: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Heads.forward`."""
        proprio, _, _ = super().forward(z_BCHW, start_BCHW, proprio_BP, action_BA)
        done = self.done(z_BCHW, start_BCHW)
        return proprio, done.clamp(_EDGE, 1 - _EDGE).logit(), (done - 1) * _STEEP

    def outcome(self, z_BCHW: Tensor, start_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """See `Heads.outcome`."""
        done = self.done(z_BCHW, start_BCHW)
        return done.clamp(_EDGE, 1 - _EDGE), ((done - 1) * _STEEP).sigmoid()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """How a pose in the frame becomes one in the thing's plane.

    Attributes:
        map_52: From x, y, 1, cosine and sine to a place, before perspective.
        tilt_2: How perspective grows along x and y.
        sense: 1 or -1, the sense in which angles grow.
        turn_rad: Added to them.
        error: Of places, the median over what was fitted, in units of the plane.
        error_rad: The same of angles.
    """

    map_52: Tensor
    tilt_2: Tensor
    sense: float
    turn_rad: float
    error: float
    error_rad: float

    def place(self, pose: Tensor) -> Tensor:
        """The place in the plane, [..., 2], of poses in the frame, [..., 4]."""
        return _entries(pose) @ self.map_52 / (1 + pose[..., :2] @ self.tilt_2)[..., None]


def _entries(pose: Tensor) -> Tensor:
    """x, y, 1, cosine and sine of poses [..., 4]."""
    return torch.cat([pose[..., :2], torch.ones_like(pose[..., :1]), pose[..., 2:]], -1)


@torch.no_grad()
def read_places(
    world: LatentWorld, scene: str, dataset: Dataset, episodes: Sequence[int], kind: type[PlaceHeads] = PlaceHeads
) -> LatentWorld:
    """The world with heads that are fitted on episodes of a dataset with true states.

    Args:
        world: A structured world.
        scene: A key of `FAR`.
        dataset: Where true places are known.
        episodes: To fit on; some of them are enough.
        kind: Of the heads.

    Raises:
        ValueError: It has no structured tokenizer that found a thing.
    """
    tokenizer = world.tokenizer
    if not isinstance(tokenizer, StructuredTokenizer) or not tokenizer.config.things:
        raise ValueError("Places are read off worlds of family=structured in which a thing was found.")
    key, latents, true = world.spec.cameras[0].key, [], []
    for index in episodes[:_EPISODES]:
        episode = dataset.episode(index)
        assert episode.true_state is not None
        seen = {key: torch.from_numpy(episode.frames[key][::_EVERY].copy())}
        seen[STATE] = torch.from_numpy(episode.proprio[::_EVERY].copy())
        latents.append(world.encode(seen)[..., 0, 0])
        true.append(torch.from_numpy(episode.true_state[::_EVERY].copy()).double())
    state, true_NE = tokenizer.config.layout.split(torch.cat(latents)), torch.cat(true)
    sure_NK = state.seen > _SURE
    fits = [_fit(state.pose[s, k], true_NE[s]) for k, s in enumerate(sure_NK.unbind(1))]
    thing = min(range(len(fits)), key=lambda k: fits[k].error)
    heads = kind(world.heads, tokenizer.config.layout, scene=scene, fit=fits[thing], thing=thing)
    return LatentWorld(
        spec=world.spec, tokenizer=tokenizer, predictor=world.predictor, heads=heads, starts=world.first_observations
    )


def _fit(pose_N4: Tensor, true_NE: Tensor) -> Fit:
    """A robust fit of true places and angles by poses in the frame."""
    pose, true = pose_N4.double(), true_NE[:, PLACE][:, :2]
    nothing = torch.zeros(len(pose), 5, dtype=torch.float64)
    x_side, y_side = (torch.cat(part, 1) for part in ((_entries(pose), nothing), (nothing, _entries(pose))))
    weight = torch.ones(len(true), 1, dtype=torch.float64)
    for _ in range(_ROUNDS):
        rows = [torch.cat([own, -pose[:, :2] * true[:, i, None]], 1) for i, own in enumerate((x_side, y_side))]
        wanted = torch.cat([true[:, :1] * weight, true[:, 1:] * weight])
        found = torch.linalg.lstsq(torch.cat([row * weight for row in rows]), wanted, driver="gelsd").solution[:, 0]
        map_52, tilt_2 = found[:10].unflatten(0, (2, 5)).T, found[10:]
        off = (_entries(pose) @ map_52 / (1 + pose[:, :2] @ tilt_2)[:, None] - true).norm(dim=1, keepdim=True)
        weight = (1 + (off / off.median().clamp_min(1e-9)).square()).rsqrt()
    cos, sin = true_NE[:, ANGLE].unbind(1)
    said, real = torch.atan2(pose_N4[:, 3], pose_N4[:, 2]).double(), torch.atan2(sin, cos)
    tried = []
    for sense in (1.0, -1.0):
        rest = torch.polar(torch.ones_like(real), real - sense * said)
        turn = rest.mean().angle()
        tried.append(
            (float((rest * torch.polar(torch.ones_like(turn), -turn)).angle().abs().median()), sense, float(turn))
        )
    error_rad, sense, turn_rad = min(tried)
    return Fit(
        map_52=map_52.float(),
        tilt_2=tilt_2.float(),
        sense=sense,
        turn_rad=turn_rad,
        error=float(off.median()),
        error_rad=error_rad,
    )
