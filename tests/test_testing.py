import dataclasses
import random
from collections.abc import Callable

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.core import IMAGE, STATE, Camera, Observation, Rollout, WorldSpec, WorldState, WorldStep
from worldsim.envs.push.env import PushEnv
from worldsim.errors import InvalidInputError, WorldsimError
from worldsim.noise import normal
from worldsim.testing import ContractError, check_env, check_policy, check_world

SPEC = WorldSpec(
    action=ActionSpec(names=("a", "b"), units=("m", "m"), low=(-1, -1), high=(1, 1), rate_hz=10),
    cameras=(Camera(height=4, width=4),),
    latent_shape=(2, 1, 1),
    proprio_dim=2,
    horizon=5,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class At(WorldState):
    at: Tensor


class GoodWorld:
    """A point that moves; every fault below changes one thing of it."""

    spec = SPEC

    def starts(self, indices: Tensor) -> Observation:
        at = indices[:, None].float().expand(-1, 2) * 0.1
        return {IMAGE: torch.zeros(len(indices), 4, 4, 3, dtype=torch.uint8), STATE: at}

    def reset(self, starts: Observation, keys: Tensor) -> At:
        if STATE not in starts:
            raise InvalidInputError("STATE is missing.")
        return At(key=keys, step=torch.zeros_like(keys), at=starts[STATE])

    def step(self, state: At, action: Tensor) -> tuple[At, WorldStep]:
        if action.shape != (state.batch, 2):
            raise InvalidInputError("wrong width")
        at = state.at + 0.1 * self.spec.action.check(action) + 0.01 * normal(state.key, state.step, (2,))
        rest = at[:, 0].sigmoid()
        step = WorldStep(latent=at[:, :, None, None], proprio=at, progress=rest, success=rest, uncertainty=rest * 0)
        return dataclasses.replace(state, step=state.step + 1, at=at), step

    def rollout(self, state: At, actions: Tensor) -> tuple[At, Rollout]:
        steps = []
        for t in range(actions.shape[1]):
            state, step = self.step(state, actions[:, t])
            steps.append(step)
        return state, Rollout.stack(steps, actions)

    def decode(self, latent: Tensor, camera: str | None = None) -> Tensor:
        return torch.zeros(*latent.shape[:-3], 4, 4, 3, dtype=torch.uint8)


def faulty(**methods: Callable) -> GoodWorld:
    return type("Faulty", (GoodWorld,), methods)()


def changed(**fields: Callable[[WorldStep], Tensor]) -> Callable:
    """A step method whose result has some fields replaced."""

    def step(self: GoodWorld, state: At, action: Tensor) -> tuple[At, WorldStep]:
        following, result = GoodWorld.step(self, state, action)
        return following, dataclasses.replace(result, **{k: f(result) for k, f in fields.items()})

    return step


def hidden_counter(self: GoodWorld, state: At, action: Tensor) -> tuple[At, WorldStep]:
    self.count = getattr(self, "count", 0) + 1
    following, result = GoodWorld.step(self, state, action)
    return following, dataclasses.replace(result, proprio=result.proprio + self.count)


def mutating(self: GoodWorld, state: At, action: Tensor) -> tuple[At, WorldStep]:
    state.at.add_(0.1)
    return GoodWorld.step(self, state, action)


def drawing_noise(self: GoodWorld, state: At, action: Tensor) -> tuple[At, WorldStep]:
    torch.rand(1)
    return GoodWorld.step(self, state, action)


def batch_average(self: GoodWorld, state: At, action: Tensor) -> tuple[At, WorldStep]:
    following, result = GoodWorld.step(self, state, action)
    return following, dataclasses.replace(result, proprio=result.proprio - result.proprio.mean(0))


def forgiving(self: GoodWorld, state: At, action: Tensor) -> tuple[At, WorldStep]:
    return GoodWorld.step(self, state, action.nan_to_num()[:, :2])


def unclipped(self: GoodWorld, state: At, action: Tensor) -> tuple[At, WorldStep]:
    following, result = GoodWorld.step(self, state, action)
    return following, dataclasses.replace(result, proprio=result.proprio + action.clamp(min=1) - 1)


def frozen_clock(self: GoodWorld, state: At, action: Tensor) -> tuple[At, WorldStep]:
    following, result = GoodWorld.step(self, state, action)
    return dataclasses.replace(following, step=state.step), result


def lazy_rollout(self: GoodWorld, state: At, actions: Tensor) -> tuple[At, Rollout]:
    return GoodWorld.rollout(self, state, actions * 0)


WORLD_FAULTS = {
    "bit for bit": faulty(step=hidden_counter),
    "change neither the state": faulty(step=mutating),
    "no global random generator": faulty(step=drawing_noise),
    "alone and in a batch": faulty(step=batch_average),
    "NaN raises InvalidInputError": faulty(step=forgiving),
    "beyond the limits is clipped": faulty(step=unclipped),
    "adds 1 to state.step": faulty(step=frozen_clock),
    "rollout equals stepping": faulty(rollout=lazy_rollout),
    r"step.latent is \[3, 2, 1, 1\]": faulty(step=changed(latent=lambda s: s.latent[:, :, 0])),
    "step.progress lies in 0..1": faulty(step=changed(progress=lambda s: s.progress + 2)),
    "uncertainty is never negative": faulty(step=changed(uncertainty=lambda s: s.uncertainty - 1)),
    "step.proprio is .* finite": faulty(step=changed(proprio=lambda s: s.proprio / 0)),
    "decode of observation.image gives uint8": faulty(
        decode=lambda self, z, camera=None: torch.zeros(*z.shape[:-3], 4, 4, 3)
    ),
    "several leading axes": faulty(decode=lambda self, z: torch.zeros(len(z), 4, 4, 3, dtype=torch.uint8)),
    "starting from nothing": faulty(
        reset=lambda self, starts, keys: GoodWorld.reset(self, dict(starts) or GoodWorld.starts(self, keys), keys)
    ),
    r"starts\(indices\)": faulty(starts=None),
    "reset and step run .*KeyError": faulty(reset=lambda self, starts, keys: starts["x"]),
    "it has spec, reset": object(),
}


def test_a_good_world_passes() -> None:
    check_world(GoodWorld())
    check_world(faulty(decode=lambda self, z: z.nothing, spec=dataclasses.replace(SPEC, cameras=())))
    check_world(faulty(starts=None), starts=GoodWorld().starts(torch.arange(2)))


@pytest.mark.parametrize("clause", WORLD_FAULTS)
def test_each_fault_of_a_world_is_named(clause: str) -> None:
    with pytest.raises(ContractError, match=clause):
        check_world(WORLD_FAULTS[clause])  # type: ignore[arg-type]


def test_all_broken_clauses_are_listed_together() -> None:
    with pytest.raises(ContractError) as caught:
        check_world(faulty(step=changed(progress=lambda s: s.progress + 2, success=lambda s: s.success - 3)))
    assert len(caught.value.broken) == 2
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, WorldsimError)


class GoodPolicy:
    """Moves against the state, with keyed noise, remembering its last action."""

    needs = frozenset({STATE})

    def initial(self, n: int) -> Tensor:
        return torch.zeros(n, 2)

    def act(self, observation: Observation, carry: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        action = 0.5 * carry - observation[STATE] + 0.1 * normal(keys, 0, (2,))
        return action, action


def policy(**methods: object) -> GoodPolicy:
    return type("Faulty", (GoodPolicy,), methods)()


def act(change: Callable) -> Callable:
    def changed_act(self: GoodPolicy, observation: Observation, carry: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        action, carry = GoodPolicy.act(self, observation, carry, keys)
        return change(self, action), carry

    return changed_act


def remember(self: object, action: Tensor) -> Tensor:
    self.last = getattr(self, "last", 0) + 1  # type: ignore[attr-defined]
    return action + self.last  # type: ignore[attr-defined]


def scribble(self: object, observation: Observation, carry: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    observation[STATE].zero_()
    return GoodPolicy.act(self, observation, carry, keys)  # type: ignore[arg-type]


POLICY_FAULTS = {
    "all memory is in the carry": policy(act=act(remember)),
    "no global random generator": policy(act=act(lambda self, a: a + 0 * random.random())),
    r"float tensor \[3, 2\]": policy(act=act(lambda self, a: a[:, :1])),
    "actions are finite": policy(act=act(lambda self, a: a / 0)),
    "alone and in a group": policy(act=act(lambda self, a: a - a.mean(0))),
    "leave the observation": policy(act=scribble),
    "needs is a frozenset": policy(needs=[STATE]),
    "the observation holds what it needs": policy(needs=frozenset({"language"})),
    "it has needs, initial and act": object(),
}


def test_a_good_policy_passes() -> None:
    check_policy(GoodPolicy(), SPEC)
    check_policy(GoodPolicy(), SPEC, observation={STATE: torch.ones(2, 2)})


@pytest.mark.parametrize("clause", POLICY_FAULTS)
def test_each_fault_of_a_policy_is_named(clause: str) -> None:
    with pytest.raises(ContractError, match=clause):
        check_policy(POLICY_FAULTS[clause], SPEC)  # type: ignore[arg-type]


def env(**methods: object) -> gymnasium.Env:
    made = type("Faulty", (PushEnv,), methods)("pixels_agent_pos")
    made.spec = gymnasium.spec("worldsim/Push-v0")
    return made


def without_success(self: PushEnv) -> dict:
    return {k: v for k, v in PushEnv.info(self).items() if k != "is_success"}


ENV_FAULTS = {
    r"info\['is_success'\]": env(info=without_success),
    "resumes bit for bit": env(set_state=lambda self, state: None),
    "lies in 0..1": env(info=lambda self: PushEnv.info(self) | {"progress": 2.0}),
    "render_fps": env(metadata={"render_modes": [], "render_fps": 0}),
    "Gymnasium's check_env": env(observe=lambda self: PushEnv.observe(self) | {"agent_pos": np.zeros(5)}),
    "reset and step run": env(step=lambda self, action: 1 / 0),
    "pixels are uint8": env(pixels=lambda self: np.zeros((64, 64), np.uint8)),
}


def test_a_good_environment_passes() -> None:
    check_env(env())


@pytest.mark.parametrize("clause", ENV_FAULTS)
def test_each_fault_of_an_environment_is_named(clause: str) -> None:
    with pytest.raises(ContractError, match=clause):
        check_env(ENV_FAULTS[clause])
