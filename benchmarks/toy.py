"""A toy world and toy policies, for measuring and testing the machinery around worlds and policies.

A point on a plane has to reach the origin against wind. One step is some twenty small tensor operations, everything is
deterministic, and loaders are picklable.

Shape legend: B episodes, n rows of one policy.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.core import IMAGE, STATE, Camera, Observation, Rollout, Verdict, WorldSpec, WorldState, WorldStep
from worldsim.noise import normal, uniform
from worldsim.protocols import Policy, Startable, World, require_drawable
from worldsim.rollout.wrappers import RoundTripWorld
from worldsim.triage.request import Ref
from worldsim.validity.coverage import Coverage
from worldsim.validity.validity import Validity

SIDE = 8  # pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyState(WorldState):
    """Where the points are."""

    point: Tensor  # [B, 2] m


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyWorld:
    """A point, some wind and a goal at the origin.

    Attributes:
        horizon: Steps per episode.
        count: Number of starts.
        wind: Standard deviation of the wind, m per step.
        delay_s: Time that every step takes on top.
        bias: Wind that always blows the same way, m per step: makes one world differ from another.
        matmul: Side of a matrix product that every step computes, to cost what a real model costs; 0 for none.
        coverage: What it says that it was trained on.
    """

    horizon: int = 20
    count: int = 1000
    wind: float = 0.05
    delay_s: float = 0.0
    bias: float = 0.0
    matmul: int = 0
    coverage: Coverage | None = None

    @property
    def spec(self) -> WorldSpec:
        """See `worldsim.protocols.World`."""
        action = ActionSpec(names=("x", "y"), units=("m", "m"), low=(-0.2, -0.2), high=(0.2, 0.2), rate_hz=10)
        return WorldSpec(
            action=action,
            cameras=(Camera(height=SIDE, width=SIDE),),
            latent_shape=(2, 1, 1),
            proprio_dim=2,
            horizon=self.horizon,
            task="bring the point to the origin",
            validity=None if self.coverage is None else Validity(coverage=self.coverage),
        )

    @property
    def num_starts(self) -> int:
        """See `worldsim.protocols.Startable`."""
        return self.count

    def starts(self, indices: Tensor) -> Observation:
        """See `worldsim.protocols.Startable`."""
        point = normal(indices, 0, (2,), stream=9).clamp(-2, 2) * 0.5
        return {STATE: point, IMAGE: self.decode(point[..., None, None])}

    def reset(self, starts: Observation, keys: Tensor) -> ToyState:
        """See `worldsim.protocols.World`."""
        return ToyState(key=keys, step=torch.zeros_like(keys), point=starts[STATE])

    def step(self, state: WorldState, action: Tensor) -> tuple[ToyState, WorldStep]:
        """See `worldsim.protocols.World`."""
        assert isinstance(state, ToyState)
        if self.delay_s:
            time.sleep(self.delay_s)
        if self.matmul:
            load = torch.ones(len(action), self.matmul) @ torch.ones(self.matmul, self.matmul)
            action = action + 0 * load[:, :2]
        wind = normal(state.key, state.step, (2,)) * self.wind + self.bias
        point = state.point + self.spec.action.check(action) + wind
        distance = point.norm(dim=1)
        step = WorldStep(
            latent=point[..., None, None],
            proprio=point,
            progress=(1 - distance).clamp(0, 1),
            success=torch.sigmoid(50 * (0.12 - distance)),
            uncertainty=distance,
        )
        return ToyState(key=state.key, step=state.step + 1, point=point), step

    def rollout(self, state: WorldState, actions: Tensor) -> tuple[WorldState, Rollout]:
        """See `worldsim.protocols.World`."""
        steps = []
        for t in range(actions.shape[1]):
            state, step = self.step(state, actions[:, t])
            steps.append(step)
        return state, Rollout.stack(steps, actions)

    def decode(self, latent: Tensor, camera: str | None = None) -> Tensor:
        """See `worldsim.protocols.World`: the point's coordinates as grey levels, left and right half."""
        grey = ((latent[..., 0, 0] + 2) * 60).clamp(0, 255).to(torch.uint8)
        frame = grey[..., None, :, None].expand(*grey.shape[:-1], SIDE, 2, SIDE // 2).flatten(-2)
        return frame[..., None].expand(*frame.shape, 3).contiguous()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyArena:
    """Builds a toy world beside another one, as a triage asks for.

    Attributes:
        world: What it is.
        grain: Frames lose all grey levels but every so many-th; 1 for none.
    """

    world: ToyWorld
    grain: int = 1

    def __call__(self, world: Startable) -> Startable:
        """The world, whatever the other one is."""
        if self.grain == 1:
            return self.world
        return RoundTripWorld(self.world, roundtrip=lambda frames: frames // self.grain * self.grain)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyPolicy:
    """Steers for the origin, more or less well.

    Attributes:
        gain: 1 goes straight there, 0 stays.
        jitter: Standard deviation of its action noise, m.
        pixels: Reads the frame instead of the state.
        fault: What it does wrong: ``raise``, ``nan``, ``shape``, ``hang``, ``exit``, ``write`` (into what it was
        shown),
            ``rare`` (raises in few episodes), ``global`` (draws from the global generator) or nothing.
        at: Step at which the fault shows.
        log: File to note every episode in that it begins; empty for none.
        name: For the log.
    """

    gain: float = 0.5
    jitter: float = 0.02
    pixels: bool = False
    fault: str = ""
    at: int = 3
    log: str = ""
    name: str = ""

    @property
    def needs(self) -> frozenset[str]:
        """See `worldsim.protocols.Policy`."""
        return frozenset({IMAGE if self.pixels else STATE})

    def initial(self, n: int) -> int:
        """See `worldsim.protocols.Policy`; the carry counts steps."""
        return 0

    def act(self, observation: Observation, carry: Any, keys: Tensor) -> tuple[Tensor, int]:
        """See `worldsim.protocols.Policy`."""
        if carry == 0 and self.log:
            _note(Path(self.log), self.name, keys)
        if carry == self.at:
            self._err(observation, keys)
        point = _point(observation[IMAGE]) if self.pixels else observation[STATE]
        action = -self.gain * point + self.jitter * normal(keys, 0, (2,))
        if self.fault == "global":
            action = action + 0.02 * torch.randn(action.shape)
        if carry == self.at and self.fault == "nan":
            action[-1, 0] = float("nan")
        return (action[:, :1] if carry == self.at and self.fault == "shape" else action), carry + 1

    def _err(self, observation: Observation, keys: Tensor) -> None:
        if self.fault == "rare" and bool((keys % 19 == 0).any()):
            raise ValueError("an unlucky number")
        if self.fault == "raise":
            raise ValueError(f"lost the plot, {object()}")
        if self.fault == "hang":
            time.sleep(3600)
        if self.fault == "exit":
            os._exit(7)
        if self.fault == "sysexit":
            sys.exit(3)
        if self.fault == "write":
            observation[STATE].zero_()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyJudge:
    """Looks at the last frame and repeats what the world says of it, or, for some pictures, the contrary.

    Attributes:
        world: Draws the frames.
        wrong: Share of the pictures about which it errs; it then abstains.
    """

    world: World
    wrong: float = 0.15

    def __call__(self, rollout: Rollout) -> Verdict:
        """See `worldsim.protocols.Judge`."""
        last = require_drawable(self.world).decode(rollout.latent[:, -1]).reshape(rollout.batch, -1).long()
        errs = uniform(last @ torch.arange(last.shape[1]), 3, (1,))[:, 0] < self.wrong
        return Verdict(
            success=torch.where((rollout.success[:, -1] >= 0.5) ^ errs, 0.95, 0.2),
            progress=rollout.progress[:, -1].clamp(0, 1),
            abstain=errs,
            failed_at=torch.full((rollout.batch,), -1),
            text=("seen",) * rollout.batch,
        )


@dataclasses.dataclass(frozen=True)
class LoadToyJudge:
    """Loads a toy judge."""

    wrong: float = 0.15

    def __call__(self, world: World) -> ToyJudge:
        """The judge for a world's rollouts."""
        return ToyJudge(world=world, wrong=self.wrong)


def load_toy(ref: Ref) -> Policy:
    """Load a toy policy: its settings are its source, for example ``gain=0.3 fault=nan``."""
    if ref.source == "missing":
        raise FileNotFoundError("no such weights")
    settings: dict[str, Any] = {"name": ref.name}
    for word in ref.source.split():
        name, value = word.split("=", 1)
        kind = type(getattr(ToyPolicy, name))
        settings[name] = value == "True" if kind is bool else kind(value)
    return ToyPolicy(**settings)


def toy_refs(count: int, *, extra: Sequence[str] = (), common: str = "") -> tuple[Ref, ...]:
    """Name `count` policies of rising skill, every third of which looks at pixels, and some more by their settings."""
    sources = [f"gain={0.02 + 0.4 * i / max(count - 1, 1):.6f} pixels={i % 3 == 2} {common}" for i in range(count)]
    sources += [f"{text} {common}" for text in extra]
    return tuple(Ref(name=f"toy-{i:03d}", digest=f"toy {s}", source=s) for i, s in enumerate(sources))


def _point(frame: Tensor) -> Tensor:
    """Read the point back from a frame [n, H, W, 3]."""
    grey = frame[:, 0, :, 0].float()
    return torch.stack([grey[:, 0], grey[:, -1]], dim=1) / 60 - 2


def _note(path: Path, name: str, keys: Tensor) -> None:
    """Append one line per episode in one write, so that lines of several processes do not mix."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, "".join(f"{name} {key}\n" for key in keys.tolist()).encode())
    finally:
        os.close(handle)
