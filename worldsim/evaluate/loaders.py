"""Picklable loaders that triage hands to its processes: worlds, simulators and policies by name.

The one place where the rooms of worlds, environments and policies meet for a triage.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import gymnasium

from worldsim import storage
from worldsim.core import SIMULATOR
from worldsim.errors import InvalidInputError, StorageError
from worldsim.evaluate.planner_refs import image_world
from worldsim.protocols import Startable
from worldsim.reason.critic import SHIPPED_NAME, ReasonCritic
from worldsim.reason.trial import Errors
from worldsim.rollout.wrappers import LoadBorrowed, LoadRoundTrip
from worldsim.stats.judge_rates import JudgeRates
from worldsim.triage.request import Ref
from worldsim.triage.run import Arena
from worldsim.worlds import load_world, world_folder
from worldsim.worlds.latent import LatentWorld, LearnedWorld


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadCritic:
    """Loads a critic for the rollouts of a world.

    Attributes:
        folder: The critic's.
        version: What it was when the run was asked for.
    """

    folder: str
    version: str

    def __call__(self, world: Startable) -> ReasonCritic:
        """The critic, watching a world.

        Raises:
            StorageError: The folder has changed since.
        """
        critic = ReasonCritic.from_pretrained(self.folder, world=world)
        if critic.version != self.version:
            raise StorageError(
                f"The critic in {self.folder} has changed: it was {self.version} when the run began and is "
                f"{critic.version} now. Start the run again."
            )
        return critic


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judging:
    """A judge of a triage.

    Attributes:
        load: Loads it; picklable.
        rates: How often it was right when it was calibrated, overall and by policy group.
    """

    load: LoadCritic
    rates: tuple[JudgeRates, ...]

    @property
    def version(self) -> str:
        """For `TriageRequest.judge`."""
        return self.load.version


def judge_of(folder: str) -> Judging:
    """The critic of a folder, or the shipped one (``"reason"``), as a judge.

    Raises:
        StorageError: There is none.
        MissingExtraError: transformers is not installed.
    """
    critic = ReasonCritic.from_pretrained(folder)
    path = folder if folder == SHIPPED_NAME else str(Path(folder).resolve())
    calibration = critic.settings.calibration
    known = () if calibration is None else (calibration.trial.errors, *calibration.trial.groups)
    return Judging(load=LoadCritic(folder=path, version=critic.version), rates=tuple(map(_rates, known)))


def _rates(errors: Errors) -> JudgeRates:
    solved, unsolved = errors.sensitivity, errors.specificity
    return JudgeRates(
        group=errors.group,
        solved=solved.count if solved else 0,
        solved_right=solved.hits if solved else 0,
        unsolved=unsolved.count if unsolved else 0,
        unsolved_right=unsolved.hits if unsolved else 0,
    )


def world_ref(name: str) -> Ref:
    """Reference to a world folder or a shipped world."""
    folder = world_folder(name)
    return Ref(name=Path(name).name, digest=storage.folder_digest(folder), source=str(folder))


def simulator(task_id: str) -> Startable:
    """The true environment of a task as a world."""
    from worldsim.envs.simulator import SimulatorWorld

    return SimulatorWorld(task_id)


def codec(folder: str) -> Callable[..., object]:
    """A world's own encoding and decoding of frames."""
    world = load_world(folder)
    if not isinstance(world, LatentWorld):
        raise InvalidInputError(
            f"The world {folder} draws no frames, so policies cannot see through it. Use --roundtrip 0."
        )
    return world.roundtrip


def arenas(world: LearnedWorld, ref: Ref, *, truth: int, roundtrip: int) -> list[Arena]:
    """The simulator, bare and seen through the world's tokenizer, where the world's task has one.

    Args:
        world: The world of the triage.
        ref: Its reference.
        truth: Episodes per policy in the simulator; 0 for none.
        roundtrip: Episodes per policy in the simulator on encoded and decoded frames; 0 for none.

    Raises:
        InvalidInputError: Episodes are asked for, and the task has no simulator here.
    """
    if not truth and not roundtrip:
        return []
    if not has_simulator(world):
        raise InvalidInputError(
            f"World {ref.name!r} has no simulator here (its task is {world.spec.task_id or 'unknown'!r} and its starts "
            f"{'hold' if knows_simulator(world) else 'lack'} simulator states). Use --truth 0 --roundtrip 0."
        )
    if roundtrip and not image_world(world):
        raise InvalidInputError(
            f"World {ref.name!r} draws no pictures, so nothing can be seen through it. Use --roundtrip 0, or a world of pixels."
        )
    lender = functools.partial(load_world, ref.source)
    bare = LoadBorrowed(world=functools.partial(simulator, world.spec.task_id), lender=lender)
    through = LoadRoundTrip(world=bare, roundtrip=functools.partial(codec, ref.source))  # type: ignore[arg-type]
    there = Ref(
        name=world.spec.task_id, digest=storage.digest_bytes(world.spec.task_id.encode()), source=world.spec.task_id
    )
    seen = Ref(
        name=f"{there.name} seen through {ref.name}",
        digest=storage.digest_bytes(f"{there.digest}{ref.digest}".encode()),
    )
    made = [Arena(kind="truth", world=there, load=bare, episodes=truth)] if truth else []
    return made + ([Arena(kind="roundtrip", world=seen, load=through, episodes=roundtrip)] if roundtrip else [])


def knows_simulator(world: LearnedWorld) -> bool:
    """Whether the world's starts can be begun in its simulator too."""
    return world.first_observations is not None and SIMULATOR in world.first_observations.rows


def has_simulator(world: LearnedWorld) -> bool:
    """Whether the world's task can be played for real on this machine."""
    return world.spec.task_id in gymnasium.registry and knows_simulator(world)
