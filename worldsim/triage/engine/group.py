"""The rows of one policy in a wave, and the fence around that policy.

Whatever a policy does (raise, hang, exit, return something that cannot be executed) ends as a `Crash` of its own rows.
Not for stepping the world (`worldsim.triage.engine.roll`).

Shape legend: W rows of the wave, n rows of one policy, A action.
"""

import re
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from worldsim.core import IMAGE, STATE, TRUE_STATE, Observation
from worldsim.errors import PolicyError, WorldsimError
from worldsim.protocols import Policy
from worldsim.triage.engine.batches import Crash, Stage

_REASON = 300  # characters of an error message that a leaderboard can bear
T = TypeVar("T")


class PolicyHang(BaseException):
    """Raised inside a policy that has taken too long."""


class Watch(Protocol):
    """Is told when a policy starts and stops running, and may raise `PolicyHang` in between."""

    def enter(self, policy: int) -> None:
        """The policy of this index runs now."""

    def leave(self) -> None:
        """It has come back."""


class NoWatch:
    """Lets policies take all the time in the world."""

    def enter(self, policy: int) -> None:
        """See `Watch.enter`."""

    def leave(self) -> None:
        """See `Watch.leave`."""


class Group:
    """One policy and its rows.

    Attributes:
        index: The policy's index.
        rows: Where its rows are in the wave.
        needs: Observation keys it reads.
        crash: Why it takes no further part; None while it does.
    """

    def __init__(self, index: int, *, rows: Sequence[int], watch: Watch, timeout_s: float) -> None:
        """Reserve the rows; `load` brings the policy."""
        together = rows[-1] - rows[0] + 1 == len(rows)
        self.index = index
        self.rows = slice(rows[0], rows[-1] + 1) if together else torch.tensor(rows, dtype=torch.int64)
        self.needs: frozenset[str] = frozenset()
        self.crash: Crash | None = None
        self._size = len(rows)
        self._watch = watch
        self._timeout_s = timeout_s
        self._policy: Policy | None = None
        self._carry: Any = None

    def load(self, policy_of: Callable[[int], Policy]) -> None:
        """Load the policy and let it begin."""
        self._policy = self._guarded(lambda: policy_of(self.index), "load", 0)
        if self._policy is not None:
            policy = self._policy
            self._guarded(lambda: self._begin(policy), "start", 0)

    def act(self, seen: Observation, keys: Tensor, *, width: int, step: int) -> Tensor | None:
        """Let the policy act.

        Args:
            seen: Observations with leading W.
            keys: int64 [W], the noise keys of this step.
            width: Number of action dimensions A.
            step: Steps taken so far.

        Returns:
            Actions [n, A], not yet checked for NaN; None if the policy has crashed, now or before.
        """
        if self.crash is not None or self._policy is None:
            return None
        policy = self._policy
        return self._guarded(lambda: self._ask(policy, seen, keys, width, step), "act", step)

    def fail(self, stage: Stage, step: int, error: BaseException) -> None:
        """Take the policy out."""
        self.crash = crash_of(self.index, stage, step, error)

    def _begin(self, policy: Policy) -> None:
        self.needs = frozenset(policy.needs)
        surplus = sorted(self.needs - {IMAGE, STATE, TRUE_STATE})
        if surplus:
            raise PolicyError(f"it needs {', '.join(surplus)}, but worlds give only {IMAGE}, {STATE} and {TRUE_STATE}")
        self._carry = policy.initial(self._size)

    def _ask(self, policy: Policy, seen: Observation, keys: Tensor, width: int, step: int) -> Tensor:
        if step < 2 and not self.needs <= seen.keys():
            raise PolicyError(f"it needs {', '.join(sorted(self.needs - seen.keys()))}, which this world does not give")
        own = {name: seen[name][self.rows] for name in self.needs}
        action, self._carry = policy.act(own, self._carry, keys[self.rows])
        if not isinstance(action, Tensor) or tuple(action.shape) != (self._size, width):
            got = f"shape {tuple(action.shape)}" if isinstance(action, Tensor) else type(action).__name__
            raise PolicyError(f"it returned actions of {got}, expected a tensor of shape ({self._size}, {width})")
        return action

    def _guarded(self, call: Callable[[], T], stage: Stage, step: int) -> T | None:
        """Call into the policy; whatever goes wrong in there becomes its crash."""
        try:
            try:
                self._watch.enter(self.index)
                return call()
            finally:
                self._watch.leave()
        except PolicyHang:
            self.crash = hang(self.index, self._timeout_s)
        except (Exception, SystemExit) as error:
            self.fail(stage, step, error)
        return None


def hang(policy: int, timeout_s: float) -> Crash:
    """Describe a policy that did not come back."""
    return Crash(policy=policy, stage="hang", step=-1, reason=f"did not answer within {timeout_s:g} s")


def crash_of(policy: int, stage: Stage, step: int, error: BaseException) -> Crash:
    """Describe a failure so that it reads the same in every process."""
    text = re.sub(r"0x[0-9a-f]{4,}", "0x...", str(error)).strip().splitlines()
    message = text[0][:_REASON] if text else ""
    what = (
        message if isinstance(error, WorldsimError) and message else f"{type(error).__name__}: {message}".rstrip(": ")
    )
    place = {"load": "could not be loaded", "start": "could not start"}.get(stage, f"failed at step {step}")
    detail = "".join(traceback.format_exception(error))
    return Crash(policy=policy, stage=stage, step=step, reason=f"{place}: {what}", detail=detail)
