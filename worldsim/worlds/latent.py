"""LatentWorld: a tokenizer, a predictor and heads behind the one `World` door.

Pixels are encoded once, at reset; from there only latents travel, and frames are drawn when somebody looks.

Shape legend: B batch, K history, T steps, c h w (C H W) latent, P proprio, A action.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldsim import storage
from worldsim.core import Observation, Rollout, WorldSpec, WorldState, WorldStep
from worldsim.data.starts import Starts, seen_pixels
from worldsim.errors import InvalidInputError
from worldsim.noise import normal
from worldsim.predict.base import Predictor
from worldsim.predict.registry import PREDICTORS
from worldsim.tokenizers.base import Tokenizer
from worldsim.tokenizers.registry import TOKENIZERS
from worldsim.worlds.heads import Heads, HeadsConfig

PREDICTOR_STREAM = 1
"""Noise stream of the predictor, kept apart from the policies' own."""
STARTS = "starts.npz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentState(WorldState):
    """What a latent world remembers of B episodes."""

    z: Tensor  # [B, K, c, h, w], newest last
    proprio: Tensor  # [B, K, P], physical units
    action: Tensor  # [B, K - 1, A], in [-1, 1]; the actions that led from each remembered frame to the next
    start: Tensor  # [B, c, h, w], the episode's first latent


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentWorldConfig:
    """Everything that rebuilds a latent world but its weights.

    Attributes:
        spec: What the world promises.
        tokenizer: Registered name of the tokenizer; `tokenizer_config` its config as JSON values.
        predictor: Registered name of the predictor; `predictor_config` its config as JSON values.
        heads: Config of the heads.
    """

    spec: WorldSpec
    tokenizer: str
    tokenizer_config: dict[str, Any]
    predictor: str
    predictor_config: dict[str, Any]
    heads: HeadsConfig


class LatentWorld(nn.Module):
    """A learned world; see `worldsim.protocols.World` for the meaning of its calls."""

    kind = "world"

    def __init__(
        self, *, spec: WorldSpec, tokenizer: Tokenizer, predictor: Predictor, heads: Heads, starts: Starts | None = None
    ) -> None:
        """Assemble a world from its trained parts; it is put into evaluation mode.

        Raises:
            InvalidInputError: The parts disagree about the latent's shape.
        """
        super().__init__()
        shapes = {
            "tokenizer": tokenizer.latent_shape,
            "predictor": predictor.config.latent_shape,
            "spec": spec.latent_shape,
        }
        if len({tuple(s) for s in shapes.values()}) != 1:
            raise InvalidInputError(f"The parts of a world must share one latent shape; got {shapes}.")
        self._spec = spec
        self.tokenizer = tokenizer
        self.predictor = predictor
        self.heads = heads
        self.first_observations = starts
        self.eval().requires_grad_(False)

    @property
    def spec(self) -> WorldSpec:
        """What the world promises."""
        device = str(self.device)
        if self._spec.device != device:
            self._spec = dataclasses.replace(self._spec, device=device)
        return self._spec

    @property
    def device(self) -> torch.device:
        """Where the world computes."""
        return next(self.heads.parameters()).device

    @property
    def num_starts(self) -> int:
        """How many first observations the world carries."""
        return 0 if self.first_observations is None else len(self.first_observations)

    def starts(self, indices: Tensor) -> Observation:
        """First observations from the data the world was held out from, int64 [B] -> rows, wrapping around.

        Raises:
            InvalidInputError: The world carries none.
        """
        if self.first_observations is None:
            raise InvalidInputError(
                "This world carries no starts. Pass first observations to reset, or retrain with starts."
            )
        return self.first_observations.select(indices)

    def members(self) -> "tuple[LatentWorld, ...]":
        """Each member of the predictor's ensemble as a world that shares all else; this world alone where it is none."""
        if not hasattr(self.predictor, "members"):
            return (self,)
        spec, tokenizer, heads, starts = self.spec, self.tokenizer, self.heads, self.first_observations
        return tuple(
            type(self)(spec=spec, tokenizer=tokenizer, predictor=alone, heads=heads, starts=starts)
            for alone in self.predictor.members()
        )

    @torch.no_grad()
    def reset(self, starts: Observation, keys: Tensor) -> LatentState:
        """Begin B episodes from their first observations."""
        z_BCHW, proprio_BP = self._read(starts)
        return self._remember(z_BCHW, proprio_BP, keys)

    @torch.no_grad()
    def see(self, state: WorldState, observation: Observation, action: Tensor) -> LatentState:
        """Advance by what was really observed instead of by the prediction: how a planner keeps up with its plant.

        Args:
            state: Where the episodes stood.
            observation: What was seen one step later; the keys that `reset` needs.
            action: float32 [B, A] physical units, taken in between.

        Returns:
            The state one step later, its history ending with the observation.

        Raises:
            InvalidInputError: An observation is missing or misshapen, or the action does not fit.
        """
        state = self._own(state)
        z_BCHW, proprio_BP = self._read(observation)
        return self._advance(state, z_BCHW, proprio_BP, self._checked(action, (state.batch,)))

    def _read(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Latent [B, c, h, w] and proprioception [B, P] of one observation."""
        image, proprio = seen_pixels(observation, self.spec)
        return self.encode({self.spec.camera().key: image}), proprio.to(self.device).float()

    def _remember(self, z_BCHW: Tensor, proprio_BP: Tensor, keys: Tensor) -> LatentState:
        """The state of episodes that stand still at their first frame."""
        k = self.predictor.config.history
        return LatentState(
            key=keys.to(self.device, torch.int64),
            step=torch.zeros_like(keys, dtype=torch.int64, device=self.device),
            z=z_BCHW[:, None].expand(-1, k, *z_BCHW.shape[1:]),
            proprio=proprio_BP.to(self.device).float()[:, None].expand(-1, k, -1),
            action=self._idle().expand(z_BCHW.shape[0], k - 1, -1),
            start=z_BCHW,
        )

    def encode(self, observation: Observation) -> Tensor:
        """Encode single frames: IMAGE uint8 [B, H, W, 3] -> [B, c, h, w]."""
        image = observation[self.spec.camera().key]
        x_BCTHW = image.to(self.device).movedim(-1, 1)[:, :, None].float() / 127.5 - 1
        return self.tokenizer.encode(x_BCTHW)[:, :, 0]

    def step(self, state: WorldState, action: Tensor) -> tuple[LatentState, WorldStep]:
        """Advance every episode by one control period; differentiable in the action."""
        own = self._own(state)
        return self._predict(own, self._checked(action, (own.batch,)))

    def rollout(self, state: WorldState, actions: Tensor) -> tuple[LatentState, Rollout]:
        """Advance open loop through actions [B, T, A]; differentiable in them."""
        own, steps = self._own(state), []
        action_BTA = self._checked(actions, (own.batch, actions.shape[1] if actions.ndim == 3 else -1))
        for t in range(action_BTA.shape[1]):
            own, step = self._predict(own, action_BTA[:, t])
            steps.append(step)
        return own, Rollout.stack(steps, actions)

    @torch.no_grad()
    def present(self, state: WorldState) -> WorldStep:
        """Where the episodes stand now, as the step that would have led here by doing nothing; uncertainty is 0."""
        own = self._own(state)
        z_BCHW, proprio_BP = own.z[:, -1], own.proprio[:, -1]
        _, progress_B, success_B = self.heads(z_BCHW, own.start, proprio_BP, self._idle().expand(own.batch, -1))
        zero_B = torch.zeros_like(progress_B)
        return WorldStep(
            latent=z_BCHW,
            proprio=proprio_BP,
            progress=progress_B.sigmoid(),
            success=success_B.sigmoid(),
            uncertainty=zero_B,
        )

    def _idle(self) -> Tensor:
        """The idle action in [-1, 1], [A]."""
        return self.spec.action.normalize(torch.tensor(self.spec.action.idle, device=self.device))

    def _own(self, state: WorldState) -> LatentState:
        if not isinstance(state, LatentState):
            raise InvalidInputError(f"A latent world continues its own states; got a {type(state).__name__}.")
        return state

    def _checked(self, action: Tensor, lead: tuple[int, ...]) -> Tensor:
        """Actions [*lead, A] in [-1, 1]."""
        if tuple(action.shape) != (*lead, self.spec.action.dim):
            raise InvalidInputError(
                f"Got actions {tuple(action.shape)}; expected actions [{lead[0]}, ..., {self.spec.action.dim}]."
            )
        return self.spec.action.normalize(self.spec.action.check(action.to(self.device)))

    def _predict(self, state: LatentState, action_BA: Tensor) -> tuple[LatentState, WorldStep]:
        """One step under a checked action in [-1, 1]."""
        action_BKA = torch.cat([state.action, action_BA[:, None]], dim=1)
        noise = None
        if self.predictor.noise_shape is not None:
            noise = normal(state.key, state.step, self.predictor.noise_shape, stream=PREDICTOR_STREAM)
        z_BCHW, spread_B = self.predictor.predict_with_spread(state.z, state.proprio, action_BKA, noise)
        proprio_BP, progress_B, success_B = self.heads(z_BCHW, state.start, state.proprio[:, -1], action_BA)
        step = WorldStep(
            latent=z_BCHW,
            proprio=proprio_BP,
            progress=progress_B.sigmoid(),
            success=success_B.sigmoid(),
            uncertainty=spread_B,
        )
        return self._advance(state, z_BCHW, proprio_BP, action_BA), step

    @staticmethod
    def _advance(state: LatentState, z_BCHW: Tensor, proprio_BP: Tensor, action_BA: Tensor) -> LatentState:
        """The state one step later; action in [-1, 1]."""
        return dataclasses.replace(
            state,
            step=state.step + 1,
            z=torch.cat([state.z[:, 1:], z_BCHW[:, None]], dim=1),
            proprio=torch.cat([state.proprio[:, 1:], proprio_BP[:, None]], dim=1),
            action=torch.cat([state.action, action_BA[:, None]], dim=1)[:, 1:],
        )

    @torch.inference_mode()
    def decode(self, latent: Tensor, camera: str | None = None) -> Tensor:
        """Draw frames: [..., c, h, w] -> uint8 [..., H, W, 3]."""
        self.spec.camera(camera)
        lead = latent.shape[:-3]
        x_BCTHW = self.tokenizer.decode(latent.reshape(-1, *latent.shape[-3:])[:, :, None])
        frames = ((x_BCTHW[:, :, 0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(1, -1)
        return frames.reshape(*lead, *frames.shape[1:])

    def roundtrip(self, image: Tensor) -> Tensor:
        """Encode and decode frames, uint8 [B, H, W, 3] both ways: what a policy sees of a frame that does not move."""
        return self.decode(self.encode({self.spec.camera().key: image}))

    def save_pretrained(self, path: str | Path, *, manifest: dict[str, Any] | None = None) -> None:
        """Write the world folder."""
        config = LatentWorldConfig(
            spec=dataclasses.replace(self.spec, device="cpu"),
            tokenizer=TOKENIZERS.name_of(self.tokenizer),
            tokenizer_config=storage.to_json(self.tokenizer.config),
            predictor=PREDICTORS.name_of(self.predictor),
            predictor_config=storage.to_json(self.predictor.config),
            heads=self.heads.config,
        )
        extra = {} if self.first_observations is None else {STARTS: self.first_observations.to_bytes()}
        storage.save_folder(
            Path(path), kind=self.kind, config=config, tensors=self.state_dict(), manifest=manifest, files=extra
        )

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "LatentWorld":
        """Read a world folder.

        Raises:
            StorageError: Missing, corrupt or of another kind.
        """
        path = Path(path)
        values, tensors, _ = storage.load_folder(path, kind=cls.kind)
        config = storage.from_json(LatentWorldConfig, values)
        world = cls(
            spec=config.spec,
            tokenizer=TOKENIZERS.build(config.tokenizer, config.tokenizer_config),
            predictor=PREDICTORS.build(config.predictor, config.predictor_config),
            heads=Heads(config.heads),
            starts=Starts.load(path / STARTS) if (path / STARTS).exists() else None,
        )
        storage.load_weights(world, tensors, source=path)
        return world
