"""SimulatorWorld: a simulator as a `World`, the ground truth that learned worlds are compared with.

The latent is the simulator's own state, so nothing is drawn before `decode`. Episodes of a batch take turns in one
simulator.

Shape legend: B batch, T steps, S simulator state, P proprio, E true state, A action, H W pixels.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from torch import Tensor

from worldsim.arrays import Bytes, Float64s
from worldsim.core import (
    SIMULATOR,
    STATE,
    TRUE_STATE,
    Camera,
    Observation,
    Rollout,
    WorldSpec,
    WorldState,
    WorldStep,
)
from worldsim.data.collect.env_adapter import EnvAdapter, EnvReading, EnvView
from worldsim.data.collect.env_state import StateKind, has_own_state, state_kind, trial_actions
from worldsim.data.collect.success import NAMES
from worldsim.data.starts import Starts
from worldsim.envs.simulator_state import EnvFactory, ReplayedSimulator, RestoredSimulator, Simulator, check_rays
from worldsim.errors import InvalidInputError
from worldsim.rollout.loop import rollout

_SEEDS = 2**31 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimulatorState(WorldState):
    """Where B simulated episodes stand."""

    simulator: Tensor  # float64 [B, S]


class SimulatorWorld:
    """A Gymnasium environment as a world; see `worldsim.protocols.World` for the meaning of its calls.

    Latents are float64 [B, S, 1, 1], the simulator's state. Observations, success and progress are read as
    `worldsim.data.collect.env_adapter` says; progress that is not reported is 1 once solved, success that is not reported is 0
    (see `tells_success`). The world is a pure function although the environment is not: before every step and every
    frame the state is restored, or the episode's actions are played again (`worldsim.envs.simulator_state`). Not
    thread-safe.

    Args:
        env: An environment, what makes one, or a registered id. A single environment that must be replayed is slow,
            because it cannot be copied.
        horizon: Steps in an episode; by default the registered limit.
        longest: Steps in an episode where neither says so; None to refuse such an environment.
        starts: First observations to begin from, with SIMULATOR; by default `starts(seeds)` resets the environment.
        camera: Draw this MuJoCo camera (or these, by name) by ray casting, 64x64, instead of asking the environment for
            frames; no OpenGL.
        view: How the environment is looked at.
        seeded: Replay episodes from their seeds, even if the state could be restored.

    Raises:
        InvalidInputError: The environment has actions or observations that cannot be served, draws no frames, or neither
            it nor `horizon` nor `longest` says how long an episode is.
        EnvError: It raised, or can be neither restored nor replayed.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any] | EnvFactory | str,
        *,
        horizon: int | None = None,
        longest: int | None = None,
        starts: Starts | None = None,
        camera: int | str | Sequence[str] | None = None,
        view: EnvView | None = None,
        seeded: bool = False,
    ) -> None:
        made, make = _made(env)
        if starts is not None and SIMULATOR not in starts.rows:
            raise InvalidInputError(f"These starts hold {sorted(starts.rows)}; a simulator also needs {SIMULATOR}.")
        limit = made.spec.max_episode_steps if made.spec is not None else None
        horizon = next((h for h in (horizon, limit, longest) if h is not None), None)
        if horizon is None or horizon < 1:
            raise InvalidInputError(
                f"An episode needs at least one step; got horizon={horizon}. Pass horizon= (--steps)."
            )
        adapter = EnvAdapter(made, view)
        seeded = seeded or (starts is not None and starts.rows[SIMULATOR].shape[1] == 1)
        self._simulator = _simulator(adapter, make, horizon=horizon, camera=camera, seeded=seeded)
        self._first_observations = starts
        self._trial: bool | None = None
        first = self._simulator.begin(0)
        self._spec = WorldSpec(
            action=adapter.action,
            cameras=tuple(_camera(key, self._simulator.draw(None, key)) for key in self._simulator.cameras),
            observes=(SIMULATOR,),
            latent_shape=(self._simulator.state_size, 1, 1),
            proprio_dim=len(first.proprio),
            horizon=horizon,
            success_at=adapter.success_at,
            task=adapter.task,
            task_id=adapter.task_id,
        )

    @property
    def spec(self) -> WorldSpec:
        """What the world promises."""
        return self._spec

    @property
    def num_starts(self) -> int:
        """How many different starts there are."""
        return _SEEDS if self._first_observations is None else len(self._first_observations)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """The world itself: it holds no episode, and Gymnasium copies what environments are made from."""
        return self

    def starts(self, indices: Tensor) -> Observation:
        """First observations, with SIMULATOR: of the table given, or of the environment reset with each index as seed.

        Args:
            indices: int64 [B], wrapping around at `num_starts`.
        """
        if self._first_observations is not None:
            return self._first_observations.select(indices)
        readings, states = [], []
        frames = [torch.empty((len(indices), *camera.size, 3), dtype=torch.uint8) for camera in self._spec.cameras]
        for row, index in enumerate((indices.to(torch.int64) % _SEEDS).tolist()):
            readings.append(self._simulator.begin(index))
            states.append(self._simulator.start())
            for camera, drawn in zip(self._spec.cameras, frames, strict=True):
                drawn[row] = torch.from_numpy(self._simulator.draw(None, camera.key))
        seen = {
            **{camera.key: drawn for camera, drawn in zip(self._spec.cameras, frames, strict=True)},
            STATE: _proprio(readings, self._spec.proprio_dim),
            SIMULATOR: _states(states, self._simulator.start_size),
        }
        true_state = _true_state(readings)
        return seen if true_state is None else seen | {TRUE_STATE: true_state}

    def reset(self, starts: Observation, keys: Tensor) -> SimulatorState:
        """Begin B episodes from SIMULATOR, float64 [B, S] or seeds [B, 1], with noise keys int64 [B]."""
        width = self._simulator.start_size
        if SIMULATOR not in starts:
            raise InvalidInputError(
                f"A simulator starts from {SIMULATOR!r}; got {sorted(starts)}. Take starts from SimulatorWorld.starts, "
                "or from data that this simulator recorded."
            )
        state = starts[SIMULATOR]
        if tuple(state.shape) != (len(keys), width) or not bool(state.isfinite().all()):
            raise InvalidInputError(
                f"{SIMULATOR} must be {len(keys)} rows of {width} finite numbers; got {tuple(state.shape)}."
            )
        keys = keys.to(torch.int64).cpu()
        first = [self._simulator.first(row) for row in state.to(torch.float64).cpu().numpy()]
        return SimulatorState(
            key=keys, step=torch.zeros_like(keys), simulator=_states(first, self._simulator.state_size).clone()
        )

    def step(self, state: WorldState, action: Tensor) -> tuple[SimulatorState, WorldStep]:
        """Advance every episode by one control period; `action` is float32 [B, A]."""
        if not isinstance(state, SimulatorState):
            raise InvalidInputError(f"A simulator continues its own states; got a {type(state).__name__}.")
        if tuple(action.shape) != (state.batch, self._spec.action.dim):
            raise InvalidInputError(
                f"Expected actions [{state.batch}, {self._spec.action.dim}]; got {tuple(action.shape)}."
            )
        action_BA = self._spec.action.check(action.detach().cpu()).numpy()
        done: dict[bytes, tuple[Float64s, EnvReading]] = {}  # batches are filled up with equal rows
        after, readings = [], []
        for row, own in zip(state.simulator.numpy(), action_BA, strict=True):
            key = row.tobytes() + own.tobytes()
            if key not in done:
                done[key] = self._simulator.act(row, own)
            after.append(done[key][0])
            readings.append(done[key][1])
        simulator = _states(after, self._spec.latent_shape[0])
        step = WorldStep(
            latent=simulator[:, :, None, None],
            proprio=_proprio(readings, self._spec.proprio_dim),
            progress=torch.tensor([_known(r.progress, r.success) for r in readings], dtype=torch.float32),
            success=torch.tensor([_known(r.success) for r in readings], dtype=torch.float32),
            uncertainty=torch.zeros(len(readings)),
            true_state=_true_state(readings),
        )
        return dataclasses.replace(state, step=state.step + 1, simulator=simulator), step

    @property
    def is_replayed(self) -> bool:
        """Whether episodes are played again from their seeds, by a copy of the environment each."""
        return isinstance(self._simulator, ReplayedSimulator)

    @property
    def names(self) -> list[str]:
        """What success rules can name, as the last observation and info had it."""
        return self._simulator.adapter.names

    @property
    def tells_progress(self) -> bool:
        """Whether the environment says at its first step how far the task has got."""
        simulator = self._simulator
        reading = simulator.begin(0)
        _, after = simulator.act(simulator.first(simulator.start()), trial_actions(simulator.adapter, 1)[0])
        return not math.isnan(reading.progress) or not math.isnan(after.progress)

    @property
    def tells_success(self) -> bool:
        """Whether the environment says, at some step of an episode, if the task stands solved; plays one to find out."""
        if self._trial is None:
            simulator, rule = self._simulator, self._simulator.adapter.view.success
            reading = simulator.begin(0)
            state, count = simulator.first(simulator.start()), 0
            actions = trial_actions(simulator.adapter, self._spec.horizon)
            while math.isnan(reading.success) and count < self._spec.horizon:
                state, reading = simulator.act(state, actions[count])
                count += 1
            always = rule is not None and rule.text.strip() in {f"info.{name}" for name in NAMES}
            self._trial = always or not math.isnan(reading.success)
        return self._trial

    def rollout(self, state: WorldState, actions: Tensor) -> tuple[WorldState, Rollout]:
        """Advance open loop through actions [B, T, A]; nothing is drawn."""
        return rollout(self, state, actions)

    def decode(self, latent: Tensor, camera: str | None = None) -> Tensor:
        """Draw frames: simulator states [..., S, 1, 1] -> uint8 [..., H, W, 3].

        Raises:
            InvalidInputError: Not states of this simulator.
        """
        if tuple(latent.shape[-3:]) != self._spec.latent_shape:
            raise InvalidInputError(
                f"Latents must be [..., S, 1, 1] of {self._spec.latent_shape}; got {tuple(latent.shape)}."
            )
        own = self._spec.camera(camera)
        lead = latent.shape[:-3]
        frames = torch.empty((lead.numel(), *own.size, 3), dtype=torch.uint8)
        drawn: dict[bytes, int] = {}
        for place, row in enumerate(latent.detach().cpu().double().reshape(lead.numel(), -1).numpy()):
            same = drawn.setdefault(row.tobytes(), place)
            frames[place] = torch.from_numpy(self._simulator.draw(row, own.key)) if same == place else frames[same]
        return frames.reshape(*lead, *frames.shape[1:])


def _made(env: gymnasium.Env[Any, Any] | EnvFactory | str) -> tuple[gymnasium.Env[Any, Any], EnvFactory | None]:
    """An environment, and what makes another one like it, where that is known."""
    if isinstance(env, gymnasium.Env):
        return env, None
    if isinstance(env, str):
        make: EnvFactory = functools.partial(gymnasium.make, env)
        return make(), make
    return env(), env


def _simulator(
    adapter: EnvAdapter,
    make: EnvFactory | None,
    *,
    horizon: int,
    camera: int | str | Sequence[str] | None,
    seeded: bool,
) -> Simulator:
    """The environment as a function of its state."""
    if camera is not None:
        check_rays(adapter.env)
        adapter.reset(0)
        names = (camera,) if isinstance(camera, int | str) else tuple(camera)
        kind: StateKind = "own" if has_own_state(adapter.env) else "mujoco"
        return RestoredSimulator(adapter, kind, cameras=names)
    kind = "seed" if seeded else state_kind(adapter)
    if kind == "seed":
        return ReplayedSimulator(make, adapter.view, horizon=horizon, first=adapter)
    return RestoredSimulator(adapter, kind)


def _known(value: float, otherwise: float = 0.0) -> float:
    """A number, or another one where it is nan; 0 where both are."""
    return next((v for v in (value, otherwise) if not math.isnan(v)), 0.0)


def _camera(key: str, frame: Bytes) -> Camera:
    return Camera(key=key, height=frame.shape[0], width=frame.shape[1])


def _states(rows: list[Float64s], width: int) -> Tensor:
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty((0, width), dtype=torch.float64)


def _proprio(readings: list[EnvReading], width: int) -> Tensor:
    return torch.from_numpy(np.stack([r.proprio for r in readings])) if readings else torch.empty((0, width))


def _true_state(readings: list[EnvReading]) -> Tensor | None:
    """True states [B, E], or None where the environment does not give them."""
    known = [r.true_state for r in readings if r.true_state is not None]
    return torch.from_numpy(np.stack(known)) if known and len(known) == len(readings) else None
