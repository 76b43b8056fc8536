"""What an error model reads of open-loop predictions."""

import torch

from worldsim.worlds.expected_error import ErrorModel, ErrorModelConfig, OpenLoop


def test_motion_and_path_are_those_of_each_group_of_readings() -> None:
    config = ErrorModelConfig(channels=3, things=1, action_dim=1, horizons=(1, 4))
    model = ErrorModel(config)
    start = torch.zeros(2, sum(config.groups))
    there = start.clone()
    there[:, 2:4] = torch.tensor([3.0, 4.0])  # the thing alone goes, and comes back
    action, spread = torch.ones(2, 1), torch.zeros(2)
    done = OpenLoop.begin(start, action).go_on(there, action, spread).go_on(start, action, spread)
    features = model.features(done)
    assert features.shape == (2, config.all)
    first, groups = 4, len(config.groups)  # behind steps, spread, progress and success
    moved, path = (features[0, at : at + groups].exp() for at in (first, first + groups))
    assert moved.max() < 0.01
    assert torch.allclose(path, torch.tensor([0.0, 0.0, 10.0, 0.0]), atol=0.01)
    assert features[0, first + 2 * groups] == 2  # absolute actions, summed


def test_levels_lie_between_those_of_horizons_by_the_logarithm_of_steps_and_go_no_farther() -> None:
    model = ErrorModel(ErrorModelConfig(channels=3, things=1, action_dim=1, horizons=(2, 8, 16)))
    model.level_J.copy_(torch.tensor([1.0, 3.0, 2.0]))
    said = model._level(torch.tensor([0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 500.0]))
    assert torch.allclose(said, torch.tensor([1.0, 1.0, 1.0, 2.0, 3.0, 2.0, 2.0]), atol=1e-6)
    alone = ErrorModel(ErrorModelConfig(channels=3, things=1, action_dim=1, horizons=(4,)))
    assert torch.equal(alone._level(torch.tensor([1.0, 9.0])), torch.zeros(2))
