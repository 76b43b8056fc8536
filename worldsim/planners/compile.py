"""Faster objectives, only where somebody asks: `torch.compile`, or a CUDA graph of one evaluation.

Neither happens by itself. Compiling takes seconds to a minute and again for every new shape; on a CPU it pays for small
models and few episodes, and can cost for others: measure (`python -m benchmarks.plan_speed`). Where episodes finish early
(`Limits.tolerance`) shapes change, so do not combine the two.

Shape legend: B episodes, N candidates, H steps, A action width.
"""

from typing import Any

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.planners.objective import Objective, Scores


def compiled(objective: Objective, **options: Any) -> Objective:
    """The same objective through `torch.compile`, gradients included.

    Args:
        objective: What is minimised.
        **options: Of `torch.compile`, for example ``mode="reduce-overhead"`` or ``backend="aot_eager"``. Static shapes
            are assumed unless ``dynamic=True`` is given.
    """
    function: Objective = torch.compile(lambda actions: objective(actions), **({"dynamic": False} | options))
    return function


class Graphed:
    """An objective replayed as one CUDA graph: no launch of a single kernel is paid for again.

    Static: every call must have the shape, type and device of `example`, and what the objective reads (the state it
    starts from) must stay where it is. For sampling rules only, a graph holds no gradients.

    Args:
        objective: Must launch the same kernels every time, and read nothing back to the host. A world that checks its
            actions reads back; roll its predictor out through `RolloutObjective` instead.
        example: Actions [B, N, H, A] on the GPU.

    Raises:
        InvalidInputError: The example is not on a GPU.
    """

    def __init__(self, objective: Objective, example: Tensor) -> None:
        if example.device.type != "cuda":
            raise InvalidInputError(
                f"A CUDA graph needs actions on a GPU; got {example.device}. On a CPU use the objective as it is, or "
                "`compiled`."
            )
        self._actions = example.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(side):
            for _ in range(3):  # lazy initialisation must be over before recording begins
                objective(self._actions)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self._graph):
            self._scores = objective(self._actions)

    def __call__(self, actions: Tensor) -> Scores:
        """Costs [B, N].

        Raises:
            InvalidInputError: Another shape, type or device than was recorded.
        """
        own = self._actions
        if (actions.shape, actions.dtype, actions.device) != (own.shape, own.dtype, own.device):
            raise InvalidInputError(
                f"This graph was recorded for {own.dtype} {tuple(own.shape)} on {own.device}; got {actions.dtype} "
                f"{tuple(actions.shape)} on {actions.device}."
            )
        own.copy_(actions)
        self._graph.replay()
        if isinstance(self._scores, tuple):
            return self._scores[0].clone(), self._scores[1].clone()
        return self._scores.clone()
