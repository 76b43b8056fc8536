"""Calls into an environment, guarded: what it raises, and that it hangs, becomes one sentence that says where.

Missing libraries are distinguished from faults of the environment: the sentence then holds the line that installs them.
"""

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import gymnasium
from gymnasium.error import DependencyNotInstalled
from gymnasium.error import Error as GymnasiumError

from worldsim.errors import EnvError, InvalidInputError, MissingExtraError, WorldsimError

_PACKAGES = {
    "Box2D": '"gymnasium[box2d]"',
    "ale_py": '"gymnasium[atari]"',
    "cv2": "opencv-python-headless",
    "dm_control": "dm-control",
    "gym_pusht": "gym-pusht",
    "gymnasium_robotics": "gymnasium-robotics",
    "imageio": '"gymnasium[mujoco]"',
    "jax": '"gymnasium[jax]"',
    "pygame": '"gymnasium[classic-control,toy-text]"',
    "shimmy": '"shimmy[dm-control]"',
}
"""What to install for a module that environments are known to need, where it is not the module's own name."""
_CAMERA_SEED = 0
"""Of the start that a camera is aimed at which aims at what it sees first."""
_MISSING = (DependencyNotInstalled, ImportError)
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_OPENGL = re.compile(r"OpenGL|GLFW|\bEGL|OSMesa|MUJOCO_GL|GLContext|glad|DISPLAY", re.IGNORECASE)
OPENGL_HELP = (
    "Drawing without a screen needs one of two Debian packages: apt-get install libegl1 (then MUJOCO_GL=egl), or "
    "apt-get install libosmesa6 (then MUJOCO_GL=osmesa)."
)


class _TimeoutError(BaseException):
    """Raised inside a call that takes too long; no ``except Exception`` of an environment stops it."""


@contextmanager
def env_call(name: str, doing: str, *, timeout_s: float | None = None) -> Iterator[None]:
    """Run a call into an environment.

    Args:
        name: The environment's, for errors.
        doing: What it does, for errors: ``"in step 12 of episode 7"``.
        timeout_s: How long it may take; None for ever. Only the main thread of a process can watch the time.

    Raises:
        EnvError: It raised, tried to end the process, or took too long.
        MissingExtraError: It lacks a library; the message says how to install it.
        InvalidInputError: Gymnasium refuses to make it.
    """
    try:
        with _alarm(timeout_s):
            yield
    except WorldsimError:
        raise
    except _TimeoutError:
        raise EnvError(f"The environment {name} hung {doing}: it took more than {timeout_s:g} s.") from None
    except KeyboardInterrupt:
        raise
    except StopIteration as error:  # contextlib takes a RuntimeError caused by one for the one itself
        raise _explained(name, doing, error) from None
    except BaseException as error:
        raise _explained(name, doing, error) from error


def package_of(module: str) -> str | None:
    """What ``pip install`` takes for a module that environments are known to need; None for others."""
    return _PACKAGES.get(module.partition(".")[0])


def _explained(name: str, doing: str, error: BaseException) -> WorldsimError:
    """What was raised, as a sentence."""
    text = " ".join(_ESCAPES.sub("", str(error)).split())
    lines = re.findall(r"pip install ([^`\n]*[^`\s.])", str(error)) if isinstance(error, _MISSING) else []
    if lines or isinstance(error, DependencyNotInstalled):
        wanted = " ".join(lines) or '"gymnasium[all]"'
        return MissingExtraError(f"The environment {name} needs libraries of its own: pip install {wanted}")
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.partition(".")[0]
        package = package_of(module) or module
        return MissingExtraError(f"The environment {name} needs the module {module}: pip install {package}")
    if _OPENGL.search(f"{type(error).__module__} {type(error).__name__} {text}"):
        return MissingExtraError(f"The environment {name} cannot draw {doing} ({text[:200]}). {OPENGL_HELP}")
    if isinstance(error, GymnasiumError):
        return InvalidInputError(f"Gymnasium refuses the environment {name} {doing}: {text[:500]}")
    what = f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__
    return EnvError(f"The environment {name} raised {what} {doing}.")


@contextmanager
def _alarm(timeout_s: float | None) -> Iterator[None]:
    """Raise `_TimeoutError` in the block when its time is over; a timer that the caller had goes on afterwards."""
    if timeout_s is None or threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> Any:
        raise _TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    left_s, interval_s = signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left_s:
            signal.setitimer(signal.ITIMER_REAL, left_s, interval_s)


def place_camera(env: gymnasium.Env[Any, Any], name: str, *, timeout_s: float | None) -> None:
    """Let Gymnasium's drawing of MuJoCo, which aims at where things are when it first draws, always aim at the same start.

    Pictures of the same state would differ else between a recording and its true environment. Whatever fails is left to the first
    drawing that is asked for.
    """
    if hasattr(env.unwrapped, "mujoco_renderer"):
        with suppress(WorldsimError), env_call(name, "in render", timeout_s=timeout_s):
            env.reset(seed=_CAMERA_SEED)
            env.render()
