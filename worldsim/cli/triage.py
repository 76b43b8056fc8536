"""`worldsim triage`: rank checkpoints inside a world, print the leaderboard, write the report."""

import datetime
import functools
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from worldsim.cli.progress import advance, bars
from worldsim.errors import InvalidInputError, WorldsimError

if TYPE_CHECKING:
    from worldsim.evaluate.loaders import Judging
    from worldsim.triage.engine.bench import JudgeLoader
    from worldsim.triage.report import ReportData
    from worldsim.triage.request import TriageRequest
    from worldsim.triage.run import Arena
    from worldsim.worlds.latent import LearnedWorld


def triage(
    policies: Annotated[
        list[str] | None,
        typer.Argument(
            help="Policy folders, folders full of them, LeRobot runs, globs, module:function, planner:NAME?horizon=12. "
            "None: the shipped bank."
        ),
    ] = None,
    world: Annotated[str, typer.Option(help="World folder, or the name of a shipped world.")] = "push",
    k: Annotated[
        int | None, typer.Option(help="How many best are wanted. [default: 10, or a sixth of the policies]")
    ] = None,
    budget: Annotated[int | None, typer.Option(help="Rollouts in the world. [default: 40 per policy]")] = None,
    allocator: Annotated[str, typer.Option(help="halving, uniform, kl-lucb or thompson.")] = "halving",
    out: Annotated[Path, typer.Option(help="Run folder; the same command continues it.")] = Path("runs/triage"),
    judge: Annotated[
        str | None,
        typer.Option(help="A critic's folder, or 'reason' for the shipped one. [default: the world's own heads]"),
    ] = None,
    truth: Annotated[
        int | None, typer.Option(help="Paired simulator episodes per policy, 0 for none. [default: 12 where possible]")
    ] = None,
    roundtrip: Annotated[int, typer.Option(help="Simulator episodes per policy on encoded and decoded frames.")] = 0,
    videos: Annotated[int, typer.Option(help="Films of each kind in the report.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the episode table.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes. [default: one per core, at most 8]")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds after which a policy counts as hung.")] = 120.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the run will cost and can tell, and stop.")
    ] = False,
) -> None:
    """Rank policy checkpoints inside a learned world, with honest confidence.

    Without arguments it ranks the shipped bank in the shipped world:

        worldsim triage

    Your own: checkpoints of a training run, in a world you trained:

        worldsim triage outputs/train/run1 --world worlds/mine --k 10 --budget 20000 --out runs/mine
    """
    import torch

    from worldsim.evaluate import loaders
    from worldsim.triage.request import TriageRequest

    torch.set_num_threads(1)
    where = loaders.world_ref(world)
    refs = loaders.policy_refs(policies or [], world=where.source)
    judging = None if judge is None else loaders.judge_of(judge)
    request = TriageRequest(
        policies=refs,
        world=where,
        k=k or max(1, min(10, len(refs) // 6)),
        budget=budget or 40 * len(refs),
        allocator=allocator,
        seed=seed,
        workers=workers or min(8, os.cpu_count() or 1),
        timeout_s=timeout,
        judge="" if judging is None else judging.version,
        judge_rates=() if judging is None else judging.rates,
    )
    if dry_run:
        _foretell(request, judging)
    else:
        _rank(request, judging, out, truth=truth, roundtrip=roundtrip, videos=videos)


def _foretell(request: "TriageRequest", judging: "Judging | None") -> None:
    """Say what it will cost and can tell."""
    from worldsim.evaluate import loaders
    from worldsim.triage.estimate import forecast

    world = _world(request, judging)
    load_judge = None if judging is None else judging.load
    found = forecast(request, load_world=lambda: world, load_policy=loaders.policy_of, load_judge=load_judge)
    Console().print(str(found), highlight=False)


def _rank(
    request: "TriageRequest",
    judging: "Judging | None",
    out: Path,
    *,
    truth: int | None,
    roundtrip: int,
    videos: int,
) -> None:
    """Choose the arenas, run, and show what came out."""
    from worldsim.evaluate import loaders

    world = _world(request, judging)
    if truth is None:
        truth = 12 if loaders.has_simulator(world) else 0
    arenas = loaders.arenas(world, request.world, truth=min(truth, request.triage_episodes), roundtrip=roundtrip)
    show(_play(request, arenas, out, videos=videos, load_judge=None if judging is None else judging.load), out)


def _world(request: "TriageRequest", judging: "Judging | None") -> "LearnedWorld":
    """Load the world, and see that a judge can watch it."""
    from worldsim.evaluate.planner_refs import image_world
    from worldsim.worlds import load_world

    world = load_world(request.world.source)
    if judging is not None and not image_world(world):
        raise InvalidInputError(
            f"World {request.world.name!r} draws no pictures, and a critic watches them. Use a world of pixels."
        )
    return world


def _play(
    request: "TriageRequest", arenas: "list[Arena]", out: Path, *, videos: int, load_judge: "JudgeLoader | None" = None
) -> "ReportData":
    """Run it with progress bars, and film a few episodes."""
    from worldsim.evaluate import loaders
    from worldsim.triage.film import film
    from worldsim.triage.report import assemble, choose
    from worldsim.triage.run import Progress, run
    from worldsim.worlds import load_world

    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        os.environ.setdefault(name, str(10**9))  # glibc else returns memory after every kernel: workers run 1.5x slower
    load = functools.partial(load_world, request.world.source)
    with bars() as progress:

        def tell(news: Progress) -> None:
            note = f"crashed: {', '.join(news.crashed)}" if news.crashed else ""
            advance(progress, f"{news.kind} rollouts", done=news.done, total=news.planned, note=note)

        results = run(
            request,
            load_world=load,
            load_policy=loaders.policy_of,
            out=out,
            load_judge=load_judge,
            arenas=arenas,
            progress=tell,
        )
        clips, remarks = [], []
        try:
            pairs = choose(results.ranking, world=results.triage, truth=results.arenas.get("truth"), each=videos)
            real = next((a.load for a in arenas if a.kind == "truth"), None)
            if videos:
                clips = film(
                    results,
                    pairs,
                    load_world=load,
                    load_policy=loaders.policy_of,
                    load_truth=real,
                    load_judge=load_judge,
                )
        except WorldsimError as error:  # a state world draws nothing; the ranking stands
            remarks.append(f"Episodes could not be filmed: {error}")
    return assemble(results, command=_command(), made=_now(), core_s=_core_seconds(), clips=clips, remarks=remarks)


def show(data: "ReportData", out: Path) -> None:
    """Write the report, and print the leaderboard and how far the simulator agrees."""
    from worldsim.triage.report import write_report
    from worldsim.triage.report.leaderboard import leaderboard

    write_report(out / "report.html", data)
    console = Console()
    console.print(leaderboard(data.ranking), soft_wrap=True)
    for text in data.judging:
        console.print(text, highlight=False, soft_wrap=True, markup=False)
    for name in ("success", "progress"):
        agreement = getattr(data.truth, name, None)
        if agreement is not None:
            parts = "; ".join(str(agreement[n]) for n in ("pearson", "spearman", "mmrv"))
            console.print(f"Agreement with the simulator, {name}: {parts}", highlight=False, soft_wrap=True)
    console.print(f"Report: {out / 'report.html'}", highlight=False, soft_wrap=True)


def _command() -> str:
    return " ".join(["worldsim", *sys.argv[1:]])


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _core_seconds() -> float:
    """Processor time of this process and its finished children."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)
