"""`worldsim plan`: a planner acts, in the world it plans in and in the true environment, on the same starts."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from worldsim.cli.console import remark, say, show
from worldsim.cli.options import Device, DryRun, Dtype, Env, Imports, Seed, Success, WorldName
from worldsim.limits import MAX_COUNT
from worldsim.text import command_text, printable

if TYPE_CHECKING:
    from worldsim.evaluate.play import Summary


def plan(
    world: WorldName = "push",
    env: Env = None,
    imports: Imports = None,
    success: Success = None,
    planner: Annotated[str, typer.Option(help="weighted, hybrid, cem, icem, mppi, gradient, ...")] = "weighted",
    episodes: Annotated[
        int, typer.Option(min=1, max=MAX_COUNT, help="Episodes in each place; may grow when the command is repeated.")
    ] = 20,
    horizon: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Actions in a plan.")] = 16,
    repeat: Annotated[
        int, typer.Option(min=1, max=MAX_COUNT, help="Control steps for which each planned action is held.")
    ] = 2,
    samples: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Candidates per iteration.")] = 64,
    iterations: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Iterations per plan.")] = 3,
    receding: Annotated[
        int, typer.Option(min=1, max=MAX_COUNT, help="Planned actions executed before planning again.")
    ] = 1,
    cost: Annotated[str | None, typer.Option(help="progress, success or goal. \\[default: progress, or goal]")] = None,
    goal: Annotated[Path | None, typer.Option(help="Picture of the goal, for the cost 'goal'.")] = None,
    risk: Annotated[
        float, typer.Option(help="Weight of the world's uncertainty in the cost: 2 keeps promises, 0 gets more done.")
    ] = 0.0,
    judge: Annotated[
        str, typer.Option(help="A critic's folder, or 'reason': futures also cost what it finds missing to success.")
    ] = "",
    caution: Annotated[
        float,
        typer.Option(help="Weight of what the world's members disagree about, to rank the best plans again."),
    ] = 0.0,
    seed: Seed = 0,
    deadline_ms: Annotated[
        float | None, typer.Option(help="Time for one plan; episodes are then played one by one.")
    ] = None,
    where: Annotated[str, typer.Option(help="world, simulator, or both where there is one.")] = "both",
    video: Annotated[
        bool,
        typer.Option(
            help="Film a few episodes, beside what the plans imagined where the world, or its environment, can draw it."
        ),
    ] = False,
    out: Annotated[Path, typer.Option(help="Run folder; the same command continues it.")] = Path("runs/plan"),
    device: Device = "cpu",
    dtype: Dtype = "",
    dry_run: DryRun = False,
) -> None:
    """Plan inside a learned world, act, and compare what was promised with what came.

        worldsim plan --world push_state --episodes 20 --video --out runs/plan

    A planner may exploit the errors of the world it plans in: trust the true environment's line of the table.
    """
    from worldsim.compute import one_thread
    from worldsim.evaluate.closed_loop import prepare
    from worldsim.evaluate.planner_refs import PlannerSettings
    from worldsim.evaluate.true_env import TrueEnv
    from worldsim.progress import progress_bars

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
    with one_thread():
        job = prepare(
            world,
            settings,
            episodes=episodes,
            where=where,
            goal=goal,
            seed=seed,
            deadline_ms=deadline_ms,
            env=TrueEnv.from_options(env, imports=imports, success=success),
            device=device,
            dtype=dtype,
        )
        remark(job.remarks)
        if dry_run:
            say(job.estimate())
            return
        with progress_bars() as progress:
            made = job.run(out, video=video, command=command_text(), progress=progress)
    show(_table(made.places))
    say(f"{made.files[0]}{''.join(f', {p.name}' for p in made.files[1:])}")


def _table(places: "Sequence[Summary]") -> Table:
    """One line per place."""
    table = Table(box=None)
    for name in ("where", "episodes", "success", "progress", "optimism", "ms/step", "evaluated"):
        table.add_column(name, justify="left" if name == "where" else "right", no_wrap=True)
    for s in places:
        optimism = "-" if s.optimism is None else f"{s.optimism:+.3f}"
        success = f"{100 * s.success:.1f}% \\[{100 * s.low:.0f}, {100 * s.high:.0f}]"
        numbers = (f"{s.progress:.3f}", optimism, f"{s.plan_ms:.1f}", f"{s.evaluations:,.0f}")
        table.add_row(escape(printable(s.name)), str(s.episodes), success, *numbers)
    return table
