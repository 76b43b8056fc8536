"""A dataset's own actions are played again from its starts, changed for those of other episodes, and perturbed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data import toys
from worldsim.core import IMAGE, STATE
from worldsim.data.collect.random_exploration import Behaviour
from worldsim.data.collect.record import collect
from worldsim.data.collect.replay import SOON, RecordedActions, Replay
from worldsim.data.episode import Episode
from worldsim.data.lerobot.read import open_dataset
from worldsim.errors import InvalidInputError
from worldsim.noise import fold

COUNT = 14


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> list[Episode]:
    out = tmp_path_factory.mktemp("replay") / "d"
    collect(toys.DotEnv, [Behaviour(name="noisy", policy=toys.Noisy())], episodes=COUNT, out=out)
    dataset = open_dataset(out)
    return [dataset.episode(i) for i in range(COUNT)]


def keys(number: int, steps: int) -> torch.Tensor:
    return fold(torch.full((steps,), number), torch.arange(steps))


def test_undisturbed_it_repeats_what_was_recorded(episodes: list[Episode], tmp_path: Path) -> None:
    recorded = RecordedActions.of_episodes(episodes, IMAGE)
    replay = Replay(recorded, toys.ACTION, steps=1e9, perturbed=0)
    behaviour = Behaviour(name="replay", policy=replay, start_seed=replay.start_seed)
    collect(toys.DotEnv, [behaviour], episodes=6, out=tmp_path / "again", seed=5)
    again, by_seed = open_dataset(tmp_path / "again"), {one.seed: one for one in episodes}
    for i in range(6):
        played = again.episode(i)
        for name in ("action", "proprio", "success", "simulator"):
            assert np.array_equal(getattr(played, name), getattr(by_seed[played.seed], name))


def test_it_changes_to_others_and_a_tenth_is_random(episodes: list[Episode]) -> None:
    recorded = RecordedActions.of_episodes(episodes, IMAGE)
    known = {tuple(a) for a in recorded.action.tolist()}
    replay, where = Replay(recorded, toys.ACTION, steps=4.0), torch.zeros(1, 3)
    taken, followed = list[bool](), list[bool]()
    for number in range(40):
        carry, before = replay.initial(1), -1
        for key in keys(number, 20):
            action, carry = replay.act({STATE: where}, carry, key[None])
            taken.append(tuple(action[0].tolist()) in known)
            followed.append(int(carry.row) == before + 1)
            before = int(carry.row)
            assert toys.ACTION.check(action[0]).equal(action[0])
    assert 0.85 < np.mean(taken) < 0.95
    assert 0.55 < np.mean(followed) < 0.75  # ends of episodes and changes


def test_it_goes_on_where_the_robot_stands_alike_and_things_are_about_to_move(episodes: list[Episode]) -> None:
    recorded = RecordedActions.of_episodes(episodes, IMAGE)
    assert 0 < recorded.moving < 1 and recorded.shares().shape == (COUNT,)
    moves = torch.arange(len(recorded.action)) % 9 == 0
    replay = Replay(dataclasses.replace(recorded, moves=moves), toys.ACTION, at_start=False, perturbed=0)
    assert replay.start_seed(keys(0, 1)) is None
    rows = []
    for number in range(60):
        where = recorded.proprio[number : number + 1]
        _, carry = replay.act({STATE: where}, replay.initial(1), keys(number, 1))
        rows.append(int(carry.row) - 1)
    away = (recorded.proprio[rows] - recorded.proprio[:60]).norm(dim=1).mean()
    assert float(moves[rows].float().mean()) > 0.3  # of one moment in nine, though the very moment is among them
    assert away < 0.5 * torch.cdist(recorded.proprio, recorded.proprio).mean()


def test_what_cannot_be_played_is_named(episodes: list[Episode]) -> None:
    recorded = RecordedActions.of_episodes(episodes[:3], IMAGE)  # too few to see what moves
    assert recorded.moving == 0
    with pytest.raises(InvalidInputError, match="steps >= 1"):
        Replay(recorded, toys.ACTION, perturbed=2)
    with pytest.raises(InvalidInputError, match="nothing to be played again"):
        RecordedActions.of_episodes([], IMAGE)


def test_an_episode_is_played_exactly_until_something_moves(episodes: list[Episode]) -> None:
    recorded = RecordedActions.of_episodes(episodes, IMAGE)
    lengths = torch.diff(recorded.first, append=torch.tensor([len(recorded.moves)]))
    row_in = torch.cat([torch.arange(int(n)) for n in lengths])
    late = dataclasses.replace(recorded, moves=row_in == 4)  # something moves within `SOON` steps from the fifth on
    assert torch.equal(late.exact_until() - late.first, torch.minimum(torch.full_like(lengths, 4 + SOON), lengths - 1))
    assert torch.equal(dataclasses.replace(late, moves=row_in < 0).exact_until(), late.first)
    replay = Replay(late, toys.ACTION, steps=2.0, perturbed=0.5)
    exact, disturbed = list[bool](), list[bool]()
    for number in range(12):
        carry = replay.initial(1)
        for t, key in enumerate(keys(number, 20)):
            action, carry = replay.act({STATE: torch.zeros(1, 3)}, carry, key[None])
            if t == 0:
                begun = int(carry.row) - 1
            until = int(late.exact_until()[late.first == begun])
            row = min(begun + t, len(late.action) - 1)
            same = torch.equal(action[0], late.action[row])
            (exact if row < until else disturbed).append(same)
    assert all(exact) and len(exact) > 60 and not all(disturbed)
