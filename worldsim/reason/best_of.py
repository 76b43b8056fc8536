"""Best of N: a judge watches several imagined futures of each episode and picks one.

Shape legend: B episodes, N candidates, T steps, A action.
"""

import dataclasses

import torch
from torch import Tensor

from worldsim.core import Verdict, WorldState
from worldsim.errors import InvalidInputError
from worldsim.protocols import Judge, World


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BestOf:
    """A judge's choice among candidates.

    Attributes:
        index: int64 [B], the candidate.
        actions: float32 [B, T, A], its actions.
        verdict: Of all B * N futures, those of an episode side by side.
        scores: float32 [B, N], what decided: success, then progress; below 0 where the judge declined to say.
    """

    index: Tensor
    actions: Tensor
    verdict: Verdict
    scores: Tensor


@torch.no_grad()
def best_of(judge: Judge, world: World, state: WorldState, actions: Tensor) -> BestOf:
    """Imagine every candidate and pick the one that the judge gives the best chance.

    Candidates of an episode share its noise, so that they differ in their actions alone. Progress decides between equal
    chances. A candidate on which the judge declines to say is picked only if it declines on all; then by the same order.

    Args:
        judge: For example `ReasonCritic.from_pretrained(...).with_world(world)`.
        world: Where to imagine.
        state: Of B episodes.
        actions: float32 [B, N, T, A], physical units.

    Raises:
        InvalidInputError: Actions of another shape, or fewer candidates than one.
    """
    if actions.ndim != 4 or len(actions) != state.batch or not all(actions.shape):
        raise InvalidInputError(
            f"Candidates are [B, N, T, A] for the {state.batch} episodes of the state; got {tuple(actions.shape)}."
        )
    count = actions.shape[1]
    verdict = judge(world.rollout(state.repeat(count), actions.flatten(0, 1))[1])
    chance = verdict.success.double() + 1e-6 * verdict.progress.double() - 2.0 * verdict.abstain
    scores = chance.unflatten(0, (-1, count))
    index = scores.argmax(1)
    return BestOf(
        index=index,
        actions=actions[torch.arange(len(actions), device=index.device), index],
        verdict=verdict,
        scores=scores.float(),
    )
