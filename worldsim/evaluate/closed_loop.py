"""Closed-loop evaluation of a planner: it acts in the world it plans in and in the true environment, on the same starts.

evaluation = evaluate("push_state", PlannerSettings(samples=32), episodes=20, out=Path("runs/plan"))
evaluation.places[-1].success
"""

import dataclasses
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from worldsim import storage
from worldsim.compute import find_device, find_dtype, one_thread
from worldsim.errors import InvalidInputError, unknown_name
from worldsim.evaluate import loaders
from worldsim.evaluate.film import draw_plan, film, worth_filming
from worldsim.evaluate.planner_refs import GOAL, PlannerSettings, image_world
from worldsim.evaluate.play import BATCH, Place, Summary, plan_seconds, play_all, summarise
from worldsim.evaluate.true_env import TrueEnv
from worldsim.planners.costs import LatentGoal, image_goal
from worldsim.planners.limits import Limits
from worldsim.planners.mpc import MPC
from worldsim.planners.objective import Objective
from worldsim.progress import Progress, silent
from worldsim.rollout.episodes import Block, block
from worldsim.runs import Ledger, Record, open_run, show_duration
from worldsim.triage.request import Ref
from worldsim.worlds import load_world
from worldsim.worlds.latent import LearnedWorld

Where = Literal["both", "world", "simulator"]
PLACES = ("both", "world", "simulator")
EPISODES, RESULT = "episodes.jsonl", "plan.json"
MAX_EPISODES = 10**6
_SHOWN = ("where", "episode", "start", "key", "success", "final", "promised", "plan_ms", "evaluations")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What came of a closed-loop evaluation.

    Attributes:
        places: One summary for each place; the true environment last.
        records: The episodes of each place, by its `where`, in order; see `worldsim.evaluate.play.play`.
        files: What was written: figures, pictures, films.
    """

    places: tuple[Summary, ...]
    records: Mapping[str, list[Record]]
    files: tuple[Path, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """An evaluation that is ready to run.

    Attributes:
        settings: The planner and how it drives.
        world: Where it plans.
        places: Where it acts; the true environment last.
        goal: What the cost ``"goal"`` measures the distance to.
        episodes: Starts and noise keys.
        deadline_s: Time for one plan; None for no limit.
        request: What decides the result.
        said: What the user should know of the true environment.
    """

    settings: PlannerSettings
    world: LearnedWorld
    places: tuple[Place, ...]
    goal: LatentGoal | None
    episodes: Block
    deadline_s: float | None
    request: Mapping[str, Any]
    said: tuple[str, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the user should know before."""
        return (*self.said, *self.settings.remarks(self.world.spec))

    @property
    def batch(self) -> int:
        """Episodes played together; one where time counts, since a deadline is for the batch."""
        return min(BATCH if self.deadline_s is None else 1, len(self.episodes))

    def controller(self, *, watch: Callable[[Objective], Objective] = lambda objective: objective) -> MPC:
        """The planner as a policy; `watch` is put around every objective."""
        limits = None if self.deadline_s is None else Limits(deadline_s=self.deadline_s)
        return self.settings.controller(self.world, goal=self.goal, limits=limits, watch=watch)

    def estimate(self) -> str:
        """What the evaluation would do and cost, from two plans that are timed."""
        s, steps, n = self.settings.within(self.world.spec), self.world.spec.horizon, len(self.episodes)
        plans, each = -(-steps // (s.receding * s.repeat)), s.search().evaluations
        batches = -(-n // self.batch)
        seconds = plan_seconds(self.controller(), self.world, episodes=self.batch) * plans * batches * len(self.places)
        ahead_s = s.span / self.world.spec.action.rate_hz
        return (
            f"{s.planner} plans {s.horizon} actions of {s.repeat} control steps ({ahead_s:.1f} s ahead), at most {each} "
            f"evaluations a plan.\n{n} episodes x {steps} steps in {' and in '.join(f'the {p.name}' for p in self.places)}: "
            f"{plans} plans an episode, {len(self.places) * n * plans * each:,} evaluations, about {show_duration(seconds)}."
        )

    def run(
        self, out: Path, *, pictures: bool = True, video: bool = False, command: str = "", progress: Progress = silent
    ) -> Evaluation:
        """Play what is missing, then summarise and draw everything; the same call continues an interrupted one.

        Args:
            out: The run folder.
            pictures: Draw the first episode's first plan.
            video: Film a few episodes beside what the plans imagined.
            command: How the run was asked for, to be kept with the figures.
            progress: Called with how many steps are done in each place.

        Raises:
            StorageError: The folder is in use, damaged or full; what is finished is kept.
            InvalidInputError: The folder was begun with another request.
        """
        with open_run(out, self.request, results=EPISODES), one_thread():
            ledger = Ledger(out / EPISODES, key=("where", "episode"))
            for place in self.places:
                play_all(
                    self.controller(),
                    self.world,
                    place,
                    episodes=self.episodes,
                    ledger=ledger,
                    batch=self.batch,
                    progress=progress,
                )
            records = {p.where: [ledger[p.where, e] for e in range(len(self.episodes))] for p in self.places}
            drawn = self._draw(records[self.places[-1].where], out, pictures=pictures, video=video)
            places = tuple(summarise(p, records[p.where]) for p in self.places)
            rows = [{k: r[k] for k in _SHOWN} for p in self.places for r in records[p.where]]
            value = {"command": command, "settings": self.request, "places": places, "episodes": rows}
            storage.write_json(out / RESULT, storage.to_json(value))
        return Evaluation(places=places, records=records, files=(out / RESULT, *drawn))

    def _draw(self, records: list[Record], out: Path, *, pictures: bool, video: bool) -> list[Path]:
        """The picture of the first episode in the truest place, and films of a few."""
        place = self.places[-1]
        drawn = draw_plan(self.world, records[0], lambda w: self.controller(watch=w), out) if pictures else []
        for record in worth_filming(records) if video else []:
            path = film(self.world, place, record, self.controller(), out)
            drawn += [path] if path is not None else []
        return drawn


def prepare(
    world: str = "push",
    settings: PlannerSettings | None = None,
    *,
    episodes: int = 20,
    where: Where | str = "both",
    goal: Path | None = None,
    seed: int = 0,
    deadline_ms: float | None = None,
    env: TrueEnv | None = None,
    device: str = "cpu",
    dtype: str = "",
) -> ClosedLoop:
    """Load the world, find the places, lay out the episodes; nothing is played.

    Args:
        world: A folder or a shipped name.
        settings: The planner and how it drives.
        episodes: In each place.
        where: ``"world"``, ``"simulator"``, or ``"both"`` where there is one.
        goal: A picture of the goal, for the cost ``"goal"``.
        seed: Of starts and noise.
        deadline_ms: Time for one plan; episodes are then played one by one.
        env: The world's true environment, or parts of it; what is missing is what the world says of its data.
        device: Where the world computes.
        dtype: Of its weights; empty keeps the stored one.

    Raises:
        WorldsimError: Something cannot be found or read, a number is out of range, or parts do not go together.
    """
    settings = settings or PlannerSettings()
    _check(settings, episodes=episodes, where=where, goal=goal, seed=seed, deadline_ms=deadline_ms, env=env)
    find_device(device)
    ref = loaders.world_ref(world)
    env, said = (None, ()) if where == "world" else loaders.find_true_env(ref.source, env)
    loaded = load_world(ref.source, device=device, dtype=find_dtype(dtype))
    request = {
        **settings.within(loaded.spec).identity,
        "world": ref.digest,
        "goal": "" if goal is None else storage.digest_bytes(_read(goal)),
        "seed": seed,
        "deadline_ms": deadline_ms,
        **({"dtype": dtype} if dtype else {}),
        **({} if env is None else {"env": storage.to_json(env)}),
    }
    made = ClosedLoop(
        settings=settings,
        world=loaded,
        places=_places(loaded, ref, where, env),
        goal=None if goal is None else _goal(loaded, goal),
        episodes=block("plan", seed=seed, episodes=episodes, num_starts=loaded.num_starts),
        deadline_s=None if deadline_ms is None else deadline_ms / 1e3,
        request=request,
        said=said,
    )
    made.controller()  # what does not fit together fails here, before a folder is begun
    return made


def evaluate(
    world: str = "push",
    settings: PlannerSettings | None = None,
    *,
    out: Path,
    progress: Progress = silent,
    video: bool = False,
    **options: Any,
) -> Evaluation:
    """Evaluate a planner in closed loop; the same call continues an interrupted one.

    Args:
        world: A folder or a shipped name.
        settings: The planner and how it drives.
        out: The run folder.
        progress: Called with how many steps are done in each place.
        video: Film a few episodes.
        options: Further options of `prepare`: episodes, where, goal, seed, deadline_ms, env, device, dtype.

    Raises:
        WorldsimError: As `prepare` and `ClosedLoop.run`.
    """
    return prepare(world, settings, **options).run(out, video=video, progress=progress)


def _check(
    settings: PlannerSettings,
    *,
    episodes: int,
    where: str,
    goal: Path | None,
    seed: int,
    deadline_ms: float | None,
    env: TrueEnv | None,
) -> None:
    """Refuse what is out of range or does not go together."""
    if where not in PLACES:
        raise unknown_name("place", where, PLACES)
    if where == "world" and env is not None:
        raise InvalidInputError(
            "--env, --import and --success are about the simulator, and --where world leaves it out."
        )
    if not 1 <= episodes <= MAX_EPISODES or not 0 <= seed < 2**63:
        raise InvalidInputError(
            f"Episodes lie in 1..{MAX_EPISODES} and the seed in 0..2**63-1; got {episodes} and {seed}."
        )
    if deadline_ms is not None and not 0 < deadline_ms < float("inf"):
        raise InvalidInputError(f"A deadline is a number of milliseconds above 0; got {deadline_ms}.")
    if goal is not None and settings.cost != GOAL:
        raise InvalidInputError(f"A goal picture was given, but the cost is {settings.cost!r}. Use --cost goal.")


def _places(world: LearnedWorld, ref: Ref, where: str, env: TrueEnv | None) -> tuple[Place, ...]:
    """Where to play; the true environment last."""
    there = env is not None or loaders.has_simulator(ref.source)
    if not there and where == "simulator":
        raise InvalidInputError(f"{loaders.no_simulator(ref)} Use --where world otherwise.")
    places = [Place(where="world", name=f"world {ref.name}", plant=world)] if where != "simulator" else []
    if there and where != "world":
        true = env or TrueEnv(env=world.spec.task_id)
        true.require_success(world.spec, seeded=loaders.starts_width(ref.source) == 1)
        plant = true.around(world)
        places.append(Place(where="simulator", name="simulator" if env is None else env.env, plant=plant))
    return tuple(places)


def _goal(world: LearnedWorld, path: Path) -> LatentGoal:
    """The latent goal that a picture shows."""
    if not image_world(world):
        raise InvalidInputError("This world begins from states and cannot read pictures. Plan in a world of pixels.")
    try:
        frame = np.asarray(Image.open(io.BytesIO(_read(path))).convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise InvalidInputError(f"{path} is no readable picture ({error}). Give a PNG.") from error
    return image_goal(world, torch.from_numpy(frame.copy()))  # type: ignore[arg-type]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror or error}.") from error
