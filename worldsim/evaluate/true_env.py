"""The true environment of a learned world: named by the user or registered, looked at as the world's data was recorded."""

import dataclasses
from collections.abc import Sequence

import torch

from worldsim.core import SIMULATOR, WorldSpec
from worldsim.data.collect.env_adapter import EnvView
from worldsim.data.collect.success import success_rule
from worldsim.envs.simulator import SimulatorWorld
from worldsim.errors import InvalidInputError, unknown_name
from worldsim.evaluate.environments import MakeEnv
from worldsim.protocols import Startable

_HUNG_S = 300.0
"""Seconds after which a call into the environment counts as hung, where it runs in the main thread."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrueEnv:
    """The true environment of a world; picklable.

    Attributes:
        env: Its name, as for `MakeEnv`; empty for the world's own, see `worldsim.evaluate.loaders.find_true_env`.
        imports: Modules or files to import first.
        success: A success rule (`worldsim.data.collect.success`); empty for what the environment's info says.
    """

    env: str = ""
    imports: tuple[str, ...] = ()
    success: str = ""

    @classmethod
    def from_options(cls, env: str | None, *, imports: Sequence[str] | None, success: str | None) -> "TrueEnv | None":
        """What the options of a command name; None where they name nothing."""
        named = cls(env=env or "", imports=tuple(imports or ()), success=success or "")
        return None if named == cls() else named

    def world(self, like: WorldSpec, *, seeded: bool = False) -> SimulatorWorld:
        """The environment as a world that takes the same actions and shows the same cameras in the same sizes.

        Args:
            like: The learned world's spec.
            seeded: The learned world's starts hold seeds, from which episodes are replayed.

        Raises:
            InvalidInputError: It differs from what the world was trained on; both are named.
            WorldsimError: As `MakeEnv` and `SimulatorWorld`.
        """
        sizes = {camera.size for camera in like.cameras}
        view = EnvView(
            cameras=tuple(camera.key for camera in like.cameras) or None,
            image_px=sizes.pop() if len(sizes) == 1 else None,
            action=like.action,
            success=success_rule(self.success) if self.success else None,
            timeout_s=_HUNG_S,
        )
        made = SimulatorWorld(MakeEnv(self.env, imports=self.imports), horizon=like.horizon, view=view, seeded=seeded)
        given, wanted = (
            {"cameras": {c.key: c.size for c in s.cameras} if like.cameras else {}, "proprioception": s.proprio_dim}
            for s in (made.spec, like)
        )
        for name, value in wanted.items():
            if given[name] != value:
                raise InvalidInputError(
                    f"The true environment {self.env} gives {name} {given[name]}; the world was trained with {value}. Name the "
                    "environment that its data was recorded in, made in the same way."
                )
        return made

    def around(self, world: Startable) -> SimulatorWorld:
        """The environment for a loaded world, which lends it its starts; see `world`.

        Raises:
            InvalidInputError: The starts hold neither simulator states nor seeds.
        """
        first = world.starts(torch.zeros(1, dtype=torch.int64))
        if SIMULATOR not in first:
            raise InvalidInputError(
                "The world's starts hold neither simulator states nor seeds, so its episodes cannot be played in its true "
                "environment. Record its data with worldsim collect. Use --truth 0 until then."
            )
        return self.world(world.spec, seeded=first[SIMULATOR].shape[1] == 1)

    def require_success(self, like: WorldSpec, *, seeded: bool) -> None:
        """Refuse an environment that cannot be compared with, before work begins.

        Raises:
            InvalidInputError: It never says whether the task is solved.
            UnknownNameError: The rule names what is not there in all of an episode.
            WorldsimError: As `world`.
        """
        made = self.world(like, seeded=seeded)
        if made.tells_success:
            return
        if self.success:
            raise unknown_name("name in the success rule", self.success, made.names)
        raise InvalidInputError(
            f"The true environment {self.env} does not say when its task is solved, so nothing can be compared with it. Say "
            'it with --success "info.NAME > NUMBER" or --success module:function, as for worldsim collect.'
        )
