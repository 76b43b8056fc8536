"""Isolates the failures of one policy: whatever it raises, returns or leaves behind ends its own rows and nothing else.

What a call cannot contain (a hang in native code, the death of the process) is for the process that watches the worker:
`Watch` tells it which policy runs.

Shape legend: n rows of one policy, A action.
"""

import dataclasses
import os
import random
from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.errors import InvalidInputError

Stage = Literal["load", "start", "act"]
"""What a policy was doing: being loaded, beginning its episodes, or acting."""
_SPREAD = 0x9E3779B1  # odd: consecutive calls get seeds far apart


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """What went wrong inside a policy.

    Attributes:
        stage: What it was doing.
        step: Step of the episode, 0 before the first.
        error: What it raised.
    """

    stage: Stage
    step: int
    error: BaseException


class Watch(Protocol):
    """Notified when a policy starts and stops running."""

    def enter(self) -> None:
        """The policy runs now."""

    def leave(self) -> None:
        """It has come back."""


class Fence:
    """Guards calls into one policy: ``with fence.guard("act", t): ...`` keeps what is raised instead of passing it on.

    Before each call the global generators of Python, NumPy and torch are seeded by `seed` and the number of the call, so
    that a policy that draws from them repeats itself and does not shift the draws of others. After each call torch's
    global settings are put back. Every exception is kept, KeyboardInterrupt and SystemExit too: use it only where the
    user's own Ctrl-C is heard by another process.

    Attributes:
        failure: What went wrong; None while nothing has. A policy that has failed should not be called again.
    """

    def __init__(self, *, seed: int = 0, watch: Watch | None = None) -> None:
        """Set up; `watch` is notified of every call."""
        self.failure: Failure | None = None
        self._seed = seed
        self._watch = watch
        self._calls = 0
        self._process = os.getpid()

    def guard(self, stage: Stage, step: int) -> "_Guard":
        """Return the context manager for one call; `stage` and `step` say what the policy does in it."""
        seed = (self._seed + _SPREAD * self._calls) & 0xFFFFFFFF
        self._calls += 1
        return _Guard(self, stage, step, seed=seed, watch=self._watch, process=self._process)


class _Guard:
    """One call into a policy. A context manager, so that no frame of it stands between the caller and the policy."""

    def __init__(self, fence: Fence, stage: Stage, step: int, *, seed: int, watch: Watch | None, process: int) -> None:
        self._fence, self._stage, self._step = fence, stage, step
        self._seed, self._watch, self._process = seed, watch, process

    def __enter__(self) -> None:
        self._before = TorchSettings.read()
        _seed_generators(self._seed)
        if self._watch is not None:
            self._watch.enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if os.getpid() != self._process:  # the policy forked, and this is its child
            os._exit(1)
        if error is not None:
            self._fence.failure = Failure(stage=self._stage, step=self._step, error=error)
        if self._watch is not None:
            self._watch.leave()
        self._before.restore()
        return True


def _seed_generators(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchSettings:
    """Torch's global settings that change what others compute."""

    dtype: torch.dtype
    device: torch.device
    threads: int
    grad: bool
    inference: bool
    deterministic: bool
    autocast: bool

    @classmethod
    def read(cls) -> Self:
        """Read the settings of this process."""
        return cls(
            dtype=torch.get_default_dtype(),
            device=torch.get_default_device(),
            threads=torch.get_num_threads(),
            grad=torch.is_grad_enabled(),
            inference=torch.is_inference_mode_enabled(),
            deterministic=torch.are_deterministic_algorithms_enabled(),
            autocast=torch.is_autocast_enabled("cpu"),
        )

    def restore(self) -> None:
        """Put back what has changed since."""
        now = self.read()
        if now == self:
            return
        if now.inference != self.inference:
            guard = torch.inference_mode(self.inference)
            guard.__enter__()  # the one that was left open cannot be closed from here
            _LEFT_OPEN.append(guard)
        torch.set_default_dtype(self.dtype)
        if now.device != self.device:
            torch.set_default_device(None if self.device == torch.device("cpu") else self.device)
        torch.set_num_threads(self.threads)
        torch.use_deterministic_algorithms(self.deterministic)
        torch.set_autocast_enabled("cpu", self.autocast)
        torch.set_grad_enabled(self.grad)


_LEFT_OPEN: list[torch.inference_mode] = []


def action_rows(value: object, *, n: int, dim: int) -> Tensor:
    """What a policy returned as a plain tensor of its own, float32 [n, A] on the CPU or the device it was on.

    Args:
        value: What it returned.
        n: How many actions are due.
        dim: Their width A.

    Raises:
        InvalidInputError: No tensor, another shape, no real numbers, or a tensor without values (meta or sparse). NaN and
            infinity are not looked for: `worldsim.actions.ActionSpec.check` does.
    """
    if not isinstance(value, Tensor):
        raise InvalidInputError(
            f"it returned actions of {type(value).__name__}, expected a tensor of shape ({n}, {dim})"
        )
    if tuple(value.shape) != (n, dim):
        raise InvalidInputError(
            f"it returned actions of shape {tuple(value.shape)}, expected a tensor of shape ({n}, {dim})"
        )
    if value.layout != torch.strided or value.is_meta or value.is_complex() or value.is_quantized:
        kind = "meta tensor" if value.is_meta else f"{value.dtype} tensor of layout {value.layout}"
        raise InvalidInputError(f"it returned actions as a {kind}, expected plain real numbers")
    return torch.empty(n, dim, dtype=torch.float32, device=value.device).copy_(value.detach())


def check_actions(value: object, action: ActionSpec, *, name: str, n: int) -> Tensor:
    """What a policy returned as actions that can be executed: finite, float32 [n, A] on the CPU, within the limits.

    Args:
        value: What it returned.
        action: Meaning of the actions.
        name: The policy's, for messages.
        n: How many actions are due.

    Raises:
        InvalidInputError: As `action_rows`, or NaN or infinity.
    """
    try:
        return action.check(action_rows(value, n=n, dim=action.dim).cpu())
    except InvalidInputError as error:
        raise InvalidInputError(f"Policy {name!r}: {error}") from error
