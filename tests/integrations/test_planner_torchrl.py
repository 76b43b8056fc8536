"""TorchRL's model-based environments and planner modules. Needs TorchRL, which takes seconds to import."""

import sys
import warnings

import pytest
import torch

from worldsim.errors import InvalidInputError, MissingExtraError


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchrl.modules.planners", None)
    monkeypatch.delitem(sys.modules, "worldsim.integrations.planners.torchrl", raising=False)
    with pytest.raises(MissingExtraError, match=r"worldsim\[interop\]"):
        import worldsim.integrations.planners.torchrl  # noqa: F401


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
        import torchrl
    except ImportError:
        torchrl = None

if torchrl is not None:
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.data import Bounded, Categorical, Composite, Unbounded
    from torchrl.envs.model_based import ModelBasedEnvBase
    from torchrl.modules import WorldModelWrapper
    from torchrl.modules.planners import CEMPlanner

    from worldsim.integrations.planners.torchrl import EnvObjective, WorldsimPlanner, bounds_of

    class Point(ModelBasedEnvBase):
        """A point pushed by its actions; beyond 3 the episode is over, and standing still would pay 100."""

        def __init__(self, limit: float | None = 1.0) -> None:
            step = TensorDictModule(lambda x, a: x + 0.5 * a, in_keys=["x", "action"], out_keys=["x"])
            reward = TensorDictModule(
                lambda x: (-x.square().sum(-1, keepdim=True), (x.abs() > 3).any(-1, keepdim=True)),
                in_keys=["x"],
                out_keys=["reward", "done"],
            )
            super().__init__(WorldModelWrapper(step, reward))
            box = Unbounded((2,)) if limit is None else Bounded(-limit, limit, (2,))
            self.observation_spec = Composite(x=Unbounded((2,)))
            self.state_spec = Composite(x=Unbounded((2,)))
            self.action_spec, self.reward_spec = box, Unbounded((1,))
            self.done_spec = Categorical(2, (1,), dtype=torch.bool)

        def _reset(self, tensordict, **kwargs):
            return TensorDict({"x": torch.ones(*self.batch_size, 2)}, self.batch_size)


pytestmark = pytest.mark.integration
needs = pytest.mark.skipif(torchrl is None, reason="the interop extra is not installed")


def start(*lead: int):
    return TensorDict({"x": torch.linspace(0.5, 1.0, 2).expand(*lead, 2).clone()}, lead)


@needs
@pytest.mark.parametrize("planner", ["weighted", "cem", "hybrid"])
@pytest.mark.parametrize("lead", [(), (3,), (2, 2)])
def test_it_writes_the_action_and_the_action_is_good(planner: str, lead: tuple[int, ...]) -> None:
    module = WorldsimPlanner(Point(), 4, 5, 64, 8, planner=planner)
    given = start(*lead)
    out = module(given)
    assert out["action"].shape == (*lead, 2) and torch.equal(out["x"], start(*lead)["x"])
    # To reach the origin from [0.5, 1] at once takes pushes of [-1, -2]; the box allows [-1, -1], which costs 0.25.
    # Doing nothing costs 5.
    assert bool((out["action"][..., 1] < -0.9).all()) and bool((module.plan.cost < 0.6).all())


@needs
def test_it_acts_in_their_rollout() -> None:
    done = Point().rollout(5, WorldsimPlanner(Point(), 4, 4, 64, 8))
    theirs = Point().rollout(5, CEMPlanner(Point(), 4, 4, 64, 8))
    assert done["next", "reward"].sum() >= theirs["next", "reward"].sum() - 0.5
    assert float(done["next", "x"][-1].abs().max()) < 0.2


@needs
def test_costs_are_theirs_and_what_comes_after_the_end_is_free() -> None:
    env, actions = Point(limit=10.0), torch.randn(3, 7, 4, 2, generator=torch.Generator().manual_seed(0)) * 4
    cost = EnvObjective(env, start(3))(actions)
    x, expected, over = start(3)["x"][:, None].expand(3, 7, 2), torch.zeros(3, 7), torch.zeros(3, 7, dtype=torch.bool)
    for t in range(4):
        x = x + 0.5 * actions[:, :, t]
        expected += x.square().sum(-1).masked_fill(over, 0)
        over |= (x.abs() > 3).any(-1)
    assert torch.allclose(cost, expected) and bool(over.any()) and not bool(over.all())
    index = torch.tensor([2, 0])
    assert torch.allclose(EnvObjective(env, start(3)).rows(index)(actions[index]), expected[index])


@needs
def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="finite limits"):
        WorldsimPlanner(Point(limit=None), 4, 4, 64, 8)
    assert WorldsimPlanner(Point(limit=None), 4, 4, 64, 8, bounds=([-1, -1], [1, 1])).bounds.dim == 2
    assert bounds_of(Bounded(-2, 2, (2, 3))).dim == 6
    with pytest.raises(InvalidInputError, match=r"tensordict \[B\]"):
        EnvObjective(Point(), start(2, 2))
