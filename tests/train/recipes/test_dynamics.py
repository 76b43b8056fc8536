"""Whether a thing's look changes within episodes, and which stages learn how it moves."""

import dataclasses

import pytest
import torch
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.data.latents import EncodedEpisode, EncodedEpisodes
from worldsim.optimize import Schedule
from worldsim.tokenizers.structured.state import SceneLayout, SceneState
from worldsim.tokenizers.structured.tokenizer import StructuredConfig, StructuredTokenizer
from worldsim.train.recipes.structured.dynamics import begin_predictor, dynamics_losses, looks_change
from worldsim.train.recipes.structured.settings import StructuredRecipe

CONFIG = StructuredConfig(image_size=(48, 48), proprio_dim=1, things=2, orders=(0, 0))


def painting() -> StructuredTokenizer:
    """A tokenizer whose things look as their codes say."""
    torch.manual_seed(0)
    tokenizer = StructuredTokenizer(CONFIG)
    assert tokenizer.painter is not None
    with torch.no_grad():
        for number in (0, 2, 4):
            tokenizer.painter.draw[number].weight.mul_(6)  # type: ignore[operator, union-attr]
    return tokenizer


def episode(code_F2d: Tensor, seen: float = 1.0) -> SceneState:
    frames = len(code_F2d)
    return SceneState(
        p=torch.zeros(frames, 1),
        canvas=torch.zeros(frames, 0),
        pose=torch.tensor([0.2, 0.1, 1.0, 0.0]).expand(frames, 2, 4),
        seen=torch.full((frames, 2), seen),
        code=code_F2d,
    )


def test_a_look_changes_where_its_picture_does() -> None:
    tokenizer = painting()
    code = torch.zeros(20, 2, 4)
    code[:, 0] = torch.linspace(-2, 2, 20)[:, None] * torch.tensor([1.0, -1.0, 1.0, 1.0])  # of the first thing only
    episodes = [episode(code), episode(code.flip(0))]
    assert looks_change(tokenizer, episodes, 0, 0) and not looks_change(tokenizer, episodes, 1, 1)
    assert not looks_change(tokenizer, [episode(code, seen=0.1)], 0, 0)  # it was never seen
    tokenizer.config = dataclasses.replace(CONFIG, orders=(1, 0))
    assert not looks_change(tokenizer, episodes, 0, 0)  # it turns without changing its shape


def test_looks_of_other_episodes_are_no_change() -> None:
    episodes = [episode(torch.full((6, 2, 4), value)) for value in (-2.0, 0.0, 2.0)]
    assert not looks_change(painting(), episodes, 0, 0)


@pytest.mark.parametrize("things", [0, 1])
def test_without_things_the_body_learns_for_the_time_of_both(things: int) -> None:
    torch.manual_seed(0)
    tokenizer = StructuredTokenizer(dataclasses.replace(CONFIG, things=things, orders=(0,) * things))
    action = ActionSpec(names=("x",), units=("m",), low=(-1.0,), high=(1.0,), rate_hz=10.0)
    none, size = torch.zeros(20), tokenizer.latent_shape
    episodes = [
        EncodedEpisode(
            z_FCHW=torch.randn(20, *size),
            action_FA=torch.zeros(19, 1),
            proprio_FP=torch.zeros(20, 1),
            progress_F=none,
            success_F=none,
        )
    ]
    encoded = EncodedEpisodes(episodes=tuple(episodes), indices=(0,))
    recipe = StructuredRecipe(body=Schedule(steps=100, batch=4), contact=Schedule(steps=30, batch=4))
    predictor = begin_predictor(tokenizer, encoded, action, seed=0)
    stages = {name: at.steps for name, _, _, at in dynamics_losses(predictor, encoded, action, recipe, seed=0)}
    assert stages == ({"body": 100, "contact": 30} if things else {"body": 220})


def test_walls_are_found_in_all_that_was_seen() -> None:
    tokenizer = StructuredTokenizer(dataclasses.replace(CONFIG, things=1, orders=(0,)))
    action = ActionSpec(names=("x",), units=("m",), low=(-1.0,), high=(1.0,), rate_hz=10.0)
    torch.manual_seed(0)
    episodes = []
    for _ in range(40):  # a thing that goes anywhere between walls
        state = episode(torch.zeros(100, 1, 4))
        pose = torch.cat([1.5 * torch.rand(100, 1, 2) - 0.75, torch.tensor([1.0, 0.0]).expand(100, 1, 2)], -1)
        z_FD = SceneLayout(proprio_dim=1, things=(1,), code_dim=4).join(
            dataclasses.replace(state, pose=pose, seen=torch.ones(100, 1))
        )
        episodes.append(
            EncodedEpisode(
                z_FCHW=z_FD[..., None, None],
                action_FA=torch.zeros(99, 1),
                proprio_FP=torch.zeros(100, 1),
                progress_F=torch.zeros(100),
                success_F=torch.zeros(100),
            )
        )
    encoded = EncodedEpisodes(episodes=tuple(episodes), indices=tuple(range(40)))
    predictor = begin_predictor(tokenizer, encoded, action, seed=0)
    dynamics_losses(predictor, encoded, action, StructuredRecipe(), seed=0)
    (contact,) = predictor.contact
    assert (contact.high_K2 - 0.75).abs().max() < 0.02 and (contact.low_K2 + 0.75).abs().max() < 0.02
