"""Scenes of other packages as environments: frames of a fixed camera, proprioception, and true places to measure by.

    python -m benchmarks.scenes fetch_push --episodes 800 --out data/fetch_push      # in an environment with extra `scenes`
    python -m benchmarks.scenes pusht --size 96 --episodes 360 --out data/pusht
    python -m benchmarks.scenes fetch_colors --episodes 400 --out data/fetch_colors
    python -m benchmarks.scenes fetch_pick --episodes 400 --out data/fetch_pick
    python -m benchmarks.scenes reacher --episodes 300 --out data/reacher
    python -m benchmarks.scenes pusher --episodes 300 --out data/pusher
    python -m benchmarks.scenes finger --episodes 300 --out data/finger

`benchmarks.any_scene` says how worlds of them are trained and measured.
"""

import functools
import time
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import numpy as np
import typer
from gymnasium import spaces
from numpy.typing import NDArray

from benchmarks.scene_arms import FetchColors, FetchPick, FetchPush, FingerScene, PusherScene, ReacherScene
from benchmarks.scene_base import THING, Floats, Scene
from benchmarks.scene_policies import explorers
from worldsim import storage
from worldsim.data.collect.record import RecordingOptions, collect
from worldsim.data.lerobot.read import open_dataset

__all__ = ["SCENES", "Floats", "PushT", "fetch_push", "pusht"]


class PushT(Scene):
    """gym-pusht seen from above; actions are where the disc is to go, 0 to 512. The block is to go 60 along x."""

    steps, turns = 50, True

    def __init__(self, size_px: int = 64) -> None:
        super().__init__(size_px)
        import gym_pusht  # noqa: F401  # registers its environment

        made = gymnasium.make(
            "gym_pusht/PushT-v0", obs_type="pixels_agent_pos", observation_width=size_px, observation_height=size_px
        )
        self._env: Any = made.unwrapped
        self.action_space = spaces.Box(0, 512, (2,), np.float32)
        self.observation_space = self._space(4)

    def _reset(self, seed: int | None) -> None:
        self._seen = self._env.reset(seed=seed)[0]

    def _act(self, action: NDArray[np.float32]) -> None:
        self._seen = self._env.step(action.clip(0, 512))[0]

    def _thing(self) -> Floats:
        return np.array([*self._env.block.position, 0.0])

    def _tip(self) -> Floats:
        return np.array([*self._env.agent.position, 0.0])

    def _angle(self) -> float:
        return float(self._env.block.angle)

    def _proprio(self) -> NDArray[np.float32]:
        return np.array([*self._env.agent.position, *self._env.agent.velocity], np.float32)

    def _draw(self) -> NDArray[np.uint8]:
        return np.asarray(self._seen["pixels"], np.uint8)

    def _pixels(self, point: Floats) -> Floats:
        return point[:2] * self.size_px / 512 - 0.5

    def _done(self) -> float:
        return float(self._place()[0] - self._begin[0]) / 60


SCENES: dict[str, type[Scene]] = {
    "fetch_push": FetchPush,
    "fetch_colors": FetchColors,
    "fetch_pick": FetchPick,
    "pusht": PushT,
    "reacher": ReacherScene,
    "pusher": PusherScene,
    "finger": FingerScene,
}


def fetch_push() -> FetchPush:
    """As ``--env benchmarks.scenes:fetch_push``."""
    return FetchPush()


def pusht() -> PushT:
    """As ``--env benchmarks.scenes:pusht``."""
    return PushT()


def main(
    scene: Annotated[str, typer.Argument(help=f"One of {', '.join(SCENES)}.")],
    episodes: Annotated[int, typer.Option(help="Episodes the dataset shall hold in the end.")] = 360,
    seed: Annotated[int, typer.Option(help="Everything follows from it.")] = 0,
    size: Annotated[int, typer.Option(help="Side of frames, px.")] = 64,
    out: Annotated[Path, typer.Option(help="Dataset folder; continued.")] = Path("data/scene"),
) -> None:
    """Record contact-seeking exploration of a scene; what it took and how much moves is kept beside the folder."""
    make = functools.partial(SCENES[scene], size)
    made = collect(make, explorers(scene), episodes=episodes, out=out, seed=seed, options=RecordingOptions())
    facts = collection(out) | {"episodes": made.episodes, "size_px": size}
    facts["core_seconds"] = round(facts.get("core_seconds", 0.0) + time.process_time(), 1)
    facts |= {name: round(share, 3) for name, share in motion(out).items()}
    storage.write_json(_beside(out), facts)
    print(f"{made.episodes} episodes, {made.frames} frames, {made.solved:.0%} solved, in {out}: {facts}")


def collection(out: Path) -> dict[str, Any]:
    """What collecting a dataset took; empty where it is not known."""
    return storage.read_json(_beside(out)) if _beside(out).exists() else {}


def _beside(out: Path) -> Path:
    return out.with_name(f"{out.name}.collection.json")


def motion(out: Path) -> dict[str, float]:
    """Shares of a dataset's transitions in which the thing moves, and of its episodes in which it goes over 3 px."""
    dataset = open_dataset(out)
    moves, goes = list[float](), list[float]()
    for index in range(dataset.episodes):
        state = dataset.episode(index).true_state
        assert state is not None
        moves.append(float((np.abs(np.diff(state[:, [0, 1, 2, 3]], axis=0)) > (0.1, 0.1, 0.02, 0.02)).any(1).mean()))
        goes.append(float((np.linalg.norm(state[:, THING] - state[:1, THING], axis=1) > 3).any()))
    return {"transitions_that_move": float(np.mean(moves)), "episodes_that_move": float(np.mean(goes))}


if __name__ == "__main__":
    typer.run(main)
