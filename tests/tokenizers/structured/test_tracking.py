import dataclasses

import pytest
import torch
from torch import Tensor

from worldsim.tokenizers.structured.state import SceneState
from worldsim.tokenizers.structured.tracking import LOST, track

TIME = 30


def crossing() -> SceneState:
    """Two things that pass each other, [1, T, 2], as they are."""
    t = torch.linspace(-0.6, 0.6, TIME)
    xy = torch.stack([torch.stack([t, 0.15 + 0 * t], -1), torch.stack([-t, -0.15 + 0 * t], -1)], 1)
    pose = torch.cat([xy, torch.tensor([1.0, 0.0]).expand(TIME, 2, 2)], -1)
    return SceneState(
        p=torch.zeros(1, TIME, 1),
        canvas=torch.zeros(1, TIME, 0),
        pose=pose[None],
        seen=torch.ones(1, TIME, 2),
        code=torch.zeros(1, TIME, 2, 4),
    )


def left_to_right(state: SceneState) -> SceneState:
    """As frames that were encoded alone have them."""
    order = state.pose[..., 0].argsort(-1)

    def taken(x: Tensor) -> Tensor:
        return x.gather(2, order[..., None].expand_as(x))

    return dataclasses.replace(state, pose=taken(state.pose), seen=taken(state.seen[..., None])[..., 0])


def test_things_of_a_kind_are_followed_past_each_other() -> None:
    found = left_to_right(crossing())
    assert not torch.equal(found.pose, crossing().pose)
    assert torch.equal(track(found, (0, 0)).pose, crossing().pose)


def test_things_of_other_kinds_are_never_exchanged() -> None:
    found = crossing()
    assert torch.equal(track(found, (0, 1)).pose, found.pose)
    swapped = dataclasses.replace(found, pose=found.pose.flip(2))
    assert torch.equal(track(swapped, (0, 1)).pose, swapped.pose)


def test_one_that_is_covered_for_a_while_is_the_same_afterwards() -> None:
    true = crossing()
    covered = slice(9, 13)
    true.seen[:, covered, 0] = 0.05
    true.pose[:, covered, 0, :2] = true.pose[:, covered, 1, :2] + 0.1  # found somewhere else, badly
    made = track(left_to_right(true), (0, 0))
    rest = [t for t in range(TIME) if t not in range(9, 13)]
    assert torch.equal(made.pose[:, rest], crossing().pose[:, rest])
    assert torch.equal(made.pose[:, covered, 1], crossing().pose[:, covered, 1])
    assert bool((made.seen[:, covered, 0] < 0.3).all())
    assert torch.equal(made.pose[0, covered, 0], crossing().pose[0, 8, 0].expand(4, 4))  # where it was last


def test_one_that_is_covered_for_the_most_part_is_believed_near_where_it_was() -> None:
    true = crossing()
    true.seen[:, 9:13] = 0.15
    true.pose[0, 9:13, 1, :2] += 0.2  # the other one is found elsewhere, as badly
    true.seen[0, 0, 0] = 0.15  # and of the first it is not known where it is, until it is seen well
    made = track(true, (0, 1))
    assert torch.equal(made.pose[0, :, 0], true.pose[0, :, 0])
    assert made.seen[0, 0, 0] < LOST and bool((made.seen[0, 9:13, 0] > LOST).all())
    assert torch.equal(made.pose[0, 9:13, 1], true.pose[0, 8, 1].expand(4, 4))
    assert bool((made.seen[0, 9:13, 1] < LOST).all()) and bool((made.seen[0, 13:] == 1).all())


@pytest.mark.parametrize("kinds", [(0, 1), (0, 0)])
def test_a_leap_is_not_believed_at_once(kinds: tuple[int, int]) -> None:
    true = crossing()
    true.pose[0, 12, 0, :2] = torch.tensor([0.9, 0.9])
    made = track(true, kinds)
    assert made.seen[0, 12, 0] == 0 and torch.equal(made.pose[0, 12, 0], true.pose[0, 11, 0])
    assert torch.equal(made.pose[0, 13:], true.pose[0, 13:]) and bool((made.seen[0, 13:] == 1).all())


def test_what_stays_where_it_leapt_to_is_believed_in_the_end() -> None:
    true = crossing()
    true.pose[0, 12:, 0, :2] = torch.tensor([0.9, 0.9])
    made = track(true, (0, 1))
    assert made.seen[0, 12, 0] == 0 and bool((made.seen[0, 16:, 0] == 1).all())
    assert torch.equal(made.pose[0, 16:, 0], true.pose[0, 16:, 0])
