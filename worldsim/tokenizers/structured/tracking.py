"""Which thing is which from frame to frame, in closed form: things of one kind can be distinguished only by where they were.

What is found in a frame alone is assigned to the things that were followed so far, so that the distances are least. A thing that
is found far from where it was is not believed at once: something else looked like it, or it was covered. One that is covered for the
most part is believed where it was expected.

Shape legend: B episodes, T frames, K things, d code.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from worldsim.tokenizers.structured.state import SceneState

LOST = 0.3
"""A thing seen worse than this was not found."""
LEAP = 0.35
"""No thing goes farther than this between two frames, in halves of the frame's shorter side."""
_HARDLY, _NEAR = 0.1, 0.15
"""A thing seen better than the first is believed within the second of where it was, in the same halves. In FetchPush 19 % of cubes not
found are, .6 px off, where the places that they had last are 1.3 px off."""
_BARELY = LOST + 0.01
"""How well such a thing counts as seen."""
_FORGETS = 0.6
"""What is left of the trust in a place when its thing was not found there in a frame."""
_UNKNOWN = 0.3
"""Cost of a thing whose place is unknown before or after, as a distance."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Track:
    """Where things were last, and how far that can be relied on.

    Attributes:
        xy_BK2: In halves of the frame's shorter side.
        trust_BK: 1 where it was just seen, less the longer ago that is.
    """

    xy_BK2: Tensor
    trust_BK: Tensor

    def assign(self, found: SceneState, kinds: Sequence[int]) -> SceneState:
        """What was found [B, K, ...], in the order of the things that are followed; `kinds` as in `StructuredConfig`."""
        if len(set(kinds)) == len(kinds):
            return found
        distance_BKK = (self.xy_BK2[:, :, None] - found.pose[:, None, :, :2]).norm(dim=-1).clamp_max(1.0)
        known = (self.trust_BK > LOST)[:, :, None] & (found.seen > LOST)[:, None]
        cost_BKK = torch.where(known, distance_BKK, _UNKNOWN)
        order_BK = torch.arange(len(kinds), device=cost_BKK.device).repeat(len(cost_BKK), 1)
        for kind in sorted(set(kinds)):
            slots = [k for k, other in enumerate(kinds) if other == kind]
            ways_WK = torch.tensor(list(itertools.permutations(slots)), device=cost_BKK.device)
            total_BW = cost_BKK[:, torch.tensor(slots), ways_WK].sum(-1)
            order_BK[:, slots] = ways_WK[total_BW.argmin(1)]
        return in_order(found, order_BK)

    def judge(self, found: SceneState) -> SceneState:
        """What was found [B, K, ...], by where it was expected.

        A thing too far from where it was is not seen; one that is hardly seen counts as found where it was.
        """
        away, trusted = (found.pose[..., :2] - self.xy_BK2).norm(dim=-1), self.trust_BK > LOST
        seen = found.seen.masked_fill(trusted & (away > LEAP) & (found.seen > LOST), 0)
        seen = torch.where(trusted & (away < _NEAR) & (seen > _HARDLY), seen.clamp_min(_BARELY), seen)
        return dataclasses.replace(found, seen=seen)

    def go_on(self, xy_BK2: Tensor, seen_BK: Tensor) -> "Track":
        """The track one frame later, with things at places where they were seen this well."""
        trust = torch.where(seen_BK > LOST, seen_BK, self.trust_BK * _FORGETS)
        return Track(xy_BK2=xy_BK2, trust_BK=trust)


def in_order(state: SceneState, order_BK: Tensor) -> SceneState:
    """Things [B, K, ...] taken in an order, int64 [B, K]."""
    rows = torch.arange(len(order_BK), device=order_BK.device)[:, None]
    return dataclasses.replace(
        state, pose=state.pose[rows, order_BK], seen=state.seen[rows, order_BK], code=state.code[rows, order_BK]
    )


def track(state: SceneState, kinds: Sequence[int]) -> SceneState:
    """Follow things through episodes whose frames were encoded alone.

    Args:
        state: [B, T, ...]; things of a kind in any order.
        kinds: Of which kind each thing is.

    Returns:
        The same with things in one order along each episode, that of its first frame; a thing that is not found, or where it cannot
        be, is not seen, and stands where it was last.
    """
    frames = [_at(state, 0)]
    known = Track(xy_BK2=frames[0].pose[..., :2], trust_BK=frames[0].seen)
    for t in range(1, state.pose.shape[1]):
        found = known.judge(known.assign(_at(state, t), kinds))
        lost, last = (found.seen <= LOST)[..., None], frames[-1]
        pose, code = (torch.where(lost, old, new) for old, new in ((last.pose, found.pose), (last.code, found.code)))
        frames.append(dataclasses.replace(found, pose=pose, code=code))
        known = known.go_on(pose[..., :2], found.seen)
    return SceneState(
        **{f.name: torch.stack([getattr(frame, f.name) for frame in frames], 1) for f in dataclasses.fields(state)}
    )


def _at(state: SceneState, t: int) -> SceneState:
    return SceneState(**{f.name: getattr(state, f.name)[:, t] for f in dataclasses.fields(state)})
