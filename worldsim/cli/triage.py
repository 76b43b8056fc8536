"""`worldsim triage`: rank checkpoints inside a world, print the leaderboard, write the report."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldsim.cli.console import remark, say
from worldsim.cli.options import Device, DryRun, Dtype, Env, Imports, Seed, Success, Timeout, WorldName
from worldsim.limits import MAX_BUDGET, MAX_COUNT, MAX_WORKERS
from worldsim.text import command_text

if TYPE_CHECKING:
    from worldsim.triage.report import ReportData


def triage(
    policies: Annotated[
        list[str] | None,
        typer.Argument(
            help="Policy folders, folders full of them, LeRobot runs, globs, module:function, planner:NAME?horizon=12. "
            "None: the shipped bank."
        ),
    ] = None,
    world: WorldName = "push",
    k: Annotated[
        int | None,
        typer.Option(min=1, help="How many best are wanted. \\[default: a sixth of the policies, at most 10]"),
    ] = None,
    budget: Annotated[
        int | None, typer.Option(min=1, max=MAX_BUDGET, help="Rollouts in the world. \\[default: 40 per policy]")
    ] = None,
    allocator: Annotated[str, typer.Option(help="halving, uniform, kl-lucb or thompson.")] = "halving",
    out: Annotated[Path, typer.Option(help="Run folder; the same command continues it.")] = Path("runs/triage"),
    judge: Annotated[
        str | None,
        typer.Option(help="A critic's folder, or 'reason' for the shipped one. \\[default: the world's own heads]"),
    ] = None,
    truth: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MAX_BUDGET,
            help="Paired simulator episodes per policy, 0 for none. \\[default: 12 where possible]",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_COUNT,
            help="Actions that are played of each episode, in world and simulator. Beyond the horizon to which the world is valid "
            "(worldsim check WORLD) its outcomes are guesses. \\[default: to that horizon]",
        ),
    ] = None,
    env: Env = None,
    imports: Imports = None,
    success: Success = None,
    roundtrip: Annotated[
        int, typer.Option(min=0, max=MAX_BUDGET, help="Simulator episodes per policy on encoded and decoded frames.")
    ] = 0,
    videos: Annotated[int, typer.Option(min=0, max=100, help="Films of each kind in the report.")] = 2,
    seed: Seed = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, max=MAX_WORKERS, help="Processes. \\[default: one per core, at most 8]")
    ] = None,
    timeout: Timeout = 120.0,
    isolate: Annotated[
        bool, typer.Option("--isolate", help="Give every policy worker processes of its own, as code gets them anyway.")
    ] = False,
    retry_crashed: Annotated[
        bool, typer.Option("--retry-crashed", help="Try policies again that crashed in an earlier run of this folder.")
    ] = False,
    device: Device = "cpu",
    dtype: Dtype = "",
    dry_run: DryRun = False,
) -> None:
    """Rank policy checkpoints inside a learned world, with honest confidence.

    Without arguments it ranks the shipped bank in the shipped world:

        worldsim triage

    Your own: checkpoints of a training run, in a world you trained:

        worldsim triage outputs/train/run1 --world worlds/mine --k 10 --budget 20000 --out runs/mine

    With paired episodes in the true environment of a package of its own:

        worldsim triage outputs/train/run1 --world worlds/pusht --env gym_pusht:gym_pusht/PushT-v0 --truth 12
    """
    from worldsim.compute import one_thread
    from worldsim.evaluate.triage import prepare
    from worldsim.evaluate.true_env import TrueEnv
    from worldsim.progress import progress_bars

    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        os.environ.setdefault(name, str(10**9))  # glibc else returns memory after every kernel: workers run 1.5x slower
    with one_thread():
        job = prepare(
            policies or [],
            world=world,
            k=k,
            budget=budget,
            judge=judge,
            truth=truth,
            roundtrip=roundtrip,
            env=TrueEnv.from_options(env, imports=imports, success=success),
            steps=steps,
            workers=workers,
            device=device,
            dtype=dtype,
            allocator=allocator,
            seed=seed,
            timeout_s=timeout,
            isolate=isolate,
        )
        remark([*job.remarks, *filter(None, [job.warning])])
        if dry_run:
            say(str(job.estimate()))
            return
        with progress_bars() as progress:
            data = job.run(
                out,
                videos=videos,
                command=command_text(),
                progress=progress,
                retry_crashed=retry_crashed,
            )
        show_report(data, out)


def show_report(data: "ReportData", out: Path) -> None:
    """Write the report, and print the leaderboard, what it comes to, and how far world and simulator agree."""
    from rich.console import Console

    from worldsim.triage.report import write_report
    from worldsim.triage.report.conclusion import conclude
    from worldsim.triage.report.leaderboard import Leaderboard
    from worldsim.triage.report.trust import assess_reliance, describe_outside
    from worldsim.triage.report.words import same_everywhere

    write_report(out / "report.html", data)
    Console().print(Leaderboard(data.ranking), soft_wrap=True)
    concluded = conclude(data)
    say(concluded.title, style="bold")
    if concluded.missing:
        say(f"What is missing: {concluded.missing}")
    for text in filter(None, (*data.playing, *data.judging, describe_outside(data))):
        say(text)
    if data.validity is not None and (figures := data.validity.summary()):
        say(f"World {data.world} on held-out episodes: {figures}")
    for name in ("success", "progress"):
        agreement = getattr(data.truth, name, None)
        if agreement is not None:
            parts = "; ".join(str(agreement[n]) for n in ("pearson", "spearman", "mmrv", "bias"))
            if data.truth is not None and name == "success" and (alike := same_everywhere(data.truth)):
                parts = f"cannot be said: every policy solved {alike} on both sides"
            say(f"Agreement with the simulator, {name}: {parts}")
    for row in assess_reliance(data):
        if row.answer == "no":
            say(f"{row.claim}: no. {row.reason}")
    say(f"Report: {out / 'report.html'}")
