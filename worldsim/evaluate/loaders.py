"""Picklable loaders that triage passes to its processes: worlds, simulators and policies by name.

They join worlds, environments and critics for a triage.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import gymnasium

from worldsim import storage
from worldsim.core import SIMULATOR
from worldsim.data.starts import Starts
from worldsim.errors import InvalidInputError, StorageError
from worldsim.evaluate.environments import ALIASES
from worldsim.evaluate.planner_refs import draws_what_it_sees
from worldsim.evaluate.true_env import TrueEnv
from worldsim.protocols import Startable
from worldsim.reason.critic import SHIPPED_NAME, ReasonCritic
from worldsim.rollout.wrappers import BorrowedStarts, RoundTripWorld
from worldsim.stats.judge_rates import JudgeRates
from worldsim.tokenizers.base import ProprioTokenizer
from worldsim.tokenizers.cameras import camera_tokenizer
from worldsim.triage.request import Ref
from worldsim.triage.run import Arena
from worldsim.worlds import world_folder, world_spec
from worldsim.worlds.labelling import Recorded, recorded_of
from worldsim.worlds.latent import STARTS, LatentWorld


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadCritic:
    """Loads a critic for the rollouts of a world.

    Attributes:
        folder: The critic's.
        version: What it was when the run was asked for.
        device: Where it computes.
    """

    folder: str
    version: str
    device: str = "cpu"

    def __call__(self, world: Startable) -> ReasonCritic:
        """The critic for a world's rollouts.

        Raises:
            StorageError: The folder has changed since.
        """
        critic = ReasonCritic.from_pretrained(
            self.folder, device=self.device, world=world, beyond=True
        )  # triage itself says how far it plays
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


def judge_of(folder: str, *, device: str = "cpu") -> Judging:
    """The critic of a folder, or the shipped one (``"reason"``), as a judge that computes on `device`.

    Raises:
        StorageError: There is none.
        MissingExtraError: transformers is not installed.
    """
    critic = ReasonCritic.from_pretrained(folder)
    path = folder if folder == SHIPPED_NAME else str(Path(folder).resolve())
    calibration = critic.settings.calibration
    known = () if calibration is None else (calibration.metrics.rates, *calibration.metrics.groups)
    return Judging(load=LoadCritic(folder=path, version=critic.version, device=device), rates=known)


def world_ref(name: str) -> Ref:
    """Reference to a world folder or a shipped world."""
    folder = world_folder(name)
    return Ref(name=Path(name).name, digest=storage.folder_digest(folder), source=str(folder))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimulatorArena:
    """Builds the true environment around a loaded world, which lends it its starts.

    Attributes:
        env: The true environment.
        through: Policies see frames as the world encodes and decodes them.
    """

    env: TrueEnv
    through: bool = False

    def __call__(self, world: Startable) -> Startable:
        """The simulator.

        Raises:
            InvalidInputError: Frames are to go through a world that draws none.
            WorldsimError: As `TrueEnv.around`.
        """
        bare = BorrowedStarts(self.env.around(world), lender=world)
        if not self.through:
            return bare
        if not isinstance(world, LatentWorld):
            raise InvalidInputError("This world draws no frames, so policies cannot see through it. Use --roundtrip 0.")
        codec = camera_tokenizer(world.tokenizer, world.spec.camera().key)
        return RoundTripWorld(bare, roundtrip=world.roundtrip, reads_proprio=isinstance(codec, ProprioTokenizer))


def arenas(ref: Ref, *, truth: int, roundtrip: int, env: TrueEnv | None = None) -> list[Arena]:
    """The true environment, bare and seen through the world's tokenizer. Loads no weights.

    Args:
        ref: The world of the triage.
        truth: Episodes per policy in the simulator; 0 for none.
        roundtrip: Episodes per policy in the simulator on encoded and decoded frames; 0 for none.
        env: The true environment; None for the one that is registered under the world's task.

    Raises:
        InvalidInputError: Episodes are asked for, and the task has no simulator here.
        StorageError: The world's folder is corrupt.
    """
    if not truth and not roundtrip:
        return []
    spec = world_spec(ref.source)
    if (env is None and not has_simulator(ref.source)) or not starts_width(ref.source):
        raise InvalidInputError(f"{no_simulator(ref)} Use --truth 0 --roundtrip 0 otherwise.")
    if roundtrip and not draws_what_it_sees(spec):
        raise InvalidInputError(
            f"World {ref.name!r} draws no pictures, so nothing can be seen through it. Use --roundtrip 0, or a world of pixels."
        )
    known = spec.task_id if env is None else storage.digest_bytes(repr(env).encode())
    bare = SimulatorArena(env=env or TrueEnv(env=spec.task_id))
    there = Ref(name=bare.env.env, digest=storage.digest_bytes(known.encode()), source=bare.env.env)
    seen = Ref(
        name=f"{there.name} seen through {ref.name}",
        digest=storage.digest_bytes(f"{there.digest}{ref.digest}".encode()),
    )
    through = dataclasses.replace(bare, through=True)
    made = [Arena(kind="truth", world=there, load=bare, episodes=truth)] if truth else []
    return made + ([Arena(kind="roundtrip", world=seen, load=through, episodes=roundtrip)] if roundtrip else [])


def find_true_env(folder: str | Path, named: TrueEnv | None) -> tuple[TrueEnv | None, tuple[str, ...]]:
    """The true environment of a world and the rule by which its success is judged. Loads no weights, imports nothing.

    What is not named is taken from what the world says of its data: its task's id, and the rule by which success was
    recorded. Code that a world names is not taken.

    Args:
        folder: A world folder or a shipped name.
        named: What the caller names; parts may be empty.

    Returns:
        The environment, None where nothing is named or known but the id of the world's task; and sentences for people.

    Raises:
        InvalidInputError: Imports or a rule are given, and it is not known for which environment.
        UnknownNameError: No such folder or shipped world.
        StorageError: The folder is corrupt.
    """
    spec, said = world_spec(folder), recorded_of(folder)
    task_id = "" if ":" in spec.task_id else spec.task_id
    if named is not None and not named.env and not task_id:
        raise InvalidInputError(
            "--import and --success are about the true environment, and this world does not say which it is. Name it with --env."
        )
    rule = "" if ":" in said.success else said.success
    if named is None and (not rule or task_id not in gymnasium.registry):
        return None, ()
    given = named or TrueEnv()
    chosen = dataclasses.replace(given, env=given.env or task_id, success=given.success or rule)
    return chosen, tuple(_differences(chosen, task_id, said, judged="success" not in spec.unlabelled))


def _differences(env: TrueEnv, task_id: str, said: Recorded, *, judged: bool) -> Iterator[str]:
    """How the true environment differs from the one that a world's data was recorded in."""
    known = {name for name in (task_id, said.env) if name}
    if known and not known & {env.env, ALIASES.get(env.env), env.env.rpartition(":")[2]}:
        yield f"The true environment is {env.env}; the world's data was recorded in {said.env or task_id}."
    if env.success == said.success:
        if env.success:
            yield f"Solved in the true environment means {env.success}, as in the world's data."
    elif not env.success:
        yield (
            f"The success of the world's data was judged by the code {said.success}, which is not imported unless you name it: "
            f"--success {said.success}. Without it the true environment's own word counts."
        )
    elif said.success or judged:
        yield (
            f"Solved in the true environment means {env.success}; in the world's data it means "
            f"{said.success or 'what was reported or labelled'}. The two rates are of different things."
        )


def no_simulator(ref: Ref) -> str:
    """Why a world cannot be compared with its simulator here, and what to do about it."""
    spec, said = world_spec(ref.source), recorded_of(ref.source)
    if not starts_width(ref.source):
        return f"World {ref.name!r} has no simulator: its starts lack simulator states. Record its data with worldsim collect."
    how = f"--env {said.env}" if said.env else "--env ID (--env module:ID where a package registers it)"
    return (
        f"World {ref.name!r} has no simulator here: its task {spec.task_id or 'unknown'!r} is not registered. Name its true "
        f"environment with {how}."
    )


def has_simulator(folder: str | Path) -> bool:
    """Whether the task of a world folder can be played for real on this machine. Loads no weights.

    Raises:
        UnknownNameError: No such folder or shipped world.
        StorageError: The folder is corrupt.
    """
    return world_spec(folder).task_id in gymnasium.registry and starts_width(folder) > 0


def starts_width(folder: str | Path) -> int:
    """Numbers from which each start of a world folder can be begun in its simulator: 1 for a seed, 0 for none.

    Raises:
        UnknownNameError: No such folder or shipped world.
        StorageError: The folder is corrupt.
    """
    path = world_folder(folder) / STARTS
    rows = Starts.load(path).rows if path.exists() else {}
    return rows[SIMULATOR].shape[1] if SIMULATOR in rows else 0
