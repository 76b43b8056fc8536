"""Actions as words: which of four directions, and how strongly."""

import numpy as np

from worldsim.arrays import Float32s
from worldsim.errors import InvalidInputError
from worldsim.reason.items.footage import Footage

DIRECTIONS = ("right", "left", "up", "down")
"""Motion along x up and down, then along y, as a picture with x to the right and y up shows it."""


def peak_action(footage: Footage, *, task: str) -> Float32s:
    """Largest absolute action of the footage along x and y, [2].

    Raises:
        InvalidInputError: Some video has no actions, or its layout does not say which of their numbers move the agent.
    """
    for about in footage.summaries:
        if about.action_xy is None:
            raise InvalidInputError(
                f"Task {task} asks in which direction the agent moves, and video {about.provenance.episode} has no actions, "
                "or its task is not known. Give the columns that move it along x and y (items.layout.action=[0,1]), or "
                "leave the task out for this source."
            )
    actions = np.concatenate([s.action_xy for s in footage.summaries if s.action_xy is not None])
    peak: Float32s = np.abs(actions).max(axis=0).astype(np.float32) + 1e-9
    return peak


def mean_action(footage: Footage, video: int, first: int, count: int) -> Float32s:
    """Mean of `count` actions from `first` on, [2]."""
    action = footage.summaries[video].action_xy
    assert action is not None, "checked by `peak_action`"
    mean: Float32s = action[first : first + count].mean(axis=0)
    return mean


def direction(share: Float32s) -> int:
    """Which of the four directions an action [2] leans to."""
    axis = int(np.abs(share).argmax())
    return 2 * axis + int(share[axis] < 0)


def describe_action(share: Float32s) -> str:
    """An action [2] in -1..1 per axis as two directions with a digit 0 to 9 each."""
    parts = [f"{DIRECTIONS[2 * i + int(s < 0)]} {min(9, round(9 * abs(float(s))))}" for i, s in enumerate(share)]
    return " ".join(parts)
