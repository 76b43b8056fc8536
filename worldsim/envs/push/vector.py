"""Many pushing episodes in one process: `worldsim.envs.push.env.PushEnv` as a vector environment.

Gymnasium's own synchronous vector environment with the episode limit built in, so that seeds, infos, `call`,
`get_attr` and all three autoreset modes are the known ones. It uses one core: run one per process.
"""

from collections.abc import Mapping
from typing import Any

from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from worldsim.envs.push.env import ObsType, PushEnv, PushObservation
from worldsim.envs.push.scene import Number
from worldsim.errors import InvalidInputError


class PushVectorEnv(SyncVectorEnv):
    """`num_envs` pushing episodes stepped together; episode i of `reset(seed=s)` is the single one of seed s + i.

    Args:
        num_envs: Episodes side by side.
        obs_type: As for `PushEnv`.
        variation: As for `PushEnv`, the same for all.
        render_mode: As for `PushEnv`.
        render_px: As for `PushEnv`.
        max_episode_steps: Steps after which an episode is truncated.
        autoreset_mode: How the next episode begins; declared in `metadata`. Gymnasium's default, NEXT_STEP, spends one
            step on it; DISABLED leaves it to `reset(options={"reset_mask": ...})`.

    Raises:
        UnknownNameError: An obs_type or variation that does not exist.
        InvalidInputError: A number below 1, or a variation out of its range.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        obs_type: ObsType = "pixels_agent_pos",
        variation: Mapping[str, Number] | None = None,
        render_mode: str | None = None,
        render_px: int = 256,
        max_episode_steps: int = 50,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        if min(num_envs, max_episode_steps) < 1:
            raise InvalidInputError(
                f"num_envs and max_episode_steps must be at least 1; got {num_envs} and {max_episode_steps}."
            )

        def one() -> TimeLimit[PushObservation, Any]:
            env = PushEnv(obs_type, variation=variation, render_mode=render_mode, render_px=render_px)
            return TimeLimit(env, max_episode_steps)

        super().__init__([one] * num_envs, autoreset_mode=autoreset_mode)
