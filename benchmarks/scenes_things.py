"""More scenes of gym-pusht's kind: a T and a square of another colour, two squares of one colour, a T of many colours.

    python -m benchmarks.scenes_things two_squares --episodes 300 --out data/two_squares      # where extra `scenes` is installed

The true state is that of `benchmarks.scenes` for the thing that is being pushed, then, of each of two things, x and y in pixels and
the cosine and sine of its angle.

Shape legend: H W image, E true state.
"""

import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from gymnasium import spaces

from benchmarks.scene_policies import explorers
from benchmarks.scenes import Floats, PushT
from worldsim.data.collect.record import RecordingOptions, collect

EVERY = slice(9, 17)
"""Where the true state holds x, y, cosine and sine of both things."""
SIDE = 60.0
"""Of a square, in the plane's units (512 are the picture)."""
_TURNS = 20
"""Steps after which explorers turn to the other thing."""
_APART = 110.0


class TwoThings(PushT):
    """gym-pusht's disc with two things; explorers push them in turns.

    Args:
        colors: Of squares, by name; the T is there where there is only one.
        size_px: Side of the picture.
    """

    def __init__(self, colors: tuple[str, ...], size_px: int = 64) -> None:
        super().__init__(size_px)
        self.colors = colors
        self.bodies: list[Any] = []
        state = spaces.Box(-np.inf, np.inf, (EVERY.stop,), np.float32)
        assert isinstance(self.observation_space, spaces.Dict)
        self.observation_space = spaces.Dict({**self.observation_space.spaces, "environment_state": state})

    def _reset(self, seed: int | None) -> None:
        super()._reset(seed)
        import pygame
        import pymunk

        inner, random = self._env, self.np_random
        squares = []
        for color in self.colors:
            corners = [(x * SIDE / 2, y * SIDE / 2) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            body = pymunk.Body(1.0, pymunk.moment_for_poly(1.0, corners))
            shape = pymunk.Poly(body, corners)
            shape.color = pygame.Color(color)
            inner.space.add(body, shape)
            squares.append(body)
        if len(squares) > 1:
            inner.space.remove(inner.block, *inner.block.shapes)
        else:
            squares = [inner.block, *squares]
        self.bodies = squares
        placed = [np.array(inner.agent.position), *([np.array(squares[0].position)] if len(self.colors) == 1 else [])]
        for body in squares[-len(self.colors) :]:
            at = random.uniform(70, 440, 2)
            while min(float(np.linalg.norm(at - other)) for other in placed) < _APART:
                at = random.uniform(70, 440, 2)
            body.position, body.angle = tuple(at), random.uniform(-math.pi, math.pi)
            placed.append(at)
        inner.space.step(inner.dt)
        self._seen = inner.get_obs()

    def _pushed(self) -> Any:
        return self.bodies[self._count // _TURNS % len(self.bodies)]

    def _place(self) -> Floats:
        return np.array([*self._pushed().position, 0.0])

    def _state(self) -> Floats:
        rows = [np.array([*self._pose(body)]) for body in (self._pushed(), *self.bodies)]
        return np.concatenate([rows[0], super()._state()[4:9], *rows[1:]])

    def _pose(self, body: Any) -> Floats:
        at, angle = np.array(body.position) * self.size_px / 512 - 0.5, float(body.angle)
        return np.array([*at, math.cos(angle), math.sin(angle)])


def t_and_square() -> TwoThings:
    """As ``--env benchmarks.scenes_things:t_and_square``."""
    return TwoThings(("Red",))


def two_squares() -> TwoThings:
    """As ``--env benchmarks.scenes_things:two_squares``."""
    return TwoThings(("Red", "Red"))


class PaintedT(PushT):
    """gym-pusht with a T of another colour in every episode."""

    def _reset(self, seed: int | None) -> None:
        super()._reset(seed)
        import pygame

        color = pygame.Color(0)
        color.hsva = (self.np_random.uniform(0, 360), 85, 75, 100)
        for shape in self._env.block.shapes:
            shape.color = color
        self._seen = self._env.get_obs()


def painted_t() -> PaintedT:
    """As ``--env benchmarks.scenes_things:painted_t``."""
    return PaintedT()


SCENES = {"t_and_square": t_and_square, "two_squares": two_squares, "painted_t": painted_t}


def main(
    scene: Annotated[str, typer.Argument(help="t_and_square, two_squares or painted_t.")],
    episodes: Annotated[int, typer.Option(help="Episodes the dataset shall hold in the end.")] = 300,
    seed: Annotated[int, typer.Option(help="Everything follows from it.")] = 0,
    out: Annotated[Path, typer.Option(help="Dataset folder; continued.")] = Path("data/scene"),
) -> None:
    """Record contact-seeking exploration of a scene."""
    made = collect(SCENES[scene], explorers("pusht"), episodes=episodes, out=out, seed=seed, options=RecordingOptions())
    print(f"{made.episodes} episodes, {made.frames} frames, {made.solved:.0%} solved, in {out}")


if __name__ == "__main__":
    typer.run(main)
