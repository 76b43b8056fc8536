"""Policies that do what policies must not, each at its third action, and worlds that do not load; for other processes."""

import contextlib
import dataclasses
import functools
import json
import os
import signal
import stat
import struct
import sys
import threading
import time
from pathlib import Path

import torch

from benchmarks.toy import ToyPolicy, ToyWorld, load_toy
from worldsim.core import IMAGE

LEFT_OPEN = []


class Panic(BaseException):
    """As exceptions of Rust extensions are."""


class Unspeakable(Exception):
    def __str__(self):
        raise Panic("not even this")


def panic(action):
    raise Panic("index out of bounds")


def unspeakable(action):
    raise Unspeakable


def interrupt(action):
    raise KeyboardInterrupt


def escape(action):
    raise ValueError("\x1b[31mred\x1b[0m \ud800")


def leave(action):
    os._exit(0)


def hang_whatever_happens(action):
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(3600)


def fork_and_leave(action):
    if os.fork():
        os._exit(0)
    return action


def fork_and_carry_on(action):
    os.fork()  # both go on; the child must not be heard
    return action


def kill_the_fork_server(action):
    os.kill(os.getppid(), signal.SIGKILL)
    os._exit(3)


def close_everything(action):
    os.closerange(3, 1024)
    return action


def leave_later(action):
    threading.Timer(0.05, os._exit, (5,)).start()
    return action


def change_settings(action):
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    torch.set_grad_enabled(True)
    LEFT_OPEN.append(torch.inference_mode())
    LEFT_OPEN[-1].__enter__()
    torch.use_deterministic_algorithms(True)
    return action


def write_into_the_pipe(action):
    for handle in range(3, 64):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(handle).st_mode):
                os.write(handle, struct.pack("!iQ", -1, 2**62))  # as if a message of so many bytes followed
    return action


def write_half_a_message(action):
    for handle in range(3, 64):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(handle).st_mode):
                os.write(handle, struct.pack("!i", 60000) + b"x")
    return action


def write_half_a_message_and_hang(action):
    write_half_a_message(action)
    hang_whatever_happens(action)


def print_escapes(action):
    sys.stdout.write("\x1b[31mred\x1b[0m\n")
    os.write(2, b"\xff and \x1b]0;title\x07")
    return action


def print_endlessly(action):
    for _ in range(100):
        os.write(1, b"y" * 65536)
    return action


def patch_torch(action):
    torch.Tensor.isfinite = lambda tensor: 1 / 0  # what the world calls next raises
    return action


FAULTS = {
    f.__name__: f
    for f in (
        panic,
        unspeakable,
        interrupt,
        escape,
        leave,
        hang_whatever_happens,
        fork_and_leave,
        fork_and_carry_on,
        kill_the_fork_server,
        close_everything,
        leave_later,
        change_settings,
        patch_torch,
        write_into_the_pipe,
        write_half_a_message,
        write_half_a_message_and_hang,
        print_escapes,
        print_endlessly,
    )
}
FAULTS |= {
    "meta": lambda action: action.to("meta"),
    "sparse": lambda action: action.to_sparse(),
    "complex": lambda action: action.to(torch.complex64),
    "nothing": lambda action: None,
    "double": lambda action: action.double().requires_grad_(),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rogue(ToyPolicy):
    """A toy policy that does one thing at its third action."""

    deed: str = ""

    def act(self, observation, carry, keys):
        action, following = super().act(observation, carry, keys)
        return (FAULTS[self.deed](action) if carry == 2 else action), following


def load(ref):
    """A rogue where the source is one word, else a toy policy."""
    if ref.source.strip() in FAULTS:
        return Rogue(gain=0.3, deed=ref.source.strip())
    if ref.source.strip() == "exit_while_loading":
        os._exit(9)
    if ref.source.strip() == "raise_while_loading":
        raise Panic("no such symbol")
    if ref.source.strip() == "leave_without_loading":
        sys.exit(4)
    return load_toy(ref)


def world_that_dies_at_first(marks: Path, *, times: int):
    """A toy world whose loading kills its process so many times."""
    done = len(list(marks.iterdir()))
    if done < times:
        (marks / str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return ToyWorld(horizon=8)


def counted_world(marks: Path):
    """A toy world that leaves a mark whenever it is loaded."""
    (marks / str(time.monotonic_ns())).touch()
    return ToyWorld(horizon=8)


def dying_world(marks, *, times):
    return functools.partial(world_that_dies_at_first, marks, times=times)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NaNWorld(ToyWorld):
    """A world with damaged weights."""

    def step(self, state, action):
        state, step = super().step(state, action)
        return state, dataclasses.replace(step, progress=step.progress * torch.nan)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlindWorld(ToyWorld):
    """A world without pixels, as state worlds are; its starts still hold pictures."""

    @property
    def spec(self):
        return dataclasses.replace(super().spec, cameras=())

    def decode(self, latent, camera=None):
        raise AssertionError(IMAGE)

    def starts(self, indices):
        return ToyWorld().starts(indices)


def load_once_there(path, ref):
    """A loader whose policy toy-006 needs a file."""
    if ref.name == "toy-006" and not path.exists():
        raise ImportError("an extra is missing")
    return load_toy(ref)


class Stop(Exception):
    """The loader was called."""


def load_with_plan(folder, ref):
    """A loader that looks for the plan of its run and gives nothing."""
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["request"]["budget"] == 400 and plan["blocks"]["triage"]["distinct_starts"] > 1
    assert plan["judge"] == "world-heads-1/end/0.5" and plan["versions"]["torch"]
    raise Stop


def must_not_load(*_):
    raise AssertionError("nothing should be loaded")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LateNaNWorld(ToyWorld):
    """A world whose progress is lost after three steps."""

    def step(self, state, action):
        state, step = super().step(state, action)
        return state, dataclasses.replace(step, progress=torch.where(state.step > 3, torch.nan, step.progress))
