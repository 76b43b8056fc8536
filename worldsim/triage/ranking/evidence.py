"""The outcomes known so far: a table of K policies by N episodes.

Allocators and rankings read this table and nothing else, so every decision is a function of it.

Shape legend: K policies, N episodes of one frozen episode table. The episode index is the position in that table, and
it is the same start and the same noise for every policy.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np

from worldsim.arrays import Bools, Float64s, Int64s
from worldsim.errors import InvalidInputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one finished rollout ended."""

    policy: int  # row, 0..K-1
    episode: int  # column, 0..N-1
    success: float  # 1 solved, 0 not; a probability in 0..1 where a judge or a world gives one
    progress: float  # task progress in 0..1 at the end


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """Outcomes of K policies on N shared episodes. Immutable: every change returns a new table.

    Attributes:
        success: float64 [K, N] in 0..1; nan where the pair was not rolled out.
        progress: float64 [K, N] in 0..1; nan exactly where `success` is nan.
        failed: bool [K]; the policy crashed and takes no further part.

    Raises:
        InvalidInputError: Shapes disagree, a value lies outside 0..1, or only one of success and progress is known.
    """

    success: Float64s
    progress: Float64s
    failed: Bools

    def __post_init__(self) -> None:
        success = np.array(self.success, dtype=np.float64)
        progress = np.array(self.progress, dtype=np.float64)
        failed = np.array(self.failed, dtype=np.bool_)
        if success.ndim != 2 or progress.shape != success.shape or failed.shape != success.shape[:1]:
            raise InvalidInputError(
                f"Evidence needs success [K, N], progress [K, N] and failed [K]; got {success.shape}, "
                f"{progress.shape} and {failed.shape}. Give one row per policy and one column per episode."
            )
        _check_values(success, progress)
        for name, array in (("success", success), ("progress", progress), ("failed", failed)):
            object.__setattr__(self, name, array)
            array.setflags(write=False)

    @classmethod
    def empty(cls, policies: int, *, episodes: int) -> Self:
        """Return the table in which nothing was rolled out yet.

        Args:
            policies: Number of policies K, at least 1.
            episodes: Number of episodes N in the frozen table, at least 1.

        Raises:
            InvalidInputError: Either number is below 1.
        """
        if policies < 1 or episodes < 1:
            raise InvalidInputError(
                f"Evidence needs at least one policy and one episode; got {policies} and {episodes}."
            )
        blank = np.full((policies, episodes), np.nan)
        return cls(success=blank, progress=blank, failed=np.zeros(policies, dtype=np.bool_))

    @classmethod
    def wrap(cls, *, success: Float64s, progress: Float64s, failed: Bools) -> Self:
        """Return a table over arrays that are known to be valid: nothing is checked and nothing copied.

        For parts of another table, and for simulations that fill millions of cells. The arrays must not change while the
        table is in use.
        """
        table = object.__new__(cls)
        for name, array in (("success", success), ("progress", progress), ("failed", failed)):
            object.__setattr__(table, name, array)
        return table

    @property
    def policies(self) -> int:
        """Number of policies K."""
        return int(self.success.shape[0])

    @property
    def episodes(self) -> int:
        """Number of episodes N in the table, rolled out or not."""
        return int(self.success.shape[1])

    @functools.cached_property
    def done(self) -> Bools:
        """Bool [K, N]: which pairs were rolled out."""
        return ~np.isnan(self.success)

    @functools.cached_property
    def count(self) -> Int64s:
        """int64 [K]: rollouts finished per policy."""
        return np.asarray(self.done.sum(axis=1), dtype=np.int64)

    @functools.cached_property
    def wins(self) -> Float64s:
        """float64 [K]: sum of success per policy."""
        return np.asarray(np.nansum(self.success, axis=1), dtype=np.float64)

    @property
    def rollouts(self) -> int:
        """Rollouts finished, all policies together."""
        return int(self.done.sum())

    @functools.cached_property
    def success_mean(self) -> Float64s:
        """float64 [K]: mean success; nan where a policy has no rollout."""
        return row_means(self.success)

    @functools.cached_property
    def progress_mean(self) -> Float64s:
        """float64 [K]: mean progress; nan where a policy has no rollout."""
        return row_means(self.progress)

    @property
    def digest(self) -> str:
        """sha256 over shape and content, in hexadecimal; the order in which outcomes arrived leaves no trace."""
        sha = hashlib.sha256(repr(self.success.shape).encode())
        for array in (self.success, self.progress):
            sha.update(np.where(np.isnan(array), -1.0, array + 0.0).astype("<f8").tobytes())
        sha.update(self.failed.tobytes())
        return sha.hexdigest()

    def add(self, outcomes: Iterable[Outcome]) -> Self:
        """Return the table with `outcomes` entered.

        Args:
            outcomes: Finished rollouts in any order. A pair that is known already may come again with equal values.

        Raises:
            InvalidInputError: An index is out of range, a value is outside 0..1, or a known pair comes back different.
        """
        rows = list(outcomes)
        success, progress = self.success.copy(), self.progress.copy()
        for row in rows:
            if not (0 <= row.policy < self.policies and 0 <= row.episode < self.episodes):
                raise InvalidInputError(
                    f"Outcome of policy {row.policy}, episode {row.episode} lies outside the table of "
                    f"{self.policies} policies by {self.episodes} episodes."
                )
            at = (row.policy, row.episode)
            if not np.isnan(success[at]) and (success[at] != row.success or progress[at] != row.progress):
                raise _conflict(*at)
            success[at], progress[at] = row.success, row.progress
            if np.isnan(row.success) or np.isnan(row.progress):
                raise InvalidInputError(f"Outcome of policy {row.policy}, episode {row.episode} is not a number.")
        return dataclasses.replace(self, success=success, progress=progress)

    def fail(self, policy: int) -> Self:
        """Return the table with `policy` marked as crashed; what it had finished stays.

        Raises:
            InvalidInputError: There is no such policy.
        """
        if not 0 <= policy < self.policies:
            raise InvalidInputError(f"There is no policy {policy}; the table has {self.policies}.")
        failed = self.failed.copy()
        failed[policy] = True
        return dataclasses.replace(self, failed=failed)

    def missing(self, policies: Sequence[int] | Int64s, stop: int, *, start: int = 0) -> list[tuple[int, int]]:
        """Return the (policy, episode) pairs that `policies` have not rolled out of episodes start..stop-1.

        Pairs come episode by episode, within one in the order of `policies`: cut anywhere, all policies have seen the
        same episodes to within one.
        """
        index = np.asarray(policies, dtype=np.int64)
        columns, rows = np.nonzero(np.isnan(self.success[:, start:stop][index]).T)
        return list(zip(index[rows].tolist(), (columns + start).tolist(), strict=True))

    def merge(self, other: "Evidence") -> Self:
        """Return the union of two tables over the same policies and episodes.

        Raises:
            InvalidInputError: The shapes differ, or a pair is known to both with different values.
        """
        if other.success.shape != self.success.shape:
            raise InvalidInputError(
                f"Tables of shape {self.success.shape} and {other.success.shape} cannot be merged; "
                "both must cover the same policies and episodes."
            )
        both = self.done & other.done
        differs = both & ((self.success != other.success) | (self.progress != other.progress))
        if differs.any():
            raise _conflict(*(int(i) for i in np.argwhere(differs)[0]))
        known = self.done
        return dataclasses.replace(
            self,
            success=np.where(known, self.success, other.success),
            progress=np.where(known, self.progress, other.progress),
            failed=self.failed | other.failed,
        )

    def beside(self, other: "Evidence") -> Self:
        """Return the same K policies over the episodes of both tables, [K, N] + [K, M] -> [K, N + M].

        Raises:
            InvalidInputError: The tables have different numbers of policies.
        """
        if other.policies != self.policies:
            raise InvalidInputError(f"Tables of {self.policies} and {other.policies} policies cannot be joined.")
        return dataclasses.replace(
            self,
            success=np.concatenate([self.success, other.success], axis=1),
            progress=np.concatenate([self.progress, other.progress], axis=1),
            failed=self.failed | other.failed,
        )

    def rows(self, policies: Sequence[int] | Int64s) -> Self:
        """Return the table of these policies only, in this order."""
        index = np.asarray(policies, dtype=np.int64)
        return self.wrap(success=self.success[index], progress=self.progress[index], failed=self.failed[index])

    def columns(self, stop: int) -> Self:
        """Return the table of episodes 0..stop-1 only."""
        return self.wrap(success=self.success[:, :stop], progress=self.progress[:, :stop], failed=self.failed)


def _check_values(success: Float64s, progress: Float64s) -> None:
    """Refuse values outside 0..1 and pairs with only one of success and progress."""
    for name, array in (("success", success), ("progress", progress)):
        wrong = (array < 0) | (array > 1)
        if wrong.any():
            policy, episode = (int(i) for i in np.argwhere(wrong)[0])
            raise InvalidInputError(
                f"{name} of policy {policy}, episode {episode} is {array[policy, episode]}; it must lie in 0..1."
            )
    half = np.isnan(success) != np.isnan(progress)
    if half.any():
        policy, episode = (int(i) for i in np.argwhere(half)[0])
        raise InvalidInputError(
            f"Policy {policy}, episode {episode} has only one of success and progress. Give both, or neither."
        )


def _conflict(policy: int, episode: int) -> InvalidInputError:
    """Build the error for one rollout with two different outcomes."""
    return InvalidInputError(
        f"Policy {policy}, episode {episode} has two different outcomes. The same pair must always end the same: "
        "check that policy and world draw their noise from the episode key only."
    )


def row_means(array_KN: Float64s) -> Float64s:
    """Return row means [K] of [K, N] over what is not nan; nan for an empty row, without a warning."""
    count = (~np.isnan(array_KN)).sum(axis=1)
    total = np.nansum(array_KN, axis=1)
    return np.asarray(np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0))
