"""Actions in words: which of four directions, and how strongly. For the tasks about actions."""

import numpy as np

from worldsim.errors import InvalidInputError
from worldsim.reason.footage import Floats, Footage

DIRECTIONS = ("right", "left", "up", "down")
"""First number of the action up and down, then the second, as a picture with x to the right and y up shows them."""


def strongest(footage: Footage, *, task: str) -> Floats:
    """Largest absolute action of the footage in each of its first two numbers, [2].

    Raises:
        InvalidInputError: Some video has no actions, or fewer than two numbers in them.
    """
    for card in footage.cards:
        if card.action is None or card.action.shape[1] < 2:
            raise InvalidInputError(
                f"Task {task} needs actions of two numbers at least; video {card.origin.episode} has "
                f"{'none' if card.action is None else card.action.shape[1]}. Leave the task out for this source."
            )
    actions = np.concatenate([c.action[:, :2] for c in footage.cards if c.action is not None])
    peak: Floats = np.abs(actions).max(axis=0).astype(np.float32) + 1e-9
    return peak


def mean_action(footage: Footage, video: int, first: int, count: int) -> Floats:
    """Mean of `count` actions from `first` on, [2]."""
    action = footage.cards[video].action
    assert action is not None, "checked by `strongest`"
    mean: Floats = action[first : first + count, :2].mean(axis=0)
    return mean


def direction(share: Floats) -> int:
    """Which of the four directions an action [2] leans to."""
    axis = int(np.abs(share).argmax())
    return 2 * axis + int(share[axis] < 0)


def in_words(share: Floats) -> str:
    """An action [2] in -1..1 per axis as two directions with a digit 0 to 9 each."""
    parts = [f"{DIRECTIONS[2 * i + int(s < 0)]} {min(9, round(9 * abs(float(s))))}" for i, s in enumerate(share)]
    return " ".join(parts)
