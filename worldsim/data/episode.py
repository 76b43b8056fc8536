"""One recorded episode: what every camera saw, what was done, and what came of it.

Shape legend: T actions, T + 1 observations, H W image, P proprio, A action, E true state, S simulator state.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from worldsim.arrays import Bytes, Float32s, Float64s
from worldsim.core import is_image
from worldsim.errors import InvalidInputError


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Episode:
    """T actions and the T + 1 observations around them; `action[t]` leads from observation t to t + 1.

    Attributes:
        frames: By camera key (`worldsim.core.Camera`), the main camera first: uint8 [T + 1, H, W, 3], each of its own
            size.
        proprio: float32 [T + 1, P], physical units.
        action: float32 [T, A], physical units.
        success: float32 [T + 1], 1 where the task stands solved, else 0; nan where it is not known.
        progress: float32 [T + 1], 0..1; nan where it is not known.
        reward: float32 [T], what step t paid; nan where it is not known.
        last_action: float32 [A], what was done at the last observation where what it led to was not recorded, as in
            LeRobot's own recordings; None where nothing was.
        last_reward: What that action paid; nan where it is not known. What it achieved is in the last of `success`.
        true_state: float32 [T + 1, E], or None.
        simulator: float64 [S], everything a simulator needs to begin this episode again, or None.
        seed: What the episode was drawn from; -1 where it is not known.
        behaviour: Name of what chose the actions; empty where it is not known.
        task: What it is to achieve, one sentence, or several in order, parted by semicolons; empty where its dataset has
            one for all, or it is not known.

    Raises:
        InvalidInputError: There is no camera, a field has another shape or dtype, or proprio or actions
            are not finite.
    """

    frames: Mapping[str, Bytes]
    proprio: Float32s
    action: Float32s
    success: Float32s
    progress: Float32s
    reward: Float32s
    last_action: Float32s | None = None
    last_reward: float = math.nan
    true_state: Float32s | None = None
    simulator: Float64s | None = None
    seed: int = -1
    behaviour: str = ""
    task: str = ""

    def __post_init__(self) -> None:
        rows = len(self.proprio)
        if not self.frames or not rows or not all(is_image(key) for key in self.frames):
            raise InvalidInputError(f"Episode.frames needs a camera and a frame; got {list(self.frames)}, {rows} rows.")
        for key, frames in self.frames.items():
            if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) != rows:
                raise InvalidInputError(
                    f"Episode.frames[{key!r}] must be uint8 [T + 1, H, W, 3] with T + 1 = {rows}; got {frames.dtype} "
                    f"{frames.shape}."
                )
        expected = {"proprio": (rows, 2), "action": (rows - 1, 2), "success": (rows, 1), "progress": (rows, 1)}
        expected |= {"reward": (rows - 1, 1)} | ({} if self.true_state is None else {"true_state": (rows, 2)})
        for name, (length, ndim) in expected.items():
            value = getattr(self, name)
            if value.dtype != np.float32 or value.ndim != ndim or len(value) != length:
                raise InvalidInputError(
                    f"Episode.{name} must be float32 with {ndim} axes and {length} rows for {rows} observations; got "
                    f"{value.dtype} {value.shape}."
                )
        if self.last_action is not None and (
            self.last_action.dtype != np.float32 or self.last_action.shape != self.action.shape[1:]
        ):
            raise InvalidInputError(
                f"Episode.last_action must be float32 {self.action.shape[1:]}; got {self.last_action.dtype} "
                f"{self.last_action.shape}."
            )
        for name in ("proprio", "action", *(["last_action"] if self.last_action is not None else [])):
            if not np.isfinite(getattr(self, name)).all():
                raise InvalidInputError(
                    f"Episode.{name} holds NaN or infinity. Find out which sensor or policy made it."
                )

    @property
    def steps(self) -> int:
        """Number of actions T."""
        return len(self.action)
