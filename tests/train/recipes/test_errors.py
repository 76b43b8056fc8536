"""What error models learn from errors that are made up, and what a world does with one."""

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.worlds import toy
from worldsim.optimize import Schedule
from worldsim.stats.correlation import spearman
from worldsim.testing import check_world
from worldsim.train.recipes.errors import FEWEST, MadeErrors, fit_errors, learn_errors
from worldsim.worlds import load_world
from worldsim.worlds.expected_error import ErrorModel, ErrorModelConfig, OpenLoop
from worldsim.worlds.latent import LatentWorld

SHAPE = ErrorModelConfig(channels=3, things=1, action_dim=2, horizons=(1,), members=2, width=16)
STEPS = (2, 4, 8)


def make(episodes: int, seed: int) -> MadeErrors:
    """Errors that grow as a thing goes farther, and fall with the horizon; the spread tells nothing of them."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for step in STEPS:
        far = torch.rand(episodes, 1, generator=generator) * 9
        moved = torch.cat([far * 0, far * 0, far, far * 0, torch.randn(episodes, 3, generator=generator)], 1)
        done = OpenLoop.begin(moved * 0, torch.zeros(episodes, 2))
        done = dataclasses.replace(
            done.go_on(moved, torch.randn(episodes, 2, generator=generator), torch.rand(episodes, generator=generator)),
            steps=torch.full((episodes,), float(step)),
        )
        error = 3 * (far[:, 0] + 0.5) * (1.2 - 0.1 * step)
        parts.append(
            MadeErrors(
                done=done,
                error=error,
                constant=torch.full((episodes,), 6.0),
                step=torch.full((episodes,), step),
                episode=torch.arange(episodes),
            )
        )
    return MadeErrors.cat(parts)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ErrorModel:
    schedule = Schedule(steps=80, batch=64, lr=5e-3, warmup=5)
    return fit_errors(SHAPE, make(100, 0), schedule, folder=tmp_path_factory.mktemp("fit"), seed=0)


def test_it_learns_what_makes_errors_large(model: ErrorModel) -> None:
    other = make(60, 1)
    assert model.config.horizons == STEPS
    for step in STEPS:
        at = other.rows(other.step == step)
        assert spearman(truth=at.error.numpy(), world=model(at.done).numpy()) > 0.8


def test_it_expects_more_at_each_horizon_though_fewer_errors_were_made_there(model: ErrorModel) -> None:
    made = make(100, 0)
    said = [float(model(made.rows(made.step == step).done).mean()) for step in STEPS]
    true = [float(made.rows(made.step == step).error.mean()) / 6 for step in STEPS]
    assert true[0] > true[1] > true[2] and said[0] == pytest.approx(true[0], rel=1e-3)
    assert said[1:] == pytest.approx([true[0] * 1.02, true[0] * 1.02**2], rel=1e-3)
    between = dataclasses.replace(made.rows(made.step == 2).done, steps=torch.full((100,), 6.0))
    few = dataclasses.replace(between, steps=torch.full((100,), 4.0))
    assert model._level(few.steps)[0] < model._level(between.steps)[0] < model.level_J[2]


def follow(world: LatentWorld) -> LatentWorld:
    """A world with an error model that has learned nothing, but says different things of different predictions."""
    torch.manual_seed(0)
    errors = ErrorModel(dataclasses.replace(SHAPE, channels=8, things=2, horizons=(1, 4)))
    for net in (errors.by_few, errors.by_all):
        torch.nn.init.normal_(net.weight[-1])
    return world.with_errors(errors)


def test_a_world_with_an_error_model_keeps_the_contract_and_its_folder_keeps_the_model(tmp_path: Path) -> None:
    world = follow(toy.world())
    check_world(world)
    world.save_pretrained(tmp_path / "world")
    starts, keys = world.starts(torch.arange(3)), torch.arange(3)
    actions = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0))
    said = [w.rollout(w.reset(starts, keys), actions)[1].uncertainty for w in (world, load_world(tmp_path / "world"))]
    assert torch.equal(*said) and bool((said[0] > 0).all())
    assert not torch.allclose(said[0], toy.world().rollout(world.reset(starts, keys), actions)[1].uncertainty)


def test_what_was_done_counts_from_the_last_observation_and_is_each_episodes_own() -> None:
    world = follow(toy.world())
    starts, actions = world.starts(torch.arange(2)), torch.tensor([[0.5, 0.0], [-0.5, 1.0]])
    state = world.reset(starts, torch.arange(2))
    for _ in range(2):
        state, _ = world.step(state, actions)
    assert state.done is not None and state.done.steps.tolist() == [2, 2]
    unit = world.spec.action.normalize(actions)
    assert torch.allclose(state.done.effort, 2 * unit.abs()) and torch.allclose(state.done.action, 2 * unit)
    assert torch.equal(state.done.now[:, -8:], state.z.flatten(1))
    _, step = world.step(state, actions)
    _, second = world.step(state.rows([1]), actions[1:])
    assert torch.allclose(step.uncertainty[1:], second.uncertainty)
    seen = world.see(state, starts, actions)
    assert seen.done is not None and seen.done.steps.tolist() == [0, 0] and not seen.done.path.any()
    alone = world.members()[0].step(state, actions)
    assert alone[0].done is None and not alone[1].uncertainty.any()


def test_of_few_episodes_nothing_is_learned(tmp_path: Path) -> None:
    world = follow(toy.world())
    learned = learn_errors(world, range(FEWEST - 1), None, folder=tmp_path)  # type: ignore[arg-type]
    assert learned.errors is None and not (tmp_path / "checkpoint").exists()
