"""The contract of Gymnasium environments that worldsim collects from and compares worlds with."""

import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env as gymnasium_check_env

from worldsim.testing.clauses import Clauses


def check_env(env: gymnasium.Env[Any, Any]) -> None:
    """Check an environment against what worldsim reads from it; Gymnasium's own checker runs first.

    Args:
        env: The environment; its wrappers are left out.

    Raises:
        ContractError: Clauses are broken, or Gymnasium's checker warned; the message lists them.
    """
    clauses, bare = Clauses(), env.unwrapped
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        try:
            gymnasium_check_env(bare)
        except Exception as error:
            clauses.broken.append(f"Gymnasium's check_env passes ({type(error).__name__}: {error})")
    clauses.broken += [f"Gymnasium's check_env is silent; it said: {w.message}" for w in raised]
    action = bare.action_space.sample()
    try:
        observation, _ = bare.reset(seed=0)
        _, _, _, _, info = bare.step(action)
    except Exception as error:
        clauses.broken.append(f"reset and step run ({type(error).__name__}: {error})")
        clauses.settle(bare)
    clauses.hold(
        "observations are a mapping with 'pixels' or 'environment_state'",
        lambda: isinstance(observation, Mapping) and not {"pixels", "environment_state"}.isdisjoint(observation),
    )
    if isinstance(observation, Mapping) and "pixels" in observation:
        pixels = observation["pixels"]
        views = list(pixels.values()) if isinstance(pixels, Mapping) else [pixels]
        clauses.hold(
            "pixels are uint8 [H, W, 3], or [s, H, W, 3] where a step is s frames",
            lambda: all(v.dtype == np.uint8 and v.ndim in (3, 4) and v.shape[-1] == 3 for v in views),
        )
    clauses.hold("info['is_success'] is true or false", lambda: isinstance(info.get("is_success"), bool | np.bool_))
    clauses.hold("info['progress'], where given, lies in 0..1", lambda: 0 <= float(info.get("progress", 0)) <= 1)
    clauses.hold("metadata['render_fps'] is the control rate", lambda: float(bare.metadata["render_fps"]) > 0)
    if callable(getattr(bare, "get_state", None)):
        clauses.hold("set_state(get_state()) resumes bit for bit", lambda: _resumes(bare, action))
    clauses.settle(bare)


def _resumes(env: Any, action: Any) -> bool:
    """Whether the same action from a restored state leads to the same state."""
    env.reset(seed=1)
    saved = np.array(env.get_state())
    env.step(action)
    led_to = np.array(env.get_state())
    env.step(action)
    env.set_state(saved)
    env.step(action)
    return saved.dtype == np.float64 and np.array_equal(led_to, env.get_state())
