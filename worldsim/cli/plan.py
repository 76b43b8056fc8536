"""`worldsim plan`: a planner drives, in the world it plans in and in the true environment, on the same starts."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from worldsim.errors import InvalidInputError, unknown_name
from worldsim.progress import progress_bars

if TYPE_CHECKING:
    from worldsim.evaluate.closed_loop import Place, Summary
    from worldsim.evaluate.planner_refs import PlannerSettings
    from worldsim.planners.costs import LatentGoal
    from worldsim.planners.mpc import MPC
    from worldsim.rollout.episodes import Block
    from worldsim.runs.ledger import Ledger, Record
    from worldsim.worlds.latent import LearnedWorld

PLACES = ("both", "world", "simulator")


def plan(
    world: Annotated[
        str, typer.Option(help="World folder, or the name of a shipped world: push, push_state.")
    ] = "push",
    planner: Annotated[str, typer.Option(help="weighted, hybrid, cem, icem, mppi, gradient, ...")] = "weighted",
    episodes: Annotated[int, typer.Option(help="Episodes in each place; may grow when the command is repeated.")] = 20,
    horizon: Annotated[int, typer.Option(help="Actions in a plan.")] = 16,
    repeat: Annotated[int, typer.Option(help="Control steps for which each planned action is held.")] = 2,
    samples: Annotated[int, typer.Option(help="Candidates per iteration.")] = 64,
    iterations: Annotated[int, typer.Option(help="Iterations per plan.")] = 3,
    receding: Annotated[int, typer.Option(help="Planned actions executed before planning again.")] = 1,
    cost: Annotated[str | None, typer.Option(help="progress, success or goal. [default: progress, or goal]")] = None,
    goal: Annotated[Path | None, typer.Option(help="Picture of the goal, for the cost 'goal'.")] = None,
    risk: Annotated[
        float, typer.Option(help="Weight of the world's uncertainty in the cost: 2 keeps promises, 0 gets more done.")
    ] = 0.0,
    judge: Annotated[
        str, typer.Option(help="A critic's folder, or 'reason': futures also cost what it finds missing to success.")
    ] = "",
    caution: Annotated[
        float,
        typer.Option(help="Weight of what the world's members disagree about, in a second look at the best plans."),
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of starts and noise.")] = 0,
    deadline_ms: Annotated[
        float | None, typer.Option(help="Time for one plan; episodes are then played one by one.")
    ] = None,
    where: Annotated[str, typer.Option(help="world, simulator, or both where there is one.")] = "both",
    video: Annotated[bool, typer.Option(help="Film a few episodes beside what the plans imagined.")] = False,
    out: Annotated[Path, typer.Option(help="Run folder; the same command continues it.")] = Path("runs/plan"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and what it would cost, and stop.")
    ] = False,
) -> None:
    """Plan inside a learned world, act, and compare what was promised with what came.

        worldsim plan --world push_state --episodes 20 --video --out runs/plan

    A planner may exploit the errors of the world it plans in: trust the true environment's line of the table.
    """
    import torch

    from worldsim.evaluate.planner_refs import PlannerSettings

    torch.set_num_threads(1)
    if where not in PLACES:
        raise unknown_name("place", where, PLACES)
    settings = PlannerSettings(
        planner=planner,
        horizon=horizon,
        repeat=repeat,
        samples=samples,
        iterations=iterations,
        receding=receding,
        cost=cost or ("progress" if goal is None else "goal"),
        risk=risk,
        judge=judge,
        caution=caution,
    )
    if goal is not None and settings.cost != "goal":
        raise InvalidInputError(f"A goal picture was given, but the cost is {settings.cost!r}. Use --cost goal.")
    run = _Run.prepare(settings, world, where=where, goal=goal, seed=seed, deadline_ms=deadline_ms, episodes=episodes)
    if dry_run:
        Console().print(run.forecast(), highlight=False, soft_wrap=True)
        return
    run.play(out, video=video)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """Everything a run consists of, before the first episode."""

    settings: "PlannerSettings"
    world: "LearnedWorld"
    places: "tuple[Place, ...]"
    goal: "LatentGoal | None"
    episodes: "Block"
    deadline_s: float | None
    identity: dict[str, Any]

    @classmethod
    def prepare(
        cls,
        settings: "PlannerSettings",
        name: str,
        *,
        where: str,
        goal: Path | None,
        seed: int,
        deadline_ms: float | None,
        episodes: int,
    ) -> "_Run":
        """Load the world, find the places, lay out the episodes."""
        from worldsim import storage
        from worldsim.evaluate import loaders
        from worldsim.rollout.episodes import block
        from worldsim.worlds import load_world

        if episodes < 1:
            raise InvalidInputError(f"At least one episode is played; got {episodes}.")
        ref = loaders.world_ref(name)
        world = load_world(ref.source)
        identity = {
            **settings.identity,
            "world": ref.digest,
            "goal": "" if goal is None else storage.digest_bytes(_read(goal)),
            "seed": seed,
            "deadline_ms": deadline_ms,
        }
        made = cls(
            settings=settings,
            world=world,
            places=_places(world, ref.name, where),
            goal=None if goal is None else _goal(world, goal),
            episodes=block("plan", seed=seed, episodes=episodes, num_starts=world.num_starts),
            deadline_s=None if deadline_ms is None else deadline_ms / 1e3,
            identity=identity,
        )
        made.controller()  # what does not fit together fails here, before a folder is begun
        return made

    @property
    def batch(self) -> int:
        """Episodes played together; one where time counts, since a deadline is for the whole batch."""
        from worldsim.evaluate.closed_loop import BATCH

        return min(BATCH if self.deadline_s is None else 1, len(self.episodes))

    def controller(self, **options: Any) -> "MPC":
        """The planner at work."""
        from worldsim.planners.limits import Limits

        limits = None if self.deadline_s is None else Limits(deadline_s=self.deadline_s)
        return self.settings.controller(self.world, goal=self.goal, limits=limits, **options)

    def forecast(self) -> str:
        """What the run would do and cost, from two plans that are timed."""
        from worldsim.evaluate.closed_loop import plan_seconds

        controller, steps = self.controller(), self.world.spec.horizon
        plans, each = -(-steps // (self.settings.receding * self.settings.repeat)), self.settings.search().evaluations
        batches, n = -(-len(self.episodes) // self.batch), len(self.episodes)
        seconds = plan_seconds(controller, self.world, episodes=self.batch) * plans * batches * len(self.places)
        s = self.settings
        ahead_s = s.span / self.world.spec.action.rate_hz
        return (
            f"{s.planner} plans {s.horizon} actions of {s.repeat} control steps ({ahead_s:.1f} s ahead), at most {each} "
            f"evaluations a plan.\n{n} episodes x {steps} steps in {' and in '.join(f'the {p.name}' for p in self.places)}: "
            f"{plans} plans an episode, {len(self.places) * n * plans * each:,} evaluations, about {_duration(seconds)}."
        )

    def play(self, out: Path, *, video: bool) -> None:
        """Play what is missing, then show and draw everything."""
        from worldsim.runs.ledger import Ledger
        from worldsim.runs.lock import run_lock

        with run_lock(out):
            ledger = Ledger(out, self.identity)
            self._episodes(ledger)
            records = {p.where: ledger.records(p.where, len(self.episodes)) for p in self.places}
            drawn = self._pictures(records, out, video=video)
            self._report(records, out)
        console = Console()
        console.print(f"{out / 'plan.json'}, {', '.join(p.name for p in drawn)}", highlight=False, soft_wrap=True)

    def _episodes(self, ledger: "Ledger") -> None:
        """All episodes in all places, with a bar for each."""
        from worldsim.evaluate.closed_loop import Tell, play_all

        total = len(self.episodes) * self.world.spec.horizon
        with progress_bars() as progress:

            def tell(place: "Place") -> Tell:
                return lambda done: progress(f"steps in {place.name}", done, total, {})

            for place in self.places:
                play_all(
                    self.controller(),
                    self.world,
                    place,
                    episodes=self.episodes,
                    ledger=ledger,
                    batch=self.batch,
                    tell=tell(place),
                )

    def _pictures(self, records: "dict[str, list[Record]]", out: Path, *, video: bool) -> list[Path]:
        """The picture of the first episode in the truest place, and films."""
        from worldsim.evaluate.film import draw_plan, film, worth_filming

        place = self.places[-1]
        drawn = draw_plan(self.world, records[place.where][0], lambda watch: self.controller(watch=watch), out)
        for record in worth_filming(records[place.where]) if video else []:
            path = film(self.world, place, record, self.controller(), out)
            drawn += [path] if path is not None else []
        return drawn

    def _report(self, records: "dict[str, list[Record]]", out: Path) -> None:
        """`plan.json` and the table."""
        from worldsim import storage
        from worldsim.evaluate.closed_loop import summarise

        found = [summarise(p, records[p.where]) for p in self.places]
        short = ("where", "episode", "start", "key", "success", "final", "promised", "plan_ms", "evaluations")
        rows = [{k: r[k] for k in short} for p in self.places for r in records[p.where]]
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
        value = {"command": command, "settings": self.identity, "places": storage.to_json(found), "episodes": rows}
        storage.write_json(out / "plan.json", value)
        Console().print(_table(found), soft_wrap=True)


def _places(world: "LearnedWorld", name: str, where: str) -> "tuple[Place, ...]":
    """Where to play; the true environment last."""
    from worldsim.evaluate import loaders
    from worldsim.evaluate.closed_loop import Place

    there = loaders.has_simulator(world)
    if where == "simulator" and not there:
        raise InvalidInputError(
            f"World {name!r} has no simulator here (its task is {world.spec.task_id or 'unknown'!r}). Use --where world."
        )
    places = [Place(where="world", name=f"world {name}", plant=world)] if where != "simulator" else []
    if there and where != "world":
        places.append(Place(where="simulator", name="simulator", plant=loaders.simulator(world.spec.task_id)))
    return tuple(places)


def _goal(world: "LearnedWorld", path: Path) -> "LatentGoal":
    """The latent goal that a picture shows."""
    import io

    import numpy as np
    import torch
    from PIL import Image, UnidentifiedImageError

    from worldsim.evaluate.planner_refs import image_world
    from worldsim.planners.costs import image_goal

    if not image_world(world):
        raise InvalidInputError("This world begins from states and cannot read pictures. Plan in a world of pixels.")
    try:
        frame = np.asarray(Image.open(io.BytesIO(_read(path))).convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise InvalidInputError(f"{path} is no readable picture ({error}). Give a PNG.") from error
    return image_goal(world, torch.from_numpy(frame.copy()))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {os.strerror(error.errno or 0)}.") from error


def _table(found: "list[Summary]") -> Table:
    """One line per place."""
    table = Table(box=None)
    for name in ("where", "episodes", "success", "progress", "optimism", "ms/step", "evaluated"):
        table.add_column(name, justify="left" if name == "where" else "right", no_wrap=True)
    for s in found:
        optimism = "-" if s.optimism is None else f"{s.optimism:+.3f}"
        success = f"{100 * s.success:.1f}% \\[{100 * s.low:.0f}, {100 * s.high:.0f}]"
        numbers = (f"{s.progress:.3f}", optimism, f"{s.plan_ms:.1f}", f"{s.evaluations:,.0f}")
        table.add_row(s.name, str(s.episodes), success, *numbers)
    return table


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
