import os
import subprocess
import sys

import pytest

from worldsim.envs.push.env import PushEnv
from worldsim.envs.render.gl import GLRenderer, find_gl_error
from worldsim.errors import InvalidInputError

COMPARE = """
import numpy as np
from worldsim.envs.push.env import PushEnv
from worldsim.envs.render.gl import GLRenderer
env = PushEnv()
env.reset(seed=3)
with GLRenderer(env._model, "top") as drawn:
    ray = env._renderer
    assert (np.abs(drawn.depth(env._data) - ray.depth(env._data)) > 1e-4).mean() < 0.01
    assert (drawn.segmentation(env._data) != ray.segmentation(env._data)).mean() < 0.01
    difference = np.abs(drawn.render(env._data).astype(int) - env.pixels())
    assert difference.mean() < 2, difference.mean()
"""


def test_opengl_draws_the_same_picture() -> None:
    problem = find_gl_error()
    if problem:
        pytest.skip(f"EGL does not work here: {problem}")
    done = subprocess.run(
        [sys.executable, "-c", COMPARE],
        env=os.environ | {"MUJOCO_GL": "egl"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_without_opengl_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(InvalidInputError, match="MUJOCO_GL=egl"):
        GLRenderer(PushEnv()._model, "top")
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr("worldsim.envs.render.gl.find_gl_error", lambda: "no device.")
    with pytest.raises(InvalidInputError, match="no device. Use RayRenderer"):
        GLRenderer(PushEnv()._model, "top")
