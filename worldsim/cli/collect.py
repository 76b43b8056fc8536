"""`worldsim collect`: record episodes into a LeRobotDataset v3, of any Gymnasium environment with pixels or of a world.

Behaviours that explore are recorded here, policies by `worldsim.cli.rollouts`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import torch
import typer
from rich.console import Console

from worldsim.cli.options import MAX_COUNT, MAX_EPISODES, MAX_IMAGE_PX, MAX_SEED
from worldsim.data.collect import record as recording
from worldsim.data.collect.env_adapter import EnvAdapter
from worldsim.data.collect.goal_exploration import varied_behaviours
from worldsim.data.collect.random_exploration import Behaviour
from worldsim.data.collect.rollouts import RolloutOptions
from worldsim.errors import InvalidInputError, unknown_name
from worldsim.evaluate.environments import ALIASES, MakeEnv
from worldsim.train.collection import push_behaviours, push_demonstrations

MIXTURES = ("auto", "push", "demonstrations", "general")


def collect(
    env: Annotated[
        str | None,
        typer.Option(help="push, a registered Gymnasium id, or module:function that makes one (default: push)."),
    ] = None,
    world: Annotated[
        str | None,
        typer.Option(help="Instead of an environment: a world folder or a shipped world, in which policies dream."),
    ] = None,
    simulator: Annotated[
        bool,
        typer.Option(
            "--simulator",
            help="With --world: play in the world's true environment, from the same starts and with the same noise, so "
            "that episode n pairs with episode n of the same command without this.",
        ),
    ] = False,
    episodes: Annotated[
        int, typer.Option(min=1, max=MAX_EPISODES, help="Episodes the dataset shall hold in the end.")
    ] = 200,
    out: Annotated[Path, typer.Option(help="Dataset folder; continued if it was begun by the same command.")] = Path(
        "data/push"
    ),
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Everything follows from it and the episode's number.")
    ] = 0,
    behaviours: Annotated[str, typer.Option(help=f"Who acts: {', '.join(MIXTURES)}.")] = "auto",
    policies: Annotated[
        list[str] | None,
        typer.Option(
            help="Policies act instead, in turn: bank (the shipped checkpoints), or what triage takes; repeatable. The "
            "environment's state must be restorable."
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_COUNT, help="With policies: episodes played together, always whole (default: about 128)."
        ),
    ] = None,
    camera: Annotated[
        list[str] | None, typer.Option(help="Which of several cameras, by name; repeatable (default: all).")
    ] = None,
    image_px: Annotated[
        int | None, typer.Option(min=1, max=MAX_IMAGE_PX, help="Side to which frames are resized.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_COUNT, help="Longest episode; needed where the environment has no limit."),
    ] = None,
    video: Annotated[bool, typer.Option(help="Store mp4 instead of lossless pictures.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Try a few episodes and say what the rest would cost.")
    ] = False,
) -> None:
    """Record episodes: failures, noise and contact included, each durable on its own.

    What a world is trained on, by behaviours that explore:

        worldsim collect --env push --episodes 1800 --out data/push

    What a critic is trained on, by policies, in the true environment and in a learned world:

        worldsim collect --env push --policies bank --episodes 1600 --out data/rollouts

        worldsim collect --world push --policies bank --episodes 1600 --out data/dreams

    A dreamed dataset says so. Its frames, the first included, are the world's drawings, success and progress are what
    its heads say, and it holds no true state.

    Next step: worldsim train world data=OUT out=worlds/NAME, or worldsim train reason-sft data=[OUT,OUT2] out=critics/NAME
    """
    torch.set_num_threads(1)
    console = Console()
    options = recording.RecordingOptions(
        cameras=tuple(camera) if camera else None, image_px=image_px, steps=steps, video=video
    )
    if policies or world:
        _refuse(
            {
                "--env and --world": bool(env and world),
                "--simulator without --world": simulator and not world,
                "--behaviours with policies": behaviours != "auto",
                "--camera and --image-px with policies": bool(camera or image_px),
            }
        )
        from worldsim.cli import rollouts

        rollout_options = RolloutOptions(seed=seed, steps=steps, batch=batch, video=video)
        acting = policies or ["bank"]
        if world:
            scene = rollouts.in_world(world, acting, simulator=simulator, options=rollout_options)
        else:
            name = ALIASES.get(env or "push", env or "push")
            scene = rollouts.in_environment(MakeEnv(name), acting, name=name, options=rollout_options)
        scene.record(console, episodes=episodes, out=out, dry_run=dry_run)
        return
    _refuse({"--simulator without --world": simulator, "--batch without policies": batch is not None})
    _explore(console, env or "push", behaviours, options, episodes=episodes, out=out, seed=seed, dry_run=dry_run)


def _refuse(mistakes: Mapping[str, bool]) -> None:
    """Options that do not go together are named, never ignored."""
    made = [name for name, mistaken in mistakes.items() if mistaken]
    if made:
        raise InvalidInputError(f"These options do not go together: {'; '.join(made)}. See worldsim collect --help.")


def _explore(
    console: Console,
    env: str,
    behaviours: str,
    options: recording.RecordingOptions,
    *,
    episodes: int,
    out: Path,
    seed: int,
    dry_run: bool,
) -> None:
    """Record behaviours."""
    make = MakeEnv(env)
    mixture = _mixture(behaviours, env, make, options.cameras)
    if dry_run:
        cost = recording.estimate_collect(make, mixture, episodes=episodes, seed=seed, options=options)
        console.print(
            f"{episodes} episodes: {cost.frames} frames, {cost.bytes / 1e6:.0f} MB, about {cost.seconds:.0f} core-seconds."
        )
        return
    made = recording.collect(make, mixture, episodes=episodes, out=out, seed=seed, options=options)
    console.print(
        f"{made.episodes} episodes, {made.frames} frames, {made.solved:.0%} solved, in {out}", highlight=False
    )
    console.print(f"Next: worldsim train world data={out} out=worlds/{out.name}", highlight=False)


def _mixture(
    name: str, env: str, make: Callable[[], gymnasium.Env[Any, Any]], cameras: tuple[str, ...] | None
) -> tuple[Behaviour, ...]:
    """The behaviours of a name; ``auto`` takes the task's own where worldsim knows it."""
    if name not in MIXTURES:
        raise unknown_name("mixture of behaviours", name, MIXTURES)
    if name == "auto":
        name = "push" if ALIASES.get(env, env) == ALIASES["push"] else "general"
    trial = make()
    try:
        adapter = EnvAdapter(trial, cameras=cameras)
        if name == "demonstrations":
            return push_demonstrations(adapter.action)
        if name == "push":
            return push_behaviours(adapter.action)
        return varied_behaviours(adapter.action, camera=adapter.main_camera())
    finally:
        trial.close()
