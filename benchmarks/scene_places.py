"""Heads that read a pushing scene's task off the place where a structured world says the thing is, instead of learning it.

The place in the frame becomes the place in the thing's plane by a fit on true places of the episodes that the world learned
from; progress and success then follow by the task's own rule.

Shape legend: B batch, N rows, C H W latent, P proprio, A action.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.scene_base import PLACE
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
        map_F2: From features of a place in the frame to the plane, see `place_features`.
        thing: Which thing it is.
    """

    map_F2: Tensor

    def __init__(self, heads: Heads, layout: SceneLayout, *, scene: str, map_F2: Tensor, thing: int = 0) -> None:
        super().__init__(heads.config)
        self.load_state_dict(heads.state_dict())
        self.register_buffer("map_F2", map_F2)
        self.layout, self.scene, self.thing = layout, scene, thing

    def place(self, z_BCHW: Tensor) -> Tensor:
        """Where the thing is in its plane, [B, 2]."""
        pose = self.layout.split(z_BCHW[..., 0, 0]).pose[:, self.thing]
        return place_features(pose[:, :2]) @ self.map_F2

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

    def success(self, z_BCHW: Tensor, start_BCHW: Tensor) -> Tensor:
        """See `Heads.success`."""
        return ((self.done(z_BCHW, start_BCHW) - 1) * _STEEP).sigmoid()


def place_features(xy_N2: Tensor) -> Tensor:
    """Polynomial of the third degree of a place in the frame, [N, 10]: enough for a camera's perspective."""
    x, y = xy_N2.unbind(-1)
    return torch.stack([x**i * y**j for i in range(4) for j in range(4 - i)], -1)


@torch.no_grad()
def read_places(world: LatentWorld, scene: str, dataset: Dataset, episodes: Sequence[int]) -> tuple[LatentWorld, float]:
    """The world with `PlaceHeads` that are fitted on episodes of a dataset with true states, and their median error.

    Args:
        world: A structured world.
        scene: A key of `FAR`.
        dataset: Where true places are known.
        episodes: To fit on; some of them are enough.

    Raises:
        ValueError: It has no structured tokenizer that found a thing.
    """
    tokenizer = world.tokenizer
    if not isinstance(tokenizer, StructuredTokenizer) or not tokenizer.config.things:
        raise ValueError("Places are read off worlds of family=structured in which a thing was found.")
    key, layout = world.spec.cameras[0].key, tokenizer.config.layout
    latents, true = [], []
    for index in episodes[:_EPISODES]:
        episode = dataset.episode(index)
        assert episode.true_state is not None
        seen = {key: torch.from_numpy(episode.frames[key][::_EVERY].copy())}
        seen[STATE] = torch.from_numpy(episode.proprio[::_EVERY].copy())
        latents.append(world.encode(seen)[..., 0, 0])
        true.append(torch.from_numpy(episode.true_state[::_EVERY, PLACE][:, :2].copy()))
    state, true_N2 = layout.split(torch.cat(latents)), torch.cat(true).float()
    fits = [_fit(state.pose[:, k, :2], true_N2, state.seen[:, k] > _SURE) for k in range(tokenizer.config.things)]
    thing = min(range(len(fits)), key=lambda k: fits[k][1])
    map_F2, error = fits[thing]
    heads = PlaceHeads(world.heads, layout, scene=scene, map_F2=map_F2, thing=thing)
    made = LatentWorld(
        spec=world.spec, tokenizer=tokenizer, predictor=world.predictor, heads=heads, starts=world.first_observations
    )
    return made, error


def _fit(xy_N2: Tensor, true_N2: Tensor, sure_N: Tensor) -> tuple[Tensor, float]:
    """A robust fit of places in the plane by those in the frame, and its median error."""
    features, true = place_features(xy_N2[sure_N]).double(), true_N2[sure_N].double()
    weight = torch.ones(len(true), 1, dtype=torch.float64)
    for _ in range(_ROUNDS):
        map_F2 = torch.linalg.lstsq(features * weight, true * weight).solution
        off = (features @ map_F2 - true).norm(dim=1, keepdim=True)
        weight = (1 + (off / off.median().clamp_min(1e-9)).square()).rsqrt()
    return map_F2.float(), float(off.median())
