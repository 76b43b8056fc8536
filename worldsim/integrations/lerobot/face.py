"""Any worldsim policy, a planner among them, as what LeRobot's evaluation calls: `select_action(batch)` and `reset()`.

Needs torch alone; `worldsim.integrations.lerobot.plugin` puts it into LeRobot's own classes. The other way round,
LeRobot's checkpoints as worldsim policies, is `worldsim.integrations.lerobot.policies`.

Shape legend: n environments, H W image, A action.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from worldsim.core import IMAGE
from worldsim.errors import InvalidInputError
from worldsim.noise import fold
from worldsim.protocols import Policy

_CAMERAS = "observation.images."


class LeRobotFace(nn.Module):
    """A worldsim policy behind LeRobot's two calls.

    Observations are read as LeRobot's evaluation gives them (frames float [n, 3, H, W] in 0..1, vectors under their
    worldsim keys); actions are physical units, so no processors are needed around it. It remembers one batch of
    episodes between `reset` calls, as LeRobot's own policies do. The noise of an episode depends on how many began
    before it, so that episodes are the same in batches of any size.

    Args:
        policy: Any policy, for example `worldsim.planners.mpc.MPC`.
        seed: Of its noise.
    """

    def __init__(self, policy: Policy, *, seed: int = 0) -> None:
        super().__init__()
        self._policy, self._seed = policy, seed
        self._begun = self._n = 0
        self.reset()

    def reset(self) -> None:
        """Forget all episodes: the next observation is their first."""
        self._carry: Any = None
        self._begun += self._n
        self._n = self._step = 0

    def select_action(self, batch: Mapping[str, Any]) -> Tensor:
        """Actions [n, A] for the observations of n environments.

        Raises:
            InvalidInputError: A key that the policy needs is missing, the frames are not float [n, 3, H, W], or the
                number of environments changed without a `reset`.
        """
        with torch.inference_mode(False), torch.no_grad():
            seen = {key: _frames(batch) if key == IMAGE else _vector(batch, key) for key in self._policy.needs}
            n = len(next(iter(seen.values()))) if seen else 1
            if self._step == 0:
                self._n, self._carry = n, self._policy.initial(n)
            if n != self._n:
                raise InvalidInputError(
                    f"{self._n} episodes are under way, but {n} came. Call reset() between batches."
                )
            keys = fold(fold(torch.arange(self._begun, self._begun + n), self._seed), self._step)
            action, self._carry = self._policy.act(seen, self._carry, keys)
            self._step += 1
            return action.clone()

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """See `select_action`."""
        return self.select_action(batch)


def _vector(batch: Mapping[str, Any], key: str) -> Tensor:
    """A vector observation [n, ...], a copy that autograd may touch."""
    if key not in batch:
        raise InvalidInputError(f"The policy needs {key!r}; the batch holds {sorted(batch)}.")
    value: Tensor = batch[key].detach().cpu().float().clone()
    return value


def _frames(batch: Mapping[str, Any]) -> Tensor:
    """Frames uint8 [n, H, W, 3] from the one camera of the batch."""
    cameras = [k for k in batch if k == IMAGE or k.startswith(_CAMERAS)]
    if len(cameras) != 1:
        raise InvalidInputError(f"The policy looks through one camera; the batch holds {cameras or 'none'}.")
    frames: Tensor = batch[cameras[0]]
    if frames.ndim != 4 or frames.shape[1] != 3 or not frames.is_floating_point():
        raise InvalidInputError(
            f"{cameras[0]} must be float [n, 3, H, W] in 0..1; got {frames.dtype} {tuple(frames.shape)}."
        )
    return (frames.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1).contiguous()
