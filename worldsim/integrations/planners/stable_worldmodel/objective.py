"""A stable-worldmodel cost model as a worldsim objective. Not for planning; see `solver` for that.

Shape legend: B environments, S candidates, H steps of a plan, A width of a step: action width x action_block.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


class CostObjective:
    """A cost model `get_cost(info, actions [B, S, H, A]) -> [B, S]` as a worldsim objective.

    Models keep what they have encoded inside the `info` that they are given, so each number of candidates has one of its
    own for the life of the objective: an observation is encoded once per search, not once per iteration.

    Args:
        model: Anything with `get_cost`.
        info: Tensors, arrays and lists with B entries each; what is none of these is passed on as it is.
        device: Where tensors go; by default they stay.
        dtype: What float tensors become; by default what the model's parameters are, or float32.
    """

    def __init__(
        self,
        model: Any,
        info: Mapping[str, Any],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._model, self._info = model, info
        self._device, self._dtype = device, dtype or dtype_of(model)
        self._expanded: dict[int, dict[str, Any]] = {}

    def __call__(self, actions: Tensor) -> Tensor:
        """Costs [B, S] of actions [B, S, H, A]."""
        count = actions.shape[1]
        if count not in self._expanded:
            self._expanded[count] = {key: self._expand(value, count) for key, value in self._info.items()}
        cost: Tensor = self._model.get_cost(self._expanded[count], actions)
        return cost

    def _expand(self, value: Any, count: int) -> Any:
        if isinstance(value, Tensor):
            dtype = self._dtype if value.is_floating_point() else value.dtype
            value = value.to(device=self._device or value.device, dtype=dtype)
            return value[:, None].expand(-1, count, *value.shape[1:])
        return np.repeat(value[:, None], count, axis=1) if isinstance(value, np.ndarray) else value


def dtype_of(model: Any) -> torch.dtype:
    """Float type of the model's parameters; float32 where it has none."""
    parameters = getattr(model, "parameters", None)
    first = next(iter(parameters()), None) if callable(parameters) else None
    return torch.float32 if first is None else first.dtype
