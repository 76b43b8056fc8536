"""Where the vectors of a task hold what its questions are about: places of agent and object, and the agent's motion.

A dataset names its task; the layout of a known task is here. Another task is served by giving its layout
(``items.layout.agent=[0,1]``, `StateLayout`); without one its frames are not described and questions that need places or
directions are refused.
"""

import dataclasses

from worldsim.errors import InvalidInputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateLayout:
    """Column numbers, two each, x (growing to the right of the picture) then y (growing up); empty where unknown.

    Attributes:
        agent: Columns of the proprioception with the agent's place.
        object: Columns of the true state with the place of the object that the task is about.
        heading: Columns of the true state with cosine and sine of the object's heading.
        action: Columns of the action that move the agent along x and y.

    Raises:
        InvalidInputError: Not two different column numbers from 0 on.
    """

    agent: tuple[int, ...] = ()
    object: tuple[int, ...] = ()
    heading: tuple[int, ...] = ()
    action: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            columns = getattr(self, field.name)
            if columns and (len(columns) != 2 or columns[0] == columns[1] or min(columns) < 0):
                raise InvalidInputError(
                    f"A layout names two different columns from 0 on, or none; got {field.name}={columns}."
                )


LAYOUTS = {"worldsim/Push-v0": StateLayout(agent=(0, 1), object=(0, 1), heading=(2, 3), action=(0, 1))}
"""Layouts of known tasks by their Gymnasium id."""


def layout_of(task_id: str) -> StateLayout:
    """The layout of a task; an empty one where it is not known."""
    return LAYOUTS.get(task_id, StateLayout())
