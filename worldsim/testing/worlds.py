"""The contract of worlds, see `worldsim.protocols.World`.

Shape legend: B batch, T steps, c h w latent, H W pixels, A action.
"""

import copy
import functools
import math
from typing import Any

import torch
from torch import Tensor

from worldsim.core import Observation, WorldSpec, WorldState, WorldStep
from worldsim.protocols import Drawable, World, require_drawable
from worldsim.testing.clauses import STEPS, TOLERANCE, Clauses, equal, frozen, random_state, same


def check_world(world: World, *, starts: Observation | None = None) -> None:
    """Check a world against `worldsim.protocols.World`.

    Args:
        world: The world.
        starts: At least 2 first observations; by default `world.starts(0..2)`.

    Raises:
        ContractError: Clauses are broken; the message lists them.
    """
    clauses = Clauses()
    spec = getattr(world, "spec", None)
    if not clauses.hold("it has spec, reset, step and rollout", lambda: isinstance(world, World)) or not clauses.hold(
        "spec is a WorldSpec", lambda: isinstance(spec, WorldSpec)
    ):
        clauses.settle(world)
    first = _first_observations(world, starts, clauses)
    keys = torch.tensor([7, 2**40 + 1, 3])[: len(next(iter(first.values())))]
    try:
        state = world.reset(first, keys)
        steps = _play(world, state, _actions(world.spec, len(keys)))
    except Exception as error:
        clauses.broken.append(f"reset and step run on its own starts ({type(error).__name__}: {error})")
        clauses.settle(world)
    _check_steps(clauses, world.spec, state, keys, steps)
    _check_purity(clauses, world, first, keys, state)
    _check_batching(clauses, world, first, keys, state)
    _check_refusals(clauses, world, first, keys, state)
    if world.spec.cameras and clauses.hold("a world with cameras has decode", lambda: isinstance(world, Drawable)):
        _check_drawing(clauses, require_drawable(world), steps[-1][1].latent)
    clauses.settle(world)


def _first_observations(world: World, starts: Observation | None, clauses: Clauses) -> Observation:
    """Three starts, those given or the world's own."""
    if starts is None:
        own: Any = world
        if not clauses.hold(
            "starts(indices) gives first observations; else pass starts=", lambda: bool(own.starts(torch.arange(3)))
        ):
            clauses.settle(world)
        starts = own.starts(torch.arange(3))
    first = {k: v[:3] for k, v in starts.items()}
    clauses.hold("starts hold at least 2 rows", lambda: min(len(v) for v in first.values()) >= 2)
    clauses.settle(world)
    return first


def _actions(spec: WorldSpec, batch: int) -> Tensor:
    """Actions [B, T, A], or [B, T, s, A] where a step takes s > 1, inside the limits; the same at every call."""
    several = (spec.actions_per_step,) if spec.actions_per_step > 1 else ()
    shape = (batch, STEPS, *several, spec.action.dim)
    return spec.action.from_unit(torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1)


def _play(world: World, state: WorldState, actions: Tensor) -> list[tuple[WorldState, WorldStep]]:
    """Step through actions; every state and step."""
    passed = []
    for t in range(actions.shape[1]):
        state, step = world.step(state, actions[:, t])
        passed.append((state, step))
    return passed


def _check_steps(
    clauses: Clauses, spec: WorldSpec, state: WorldState, keys: Tensor, steps: list[tuple[WorldState, WorldStep]]
) -> None:
    """Shapes, ranges and bookkeeping."""
    batch = len(keys)
    clauses.hold("a state is a frozen WorldState dataclass", lambda: isinstance(state, WorldState) and frozen(state))
    clauses.hold(
        "a fresh state holds the keys and step 0", lambda: equal(state.key, keys) and not bool(state.step.any())
    )
    clauses.hold(
        "each step adds 1 to state.step and keeps the key",
        lambda: all(equal(s.key, keys) and bool((s.step == t + 1).all()) for t, (s, _) in enumerate(steps)),
    )
    shapes = {"latent": spec.latent_shape, "proprio": (spec.proprio_dim,)}
    for name in ("latent", "proprio", "progress", "success", "uncertainty"):
        values = [getattr(step, name) for _, step in steps]
        shape = (batch, *shapes.get(name, ()))
        clauses.hold(f"step.{name} is {list(shape)} and finite", functools.partial(_fits, values, shape))
        if name in ("progress", "success"):
            clauses.hold(f"step.{name} lies in 0..1", functools.partial(_within, values, 1.0))
    clauses.hold("step.uncertainty is never negative", lambda: _within([s.uncertainty for _, s in steps], math.inf))


def _fits(values: list[Tensor], shape: tuple[int, ...]) -> bool:
    return all(tuple(v.shape) == shape and bool(v.isfinite().all()) for v in values)


def _within(values: list[Tensor], high: float) -> bool:
    return all(bool(((v >= 0) & (v <= high)).all()) for v in values)


def _check_purity(clauses: Clauses, world: World, first: Observation, keys: Tensor, state: WorldState) -> None:
    """Same state, action and key: same step, whatever else is in the batch."""
    action = _actions(world.spec, len(keys))
    before, kept = copy.deepcopy(state), {k: v.clone() for k, v in first.items()}
    once = _play(world, state, action)
    clauses.hold(
        "step and reset change neither the state nor the starts they are given",
        lambda: same(state, before) and all(torch.equal(first[k], kept[k]) for k in first),
    )
    drawn = random_state()
    again = _play(world, world.reset(first, keys), action)
    clauses.hold("no global random generator is drawn from", lambda: drawn == random_state())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        third = _play(world, state, action)
    clauses.hold(
        "the same state and action give the same step, bit for bit",
        lambda: all(same(a[1], b[1]) and same(a[1], c[1]) for a, b, c in zip(once, again, third, strict=True)),
    )


def _check_batching(clauses: Clauses, world: World, first: Observation, keys: Tensor, state: WorldState) -> None:
    """Rows do not know of each other, and a rollout is its steps."""
    action = _actions(world.spec, len(keys))
    once = _play(world, state, action)

    def alone() -> bool:
        start = world.reset({k: v[1:2] for k, v in first.items()}, keys[1:2])
        played = _play(world, start, action[1:2])
        return all(same(a.rows([1]), b, tolerance=TOLERANCE) for (_, a), (_, b) in zip(once, played, strict=True))

    def indexed() -> bool:
        step = world.step(state.rows([1, 0]), action[[1, 0], 0])[1]
        return same(step, once[0][1].rows([1, 0]), tolerance=TOLERANCE)

    def rolled() -> bool:
        end, rollout = world.rollout(state, action)
        latents = torch.stack([step.latent for _, step in once], dim=1)
        return same(end, once[-1][0], tolerance=TOLERANCE) and torch.allclose(rollout.latent, latents, atol=TOLERANCE)

    clauses.hold("an episode alone and in a batch goes the same way", alone)
    clauses.hold("a state can be indexed, and its rows step on alone", indexed)
    clauses.hold("rollout equals stepping through its actions", rolled)


def _check_refusals(clauses: Clauses, world: World, first: Observation, keys: Tensor, state: WorldState) -> None:
    """Bad input is answered with the typed error."""
    good = _actions(world.spec, len(keys))[:, 0]
    if world.spec.device == "cpu":  # elsewhere looking would wait for the device at every step
        clauses.refuses("an action that is NaN", lambda: world.step(state, torch.full_like(good, float("nan"))))
    clauses.refuses("an action of the wrong width", lambda: world.step(state, torch.cat([good, good], dim=-1)))
    clauses.refuses("starting from nothing", lambda: world.reset({}, keys))
    high = good.new_tensor(world.spec.action.high).expand_as(good)
    clauses.hold(
        "an action beyond the limits is clipped",
        lambda: same(world.step(state, high + 1)[1], world.step(state, high)[1], tolerance=TOLERANCE),
    )


def _check_drawing(clauses: Clauses, world: Drawable, latent: Tensor) -> None:
    """Frames by shape and type, for any number of leading axes."""
    several = (world.spec.actions_per_step,) if world.spec.actions_per_step > 1 else ()
    for camera in world.spec.cameras:
        shape = (len(latent), *several, *camera.size, 3)
        clauses.hold(
            f"decode of {camera.key} gives uint8 {list(shape)}",
            functools.partial(_draws, world, latent, camera.key, shape),
        )
    clauses.hold(
        "decode keeps several leading axes [B, T, c, h, w]",
        lambda: torch.equal(world.decode(latent[:, None])[:, 0], world.decode(latent)),
    )


def _draws(world: Drawable, latent: Tensor, camera: str, shape: tuple[int, ...]) -> bool:
    frames = world.decode(latent, camera)
    return frames.dtype == torch.uint8 and tuple(frames.shape) == shape
