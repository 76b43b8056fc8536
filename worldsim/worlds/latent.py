"""LatentWorld: a tokenizer, a predictor and heads behind the `World` protocol.

Pixels are encoded once, at reset; from there only latents travel, and frames are drawn when somebody looks.

Where the tokenizer compresses time by t and the predictor makes n latent frames at once, a step is s = n t frames. A frame of
such a tokenizer is drawn from its latent and the one before it, so `WorldStep.latent` then holds both.

Shape legend: B batch, T steps, n latent frames per step, s actions per step, C H W latent of one frame, c h w drawable
latent, P proprio, A action, E encoded action (s actions in network units, flattened).
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from worldsim import storage
from worldsim.conditions import Conditions
from worldsim.core import STATE, Observation, Rollout, WorldSpec, WorldState, WorldStep, text_rows
from worldsim.data.starts import Starts, read_observation
from worldsim.errors import InvalidInputError, StorageError
from worldsim.noise import normal
from worldsim.predict import PREDICTORS
from worldsim.predict.base import Context, EnsemblePredictor, Predictor, Tracking
from worldsim.tokenizers import build_tokenizer, tokenizer_name
from worldsim.tokenizers.base import LatentSpace, decoded_latents
from worldsim.tokenizers.cameras import camera_tokenizer, decode_frames, encode_frame, encode_frames, held_proprio
from worldsim.validity.validity import Validity
from worldsim.video import to_frames, to_model
from worldsim.worlds.expected_error import ErrorModel, OpenLoop, read_all
from worldsim.worlds.heads import Heads
from worldsim.worlds.latent_state import LatentState, LatentWorldConfig

PREDICTOR_STREAM = 1
"""Noise stream of the predictor, kept apart from the policies' own."""
STARTS = "starts.npz"


class LearnedWorld(nn.Module):
    """What worlds of pixels and worlds of true states share; subclasses say what an observation's latent is.

    See `worldsim.protocols.World` for the meaning of the calls.
    """

    kind: str

    def __init__(
        self,
        *,
        spec: WorldSpec,
        tokenizer: LatentSpace,
        predictor: Predictor,
        heads: Heads,
        starts: Starts | None = None,
        errors: ErrorModel | None = None,
    ) -> None:
        """Assemble a world from its trained parts; it is put into evaluation mode and its weights are frozen.

        Raises:
            InvalidInputError: The parts disagree about the latent's shape or the number of actions in a step.
        """
        super().__init__()
        shapes = {"tokenizer": tokenizer.latent_shape, "predictor": predictor.config.latent_shape}
        if tuple(shapes["tokenizer"]) != tuple(shapes["predictor"]):
            raise InvalidInputError(f"The parts of a world must share one latent shape; got {shapes}.")
        frames = predictor.frames_per_step * tokenizer.temporal_stride
        drawable = drawable_shape(tokenizer, predictor.frames_per_step)
        if (spec.actions_per_step, tuple(spec.latent_shape)) != (frames, drawable):
            raise InvalidInputError(
                f"These parts predict {frames} frames a step and draw from latents {drawable}; the spec says "
                f"{spec.actions_per_step} and {tuple(spec.latent_shape)}."
            )
        self._spec = spec
        self.tokenizer = tokenizer
        self.predictor = predictor
        self.heads = heads
        self.first_observations = starts
        self.errors = errors
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
    def dtype(self) -> torch.dtype:
        """What the world computes in."""
        return next(self.heads.parameters()).dtype

    @property
    def num_starts(self) -> int:
        """How many first observations the world carries."""
        return 0 if self.first_observations is None else len(self.first_observations)

    def starts(self, indices: Tensor) -> Observation:
        """First observations from held-out data, int64 [B] -> rows, wrapping around.

        Raises:
            InvalidInputError: The world carries none.
        """
        if self.first_observations is None:
            raise InvalidInputError(
                "This world carries no starts. Pass first observations to reset, or retrain with starts."
            )
        return self.first_observations.select(indices)

    def members(self) -> "tuple[LearnedWorld, ...]":
        """Each member of the predictor's ensemble as a world that shares all else; this world alone where it is none."""
        if not isinstance(self.predictor, EnsemblePredictor):
            return (self,)
        spec, tokenizer, heads, starts = self.spec, self.tokenizer, self.heads, self.first_observations
        return tuple(
            type(self)(spec=spec, tokenizer=tokenizer, predictor=alone, heads=heads, starts=starts)
            for alone in self.predictor.members()
        )

    def with_validity(self, validity: Validity | None) -> Self:
        """The same world, its parts shared, whose spec has this validity."""
        return self._with(dataclasses.replace(self.spec, validity=validity), self.errors)

    def with_errors(self, errors: ErrorModel | None) -> Self:
        """The same world, its parts shared, whose uncertainty is what this model expects; None for the predictor's own."""
        return self._with(self.spec, errors)

    def _with(self, spec: WorldSpec, errors: ErrorModel | None) -> Self:
        tokenizer, predictor, heads, starts = self.tokenizer, self.predictor, self.heads, self.first_observations
        return type(self)(
            spec=spec, tokenizer=tokenizer, predictor=predictor, heads=heads, starts=starts, errors=errors
        )

    @torch.no_grad()
    def reset(self, starts: Observation, keys: Tensor) -> LatentState:
        """Begin B episodes from their first observations, with noise keys int64 [B].

        Raises:
            InvalidInputError: An observation is missing or misshapen, or a condition is given that changes nothing here.
        """
        z_BCHW, proprio_BP = self._read(starts)
        conditions = self._conditions(starts, len(z_BCHW))
        context = Context(z=z_BCHW, proprio=proprio_BP, action=self._idle(len(z_BCHW)), conditions=conditions)
        return LatentState(
            key=keys.to(self.device, torch.int64),
            step=torch.zeros_like(keys, dtype=torch.int64, device=self.device),
            carry=self.predictor.start(context),
            z=z_BCHW,
            proprio=proprio_BP,
            start=z_BCHW,
            conditions=conditions,
            done=self._begin(z_BCHW, z_BCHW),
        )

    @torch.no_grad()
    def see(self, state: WorldState, observation: Observation, action: Tensor) -> LatentState:
        """The state one step later, by what was really observed after `action` ([B, A], or [B, s, A]) instead of predicted.

        Where a step is several frames, one observed frame does not make a latent: the history then begins again from it.

        Raises:
            InvalidInputError: An observation is missing or misshapen, or the action does not fit.
        """
        own = self._own(state)
        action_BE = self._encoded(action, (own.batch,))
        if self.spec.actions_per_step > 1:
            return dataclasses.replace(self.reset(observation, own.key), step=own.step + 1, start=own.start)
        z_BCHW, proprio_BP = self._read(observation)
        carry = self.predictor.observe(own.carry, z_BCHW, action_BE, own.proprio)
        if isinstance(self.predictor, Tracking):
            z_BCHW = self.predictor.latent(carry)
        done = self._begin(z_BCHW, own.start)
        return dataclasses.replace(own, step=own.step + 1, carry=carry, z=z_BCHW, proprio=proprio_BP, done=done)

    def step(self, state: WorldState, action: Tensor) -> tuple[LatentState, WorldStep]:
        """Advance every episode by one step; differentiable in the action, [B, A] or [B, s, A]."""
        own = self._own(state)
        return self._predict(own, self._encoded(action, (own.batch,)))

    def rollout(self, state: WorldState, actions: Tensor) -> tuple[LatentState, Rollout]:
        """Advance open loop through `actions`, [B, T, A] or [B, T, s, A]; differentiable in them."""
        own, steps = self._own(state), []
        action_BTE = self._encoded(actions, (own.batch, actions.shape[1] if actions.ndim > 2 else -1))
        for t in range(action_BTE.shape[1]):
            own, step = self._predict(own, action_BTE[:, t])
            steps.append(step)
        return own, Rollout.stack(steps, actions)

    @torch.no_grad()
    def present(self, state: WorldState) -> WorldStep:
        """Where the episodes stand now, as the step that would have led here by doing nothing; uncertainty is 0."""
        own = self._own(state)
        progress_B, success_B = self.heads.outcome(own.z, own.start)
        return WorldStep(
            latent=self._drawable(own.z, own.z[:, None].expand(-1, self.predictor.frames_per_step, -1, -1, -1)),
            proprio=own.proprio,
            progress=progress_B,
            success=success_B,
            uncertainty=torch.zeros_like(progress_B),
        )

    def _read(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Latent [B, C, H, W] and proprioception [B, P] of one observation."""
        raise NotImplementedError

    def _conditions(self, starts: Observation, batch: int) -> Conditions:
        """What the predictor reads beside actions; an episode without a task of its own has the world's."""
        conditions = Conditions.of(starts).only(self.predictor.reads)
        if "text" in self.predictor.reads and conditions.text is None:
            conditions = dataclasses.replace(conditions, text=text_rows([self.spec.task]).expand(batch, -1))
        return conditions.to(self.device)

    def _begin(self, z_BCHW: Tensor, start_BCHW: Tensor) -> OpenLoop | None:
        """Predictions that begin from what was observed; None without an error model."""
        if self.errors is None:
            return None
        reading_BR = read_all(self.tokenizer, z_BCHW, *self.heads.outcome(z_BCHW, start_BCHW))
        return OpenLoop.begin(reading_BR, self._idle(len(z_BCHW)))

    def _idle(self, batch: int) -> Tensor:
        """The idle action of a step in network units, [B, E]."""
        spec = self.spec.action
        idle_A = spec.normalize(torch.tensor(spec.idle, device=self.device, dtype=self.dtype))
        return idle_A.repeat(self.spec.actions_per_step).expand(batch, -1)

    def _own(self, state: WorldState) -> LatentState:
        if not isinstance(state, LatentState):
            raise InvalidInputError(f"A latent world continues its own states; got a {type(state).__name__}.")
        return state

    def _encoded(self, action: Tensor, lead: tuple[int, ...]) -> Tensor:
        """Actions [*lead, A] or [*lead, s, A] in network units, flattened to [*lead, E]."""
        spec = self.spec
        one = (spec.action.dim,) if spec.actions_per_step == 1 else (spec.actions_per_step, spec.action.dim)
        if tuple(action.shape) != (*lead, *one):
            raise InvalidInputError(
                f"Got actions {tuple(action.shape)}; expected actions [{lead[0]}, ..., {', '.join(map(str, one))}]."
            )
        unit = spec.action.normalize(spec.action.check(action.to(self.device))).to(self.dtype)
        return unit.flatten(len(lead))

    def _predict(self, state: LatentState, action_BE: Tensor) -> tuple[LatentState, WorldStep]:
        """One step under an action in network units."""
        noise = None
        if self.predictor.noise_shape is not None:
            noise = normal(state.key, state.step, self.predictor.noise_shape, stream=PREDICTOR_STREAM).to(self.dtype)
        carry, prediction = self.predictor.step(state.carry, action_BE, state.proprio, state.conditions, noise)
        z_BCHW = prediction.z[:, -1]
        proprio_BP = held_proprio(self.tokenizer, z_BCHW)
        if proprio_BP is None:
            proprio_BP, progress_B, success_B = self.heads(z_BCHW, state.start, state.proprio, action_BE)
            progress_B, success_B = progress_B.sigmoid(), success_B.sigmoid()
        else:
            progress_B, success_B = self.heads.outcome(z_BCHW, state.start)
        done, uncertainty_B = None, prediction.uncertainty
        if self.errors is not None and state.done is not None:
            done = state.done.go_on(read_all(self.tokenizer, z_BCHW, progress_B, success_B), action_BE, uncertainty_B)
            uncertainty_B = self.errors(done)
        step = WorldStep(
            latent=self._drawable(state.z, prediction.z),
            proprio=proprio_BP,
            progress=progress_B,
            success=success_B,
            uncertainty=uncertainty_B,
        )
        after = dataclasses.replace(state, step=state.step + 1, carry=carry, z=z_BCHW, proprio=proprio_BP, done=done)
        return after, step

    def _drawable(self, before_BCHW: Tensor, z_BNCHW: Tensor) -> Tensor:
        """What frames are drawn from, [B, c, h, w]: the step's latents, after the one before where time is compressed."""
        if self.tokenizer.temporal_stride > 1:
            z_BNCHW = torch.cat([before_BCHW[:, None], z_BNCHW], dim=1)
        return z_BNCHW.flatten(1, 2)

    def save_pretrained(
        self, path: str | Path, *, manifest: dict[str, Any] | None = None, files: Mapping[str, bytes] | None = None
    ) -> None:
        """Write the world folder; `manifest` and `files` by name are kept in it."""
        config = LatentWorldConfig(
            spec=dataclasses.replace(self.spec, device="cpu", validity=None),
            tokenizer=tokenizer_name(self.tokenizer),
            tokenizer_config=storage.to_json(self.tokenizer.config),
            predictor=PREDICTORS.name_of(self.predictor),
            predictor_config=storage.to_json(self.predictor.config),
            heads=self.heads.config,
            errors=None if self.errors is None else self.errors.config,
        )
        starts = {} if self.first_observations is None else {STARTS: self.first_observations.to_bytes()}
        extra = {**(files or {}), **starts}
        if self.spec.validity is not None:
            manifest = {**(manifest or {}), "validity": storage.to_json(self.spec.validity)}
        storage.save_folder(
            Path(path), kind=self.kind, config=config, tensors=self.state_dict(), manifest=manifest, files=extra
        )

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
    ) -> "LearnedWorld":
        """Read a world folder.

        Args:
            path: The folder.
            device: Where to compute.
            dtype: Of weights and latents; as saved by default.

        Raises:
            StorageError: Missing, corrupt or of another kind, or its weights hold NaN or infinity.
        """
        path = Path(path)
        values, tensors, manifest = storage.load_folder(path, kind=cls.kind)
        config = storage.from_json(LatentWorldConfig, values)
        spec = dataclasses.replace(config.spec, validity=Validity.of_manifest(manifest, source=path))
        if config.heads.proprio_dim != config.spec.proprio_dim:
            raise StorageError(
                f"{path / storage.CONFIG}: the heads read proprioception of {config.heads.proprio_dim} numbers, the spec promises "
                f"{config.spec.proprio_dim}. Restore the folder."
            )
        starts = Starts.load(path / STARTS) if (path / STARTS).exists() else None

        def make() -> LearnedWorld:
            return cls(
                spec=spec,
                tokenizer=build_tokenizer(config.tokenizer, config.tokenizer_config),
                predictor=PREDICTORS.build(config.predictor, config.predictor_config),
                heads=Heads(config.heads),
                starts=starts,
                errors=None if config.errors is None else ErrorModel(config.errors),
            )

        world = storage.build_module(make, tensors, config=values, source=path)
        _require_finite(tensors, path)
        return world.to(device=device, dtype=dtype)


class LatentWorld(LearnedWorld):
    """A world learned from pixels."""

    kind = "world"

    def _read(self, observation: Observation) -> tuple[Tensor, Tensor]:
        frames, proprio = read_observation(observation, self.spec)
        return self.encode({**frames, STATE: proprio}), proprio.to(self.device, self.dtype)

    def encode(self, observation: Observation) -> Tensor:
        """Encode single observations: uint8 [B, H, W, 3] of every camera -> [B, C, H, W].

        Proprioception, `STATE` [B, P], is read where it is given; some tokenizers need it.
        """
        keys = [camera.key for camera in self.spec.cameras]
        x = {key: to_model(observation[key].to(self.device))[:, :, None].to(self.dtype) for key in keys}
        proprio = observation[STATE].to(self.device, self.dtype)[:, None] if STATE in observation else None
        return encode_frames(self.tokenizer, x, proprio)[:, :, 0]

    @torch.inference_mode()
    def decode(self, latent: Tensor, camera: str | None = None) -> Tensor:
        """Draw frames: [..., c, h, w] -> uint8 [..., H, W, 3], or [..., s, H, W, 3] where a step is s frames."""
        key = self.spec.camera(camera).key
        lead, frames = latent.shape[:-3], self.spec.actions_per_step
        z_BNCHW = latent.reshape(-1, latent.shape[-3] // self.tokenizer.latent_shape[0], *self.tokenizer.latent_shape)
        x_BCTHW = decode_frames(self.tokenizer, z_BNCHW.transpose(1, 2), key)[:, :, -frames:]
        drawn = to_frames(x_BCTHW.transpose(1, 2).float())
        return drawn.reshape(*lead, *drawn.shape[2 if frames == 1 else 1 :])

    def roundtrip(self, image: Tensor, camera: str | None = None, proprio: Tensor | None = None) -> Tensor:
        """Encode and decode frames, uint8 [B, H, W, 3] both ways: what a policy sees of a frame that does not move.

        Args:
            image: The frames.
            camera: Whose; the main one by default.
            proprio: Of the same moments, [B, P]; only some tokenizers need it.
        """
        tokenizer = camera_tokenizer(self.tokenizer, self.spec.camera(camera).key)
        x_BCTHW = to_model(image.to(self.device))[:, :, None].to(self.dtype)
        body = None if proprio is None else proprio.to(self.device, self.dtype)[:, None]
        return to_frames(tokenizer.decode(encode_frame(tokenizer, x_BCTHW, body))[:, :, 0].float())


def drawable_shape(tokenizer: LatentSpace, frames_per_step: int) -> tuple[int, int, int]:
    """(c, h, w) of `WorldStep.latent`: the latents of one step, and of the frame before where time is compressed."""
    channels, height, width = tokenizer.latent_shape
    return (channels * (frames_per_step + decoded_latents(tokenizer)), height, width)


def _require_finite(tensors: dict[str, Tensor], path: Path) -> None:
    """Refuse weights that hold NaN or infinity."""
    broken = sorted(name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all())
    if broken:
        raise StorageError(
            f"The weights of the world {path} hold NaN or infinity ({', '.join(broken[:3])}). Train it again, or restore it."
        )
