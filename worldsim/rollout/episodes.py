"""The episode table: which start and which noise key each episode has, fixed before the first rollout.

An episode is an index into a block. Its start and its noise key depend on the seed, the block's name and the index
alone, so every policy meets the same episodes (common random numbers), a longer block begins with the shorter one,
and nothing depends on workers or order.
"""

import dataclasses
import hashlib

import numpy as np
import torch

from worldsim.arrays import Int64s
from worldsim.errors import InvalidInputError
from worldsim.limits import MAX_BUDGET, MAX_SEED
from worldsim.noise import fold

TRIAGE, AUDIT = "triage", "audit"
_RESERVED = 5  # one start in five is kept for the audit
_FEW = 5  # below this number of starts both blocks share them all, and differ in noise only
_MOST = 2**16  # starts beyond this number are not used: the order of all starts is worked out at once
_STARTS = 0x57A7  # stream that orders the starts


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """N episodes.

    Attributes:
        name: What the episodes are for; blocks of different names share no noise key.
        start: int64 [N], index of the start.
        key: int64 [N], noise key.
    """

    name: str
    start: Int64s
    key: Int64s

    def __len__(self) -> int:
        return len(self.start)

    @property
    def distinct_starts(self) -> int:
        """Number of different starts among the episodes."""
        return len(np.unique(self.start))

    @property
    def digest(self) -> str:
        """sha256 over the content, in hexadecimal."""
        return hashlib.sha256(self.start.astype("<i8").tobytes() + self.key.astype("<i8").tobytes()).hexdigest()


def block(name: str, *, seed: int, episodes: int, num_starts: int) -> Block:
    """Lay out a block of episodes.

    The starts are shuffled by the seed. The audit block takes the first fifth of them and the triage block the rest, so
    that winners are judged a second time on starts that did not select them; any other block uses all. A block that is longer
    than its share of the starts goes round again, with fresh noise.

    Args:
        name: `TRIAGE`, `AUDIT`, or another name.
        seed: Any integer of 63 bits.
        episodes: Length N, 0 to `worldsim.limits.MAX_BUDGET`.
        num_starts: How many starts the world has; of very many only the first 65,536 are used.

    Raises:
        InvalidInputError: There is no start, N is out of range, or the seed is too long.
    """
    if num_starts < 1 or not 0 <= episodes <= MAX_BUDGET or not 0 <= seed <= MAX_SEED:
        raise InvalidInputError(
            f"An episode block needs at least one start, a length of 0..{MAX_BUDGET} and a seed in 0..2**63-1; got "
            f"{num_starts} starts, {episodes} episodes, seed {seed}."
        )
    usable = min(num_starts, _MOST)
    order = torch.argsort(fold(fold(torch.arange(usable), seed), _STARTS), stable=True).numpy()
    reserved = usable // _RESERVED if usable >= _FEW else 0
    if reserved and name in (TRIAGE, AUDIT):
        order = order[:reserved] if name == AUDIT else order[reserved:]
    index = np.arange(episodes, dtype=np.int64)
    stream = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    key = fold(fold(torch.from_numpy(index), seed), stream).numpy()
    return Block(name=name, start=order[index % len(order)].astype(np.int64), key=key.astype(np.int64))
