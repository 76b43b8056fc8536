"""Policy checkpoints that look at frames of a pushing scene: cloned from scripted experts of several grades, with much and little data.

    python -m benchmarks.scene_checkpoints fetch_push --out runs/any_triage/fetch_push     # in an environment with extra `scenes`

Demonstrations are recorded once, with noise, by experts that read true states; every run imitates what its own teacher would
have done in the states recorded. What a policy sees are frames and proprioception, nothing else.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.scene_policies import PUSHERS, WAYS_RAD, Style
from benchmarks.scenes import SCENES
from worldsim.data.collect.random_exploration import Behaviour
from worldsim.data.collect.record import collect
from worldsim.optimize import Schedule
from worldsim.policies.discovery import discover
from worldsim.protocols import Policy
from worldsim.train.recipes.policy import TrainPolicy, train_policy

SEED = 71
_NOISE = (0.0, 0.15, 0.3, 0.5)
"""Of the experts that record, standard deviation."""


TEACHERS: Mapping[str, Style] = {
    "straight": Style(),
    "askew": Style(turn_rad=0.5),
    "far_askew": Style(turn_rad=-0.9),
    "slow": Style(gain=0.5),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a scene's checkpoints are trained.

    Attributes:
        episodes: Of demonstrations.
        checkpoints: Steps after which a policy is kept; the last ends the training.
    """

    episodes: int = 200
    checkpoints: tuple[int, ...] = (400, 700, 1100, 1600)


BUDGETS = {"pusht": Budget(episodes=600, checkpoints=(600, 1100, 1800, 2600))}
"""Of scenes that need more than most: PushT's clones solve .03 to .31 after as little training as the others."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training.

    Attributes:
        teacher: Whom it imitates.
        share: Of the demonstrations, from which its episodes are drawn.
        seed: Of weights, batches and choice of episodes.
        shift_px: By how much frames are shifted in training.
    """

    teacher: str = "straight"
    share: float = 1.0
    seed: int = 0
    shift_px: int = 2


RUNS: Mapping[str, Run] = {
    "all": Run(),
    "half": Run(share=1 / 2, seed=1),
    "unshifted": Run(share=1 / 4, seed=2, shift_px=0),
    "few": Run(share=1 / 8, seed=3),
    "shifted": Run(share=1 / 2, seed=4, shift_px=6),
    "askew": Run(teacher="askew", seed=5),
}


def teacher(scene: str, name: str, *, noise: float = 0.0) -> Policy:
    """A scripted policy that reads true states and pushes the thing along the task's direction, or beside it.

    Args:
        scene: A key of `PUSHERS`.
        name: A key of `TEACHERS`.
        noise: As in `Style`.
    """
    style = dataclasses.replace(TEACHERS[name], way_rad=WAYS_RAD[scene], noise=noise)
    return PUSHERS[scene](style)


def __getattr__(name: str) -> Callable[[], Policy]:
    """The factory of ``SCENE_TEACHER``."""
    for scene in PUSHERS:
        if name.removeprefix(f"{scene}_") in TEACHERS:
            return functools.partial(teacher, scene, name.removeprefix(f"{scene}_"))
    raise AttributeError(name)


def demonstrate(scene: str, size_px: int, out: Path) -> None:
    """Record demonstrations of all teachers, each with and without noise, or what is missing of them."""
    behaviours = [
        Behaviour(name=f"{name}_{noise}", policy=teacher(scene, name, noise=noise))
        for name in TEACHERS
        for noise in _NOISE
    ]
    count = BUDGETS.get(scene, Budget()).episodes
    collect(functools.partial(SCENES[scene], size_px), behaviours, episodes=count, out=out, seed=SEED)


def train(scene: str, data: Path, out: Path) -> None:
    """Train the runs that are not done."""
    budget = BUDGETS.get(scene, Budget())
    *checkpoints, steps = budget.checkpoints
    for name, run in RUNS.items():
        config = TrainPolicy(
            data=str(data),
            out=str(out / name),
            teacher=f"benchmarks.scene_checkpoints:{scene}_{run.teacher}",
            episodes=(0 if run.share == 1 else round(run.share * budget.episodes),),
            seeds=(run.seed,),
            checkpoints=tuple(checkpoints),
            schedule=Schedule(steps=steps, batch=128, lr=2e-3),
            shift_px=run.shift_px,
        )
        train_policy(config, say=print)


def main(
    scene: Annotated[str, typer.Argument(help=f"One of {', '.join(PUSHERS)}.")],
    size: Annotated[int, typer.Option(help="Side of frames, px.")] = 64,
    *,
    out: Annotated[Path, typer.Option(help="Folder for demonstrations and checkpoints; continued.")],
) -> None:
    """Record demonstrations and train all checkpoints."""
    demonstrate(scene, size, out / "demonstrations")
    print(f"demonstrations: {time.process_time():.0f} core-seconds", flush=True)
    train(scene, out / "demonstrations", out / "policies")
    print(
        f"{len(discover([str(out / 'policies')]))} checkpoints: {time.process_time():.0f} core-seconds with demonstrations"
    )


if __name__ == "__main__":
    typer.run(main)
