"""A worldsim planner as a LeRobot policy, which is what LeRobot's evaluation insists on.

Shape legend: n environments, A action.
"""

from typing import Any, NoReturn

from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from worldsim.core import IMAGE
from worldsim.errors import InvalidInputError
from worldsim.integrations.lerobot.face import LeRobotFace
from worldsim.integrations.lerobot.plugin.configuration_planner import WorldsimPlannerConfig, not_trained
from worldsim.planners import make_planner
from worldsim.planners.mpc import MPC
from worldsim.worlds import load_world


class WorldsimPlannerPolicy(PreTrainedPolicy):  # type: ignore[misc]
    """Model-predictive control in a world, behind LeRobot's policy class.

    It has no weights of its own: a saved one is its options, and the world stays where it is.

    Args:
        config: The options; features, where they are given, must be what the world needs and acts with.
        kwargs: What LeRobot passes to policies that are made from a dataset; not used.

    Raises:
        UnknownNameError: No such planner or world.
        InvalidInputError: An option out of its range, or an environment that gives or takes something else than the
            world.
    """

    config_class = WorldsimPlannerConfig
    name = "worldsim_planner"

    def __init__(self, config: WorldsimPlannerConfig, **kwargs: Any) -> None:
        super().__init__(config)
        planner = make_planner(
            config.planner, horizon=config.horizon, samples=config.samples, iterations=config.iterations
        )
        mpc = MPC(planner, load_world(config.world), receding=config.receding, repeat=config.repeat)
        _check(config, mpc)
        self._face = LeRobotFace(mpc, seed=config.seed)

    def reset(self) -> None:
        """Forget all episodes: the next observations are the first of other ones."""
        self._face.reset()

    def select_action(self, batch: dict[str, Tensor], **kwargs: Any) -> Tensor:
        """Actions [n, A] in physical units; see `LeRobotFace.select_action`."""
        return self._face.select_action(batch)

    def predict_action_chunk(self, batch: dict[str, Tensor], **kwargs: Any) -> Tensor:
        """The next action as a chunk of one, [n, 1, A]."""
        return self.select_action(batch)[:, None]

    def forward(self, batch: dict[str, Tensor]) -> NoReturn:
        """A planner has no loss, of a batch [n, ...] neither.

        Raises:
            InvalidInputError: Always.
        """
        raise not_trained()

    def get_optim_params(self) -> NoReturn:
        """A planner has no parameters.

        Raises:
            InvalidInputError: Always.
        """
        raise not_trained()


def _check(config: WorldsimPlannerConfig, mpc: MPC) -> None:
    """Compare the environment's features, as far as LeRobot has filled them in, with what the world needs."""
    given = set(config.input_features or ())
    given |= {IMAGE} if config.image_features else set()  # one camera, whatever it is called
    if given and not mpc.needs <= given:
        raise InvalidInputError(
            f"Planning in {config.world} needs {sorted(mpc.needs)}; the environment gives {sorted(given)}. Choose "
            "another --policy.world or --env.obs_type."
        )
    action, wanted = config.action_feature, mpc.world.spec.action
    if action is not None and tuple(action.shape) != (wanted.dim,):
        raise InvalidInputError(
            f"{config.world} acts with {wanted.dim} numbers ({', '.join(wanted.names)}); the environment takes "
            f"{tuple(action.shape)}. Choose another --policy.world."
        )
