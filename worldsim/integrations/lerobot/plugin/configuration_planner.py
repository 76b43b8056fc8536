"""The options of a planner as LeRobot reads them: `--policy.type=worldsim_planner --policy.horizon=12 ...`."""

from dataclasses import dataclass, field
from typing import Any, NoReturn

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, NormalizationMode

from worldsim.errors import InvalidInputError


@PreTrainedConfig.register_subclass("worldsim_planner")
@dataclass
class WorldsimPlannerConfig(PreTrainedConfig):  # type: ignore[misc]
    """A planner, the world it plans in, and how it drives; the defaults solve the push task.

    Attributes:
        planner: A name that `worldsim.planners.make_planner` knows.
        world: A shipped world, or a folder.
        horizon: Actions in a plan.
        repeat: Control steps for which each of them is held.
        samples: Candidates per iteration.
        iterations: Iterations per plan.
        receding: Planned actions executed before planning again.
        seed: Of the planner's noise.
        device: Planning runs on the CPU.
        normalization_mapping: Worlds read and give physical units, so nothing is normalised.
    """

    planner: str = "weighted"
    world: str = "push_state"
    horizon: int = 16
    repeat: int = 2
    samples: int = 64
    iterations: int = 3
    receding: int = 1
    seed: int = 0
    device: str | None = "cpu"
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {kind.name: NormalizationMode.IDENTITY for kind in FeatureType}
    )

    @property
    def observation_delta_indices(self) -> None:
        """A planner keeps what it needs of the past itself."""

    @property
    def action_delta_indices(self) -> None:
        """Nothing is learned from chunks."""

    @property
    def reward_delta_indices(self) -> None:
        """Nothing is learned from rewards."""

    def validate_features(self) -> None:
        """Nothing to do: the policy compares the environment with its world when it is built."""

    def get_optimizer_preset(self) -> NoReturn:
        """A planner is not trained.

        Raises:
            InvalidInputError: Always.
        """
        raise not_trained()

    def get_scheduler_preset(self) -> Any:
        """No schedule."""
        return None


def not_trained() -> InvalidInputError:
    """The error of an attempt to train a planner."""
    return InvalidInputError("A planner has nothing to train. Train its world: worldsim train world data=FOLDER.")
