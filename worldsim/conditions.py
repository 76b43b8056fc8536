"""What a world is given beside actions: text, camera poses, control maps, first frames.

Shape legend: B episodes, L bytes of text, s frames per step, C channels, H W pixels, F frames.
"""

import dataclasses
from collections.abc import Collection, Mapping

from torch import Tensor

from worldsim.core import TASK, Observation, Rows
from worldsim.errors import InvalidInputError

POSES = "conditions.camera_pose"
"""Observation key of `Conditions.camera_pose`."""
CONTROL = "conditions.control."
"""Prefix of the keys of `Conditions.control`, followed by the map's name, for example ``depth``."""
FRAMES = "conditions.first_frames"
"""Observation key of `Conditions.first_frames`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditions(Rows):
    """Conditions of B episodes; what is not given is None or absent."""

    text: Tensor | None = None  # uint8 [B, L], UTF-8 padded with zeros, see `worldsim.core.text_rows`
    camera_pose: Tensor | None = None  # float32 [B, s, 4, 4], camera to world, metres
    control: Mapping[str, Tensor] = dataclasses.field(
        default_factory=dict
    )  # float32 [B, s, C, H, W] in [-1, 1], by name
    first_frames: Tensor | None = None  # uint8 [B, F, H, W, 3], frames before the first step, oldest first

    @classmethod
    def of(cls, observation: Observation) -> "Conditions":
        """The conditions among first observations: the keys TASK, POSES, CONTROL... and FRAMES."""
        return cls(
            text=observation.get(TASK),
            camera_pose=observation.get(POSES),
            control={k.removeprefix(CONTROL): v for k, v in observation.items() if k.startswith(CONTROL)},
            first_frames=observation.get(FRAMES),
        )

    def given(self) -> frozenset[str]:
        """Names of the fields that hold something."""
        return frozenset(f.name for f in dataclasses.fields(self) if _holds(getattr(self, f.name)))

    def only(self, read: Collection[str]) -> "Conditions":
        """These conditions, for a model that reads the fields named in `read`.

        Text is dropped where it is not read, since every recording has a task; anything else that would be ignored is
        refused.

        Raises:
            InvalidInputError: Something else is given that the model does not read.
        """
        ignored = sorted(self.given() - set(read) - {"text"})
        if ignored:
            raise InvalidInputError(
                f"This world does not read {', '.join(ignored)}, so giving it would change nothing. It reads: "
                f"{', '.join(sorted(read)) or 'no conditions'}. Leave it out, or use a world trained with it."
            )
        return self if "text" in read else dataclasses.replace(self, text=None)


def _holds(value: Tensor | Mapping[str, Tensor] | None) -> bool:
    return isinstance(value, Tensor) or bool(value)
