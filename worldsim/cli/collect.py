"""`worldsim collect`: record episodes into a LeRobotDataset v3, of any Gymnasium environment with pixels or of a world."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldsim.cli.console import remark, say
from worldsim.cli.options import Device, DryRun, Dtype, Env, Imports, Seed, Success, Timeout
from worldsim.errors import InvalidInputError
from worldsim.limits import MAX_COUNT, MAX_EPISODES, MAX_IMAGE_PX
from worldsim.progress import progress_bars

if TYPE_CHECKING:
    from worldsim.data.collect.fill import RecordingCost, RecordingSummary
    from worldsim.data.collect.pictures import ImageSize
    from worldsim.data.collect.record import RecordingOptions
    from worldsim.evaluate.environments import MakeEnv
    from worldsim.evaluate.recording import PolicyRecording
    from worldsim.evaluate.true_env import TrueEnv


def collect(
    env: Env = None,
    imports: Imports = None,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="DATASET",
            help="More data like this, with more contact: its own actions replayed in its environment, mixed and in part at random.",
        ),
    ] = None,
    world: Annotated[
        str | None,
        typer.Option(help="Instead of an environment: a world folder or a shipped world, in which policies act."),
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
    out: Annotated[
        Path | None,
        typer.Option(
            help="Dataset folder; continued if it was begun by the same command. \\[default: data/push; with --like: DATASET-more]",
            show_default=False,
        ),
    ] = None,
    seed: Seed = 0,
    behaviours: Annotated[str, typer.Option(help="Who acts: auto, push, demonstrations, general.")] = "auto",
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
            min=1,
            max=MAX_COUNT,
            help="With policies: episodes played together, always complete batches (default: about 128).",
        ),
    ] = None,
    camera: Annotated[
        list[str] | None, typer.Option(help="Which of several cameras, by name; repeatable (default: all).")
    ] = None,
    image_px: Annotated[
        str | None,
        typer.Option(
            metavar="N or HxW",
            help="Size into which frames are scaled; their aspect is kept, and what is missing is black.",
        ),
    ] = None,
    success: Success = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_COUNT,
            help="Longest episode (default: the environment's limit, else 1000; with --like: the dataset's).",
        ),
    ] = None,
    timeout: Timeout = 300.0,
    video: Annotated[bool, typer.Option(help="Store mp4 instead of lossless pictures.")] = False,
    device: Device = "cpu",
    dtype: Dtype = "",
    dry_run: DryRun = False,
) -> None:
    r"""Record episodes: failures, noise and contact included, each durable on its own.

    What a world is trained on, by behaviours that explore:

        worldsim collect --env push --episodes 1800 --out data/push

    What a critic is trained on, by policies, in the true environment and in a learned world:

        worldsim collect --env push --policies bank --episodes 1600 --out data/rollouts

        worldsim collect --world push --policies bank --episodes 1600 --out data/dreams

    More of what a dataset is short of, where worldsim inspect or worldsim train world says that things hardly move in it:

        worldsim collect --like data/push --episodes 400 --out data/more

    It begins as the dataset's own episodes did and replays their actions, exactly until something moves; then it changes at random
    times to those of other episodes in which things are about to move, and acts at random in a tenth of the steps. Contact rises
    where exploring was random, and falls where policies sought it. Afterwards it says how the share of contact and the range of the
    actions changed. Episodes that training holds out are not replayed; train on both, the old one first:
    worldsim train world data=\[data/push,data/more] out=worlds/push

    A dreamed dataset says so. Its frames, the first included, are the world's drawings, success and progress are what
    its heads say, and it holds no true state.

    Next step: worldsim train world data=OUT out=worlds/NAME, or worldsim train reason-sft data=\[OUT,OUT2] out=critics/NAME
    """
    from worldsim.compute import one_thread
    from worldsim.data.collect.rollouts import RolloutOptions
    from worldsim.evaluate.environments import MakeEnv
    from worldsim.evaluate.policies import SHIPPED
    from worldsim.evaluate.recording import policies_in_environment, policies_in_world
    from worldsim.evaluate.true_env import TrueEnv

    acting, there = policies or [SHIPPED][: bool(world)], TrueEnv.from_options(env, imports=imports, success=success)
    make = MakeEnv("push" if world else env or "push", imports=() if world else imports or ())
    recordings = _recordings(make, camera, image_px, success, steps=steps, video=video, timeout_s=timeout)
    rollouts = RolloutOptions(seed=seed, steps=steps, batch=batch, video=video)
    _check(
        {
            "--simulator without --world": simulator and not world,
            "--behaviours with policies": bool(acting) and behaviours != "auto",
            "--env, --import and --success with --world, without --simulator": bool(world and not simulator and there),
            "--camera and --image-px with --world": bool(world) and bool(camera or image_px),
            "--like with --world, --policies, --behaviours, --camera or --image-px": bool(like)
            and bool(acting or camera or image_px or behaviours != "auto"),
            "--batch without policies": not acting and batch is not None,
            "--device and --dtype without policies": not acting and (device != "cpu" or bool(dtype)),
        }
    )
    out = out or (Path(f"{Path(like)}-more") if like and "://" not in like else Path("data/push"))
    with one_thread():
        if like:
            return _extend(like, there, recordings, episodes=episodes, out=out, seed=seed, dry_run=dry_run)
        if not acting:
            return _explore(make, behaviours, recordings, episodes=episodes, out=out, seed=seed, dry_run=dry_run)
        kind = {"device": device, "dtype": dtype}
        if world:
            job = policies_in_world(world, acting, simulator=simulator, options=rollouts, env=there, **kind)
        else:
            job = policies_in_environment(make, acting, options=rollouts, view=recordings.view, **kind)
        _record_policies(job, out, episodes=episodes, dry_run=dry_run)


def _recordings(
    make: "MakeEnv",
    camera: list[str] | None,
    image_px: str | None,
    success: str | None,
    *,
    steps: int | None,
    video: bool,
    timeout_s: float,
) -> "RecordingOptions":
    """How an environment is recorded."""
    from worldsim.data.collect.record import RecordingOptions
    from worldsim.data.collect.success import success_rule

    return RecordingOptions(
        cameras=tuple(camera) if camera else None,
        image_px=None if image_px is None else image_size(image_px),
        steps=steps,
        video=video,
        success=None if success is None else success_rule(success),
        timeout_s=timeout_s,
        env=make.name,
    )


def _record_policies(job: "PolicyRecording", out: Path, *, episodes: int, dry_run: bool) -> None:
    """Record policies, or say what it would cost."""
    remark(job.remarks)
    if dry_run:
        _say_cost(f"{episodes} episodes of {len(job.policies)} policies", job.estimate(episodes=episodes))
        return
    with progress_bars() as progress:
        made = job.run(out, episodes=episodes, progress=progress)
    say(
        f"{made.episodes} episodes of {len(made.behaviours)} policies, {made.frames} frames, {_solved(made)}, in "
        f"{out}\nNext: worldsim train world data={out} out=worlds/{out.name}, or worldsim train reason-sft data={out} "
        f"out=critics/{out.name}"
    )


def _check(mistakes: Mapping[str, bool]) -> None:
    """Options that do not go together are named, never ignored."""
    made = [name for name, mistaken in mistakes.items() if mistaken]
    if made:
        raise InvalidInputError(f"These options do not go together: {'; '.join(made)}. See worldsim collect --help.")


def _explore(
    make: "MakeEnv",
    behaviours: str,
    options: "RecordingOptions",
    *,
    episodes: int,
    out: Path,
    seed: int,
    dry_run: bool,
) -> None:
    """Record behaviours that explore."""
    from worldsim.data.collect import record as recording
    from worldsim.evaluate.behaviours import named_behaviours

    mixture = named_behaviours(behaviours, make, cameras=options.cameras)
    if dry_run:
        cost = recording.estimate_collect(make, mixture, episodes=episodes, seed=seed, options=options)
        _say_cost(f"{episodes} episodes", cost)
        return
    with progress_bars() as progress:
        made = recording.collect(
            make, mixture, episodes=episodes, out=out, seed=seed, options=options, progress=progress
        )
    say(
        f"Read as {made.read_as}\n{made.episodes} episodes, {made.frames} frames, {_solved(made)}, in {out}\n"
        f"Next: worldsim train world data={out} out=worlds/{out.name}"
    )


def _extend(
    like: str,
    named: "TrueEnv | None",
    options: "RecordingOptions",
    *,
    episodes: int,
    out: Path,
    seed: int,
    dry_run: bool,
) -> None:
    """Record more like a dataset, and say how the data changed."""
    from worldsim.evaluate.extension import compare_data, prepare_extension

    job = prepare_extension(like, named=named, options=options)
    remark(job.remarks)
    if dry_run:
        _say_cost(f"{episodes} episodes", job.estimate(episodes=episodes, seed=seed))
        return
    with progress_bars() as progress:
        made = job.run(out, episodes=episodes, seed=seed, progress=progress)
    say(
        f"{made.episodes} episodes, {made.frames} frames, {_solved(made)}, in {out}\n{compare_data(like, out)}\n"
        f"Next: worldsim train world data=[{like},{out}] out=worlds/{out.name}"
    )


def _solved(made: "RecordingSummary") -> str:
    if not math.isnan(made.solved):
        return f"{made.solved:.0%} solved"
    return 'success unknown (say when it is solved with --success "info.NAME > NUMBER" or --success module:function)'


def image_size(text: str | int) -> "ImageSize":
    """Read ``64`` or ``48x64``, px.

    Raises:
        InvalidInputError: It is neither, or out of range.
    """
    parts = str(text).lower().split("x")
    sides = [int(part) if part.isdecimal() else 0 for part in parts]
    if len(sides) > 2 or not all(1 <= side <= MAX_IMAGE_PX for side in sides):
        raise InvalidInputError(f"--image-px takes N or HEIGHTxWIDTH, each 1 to {MAX_IMAGE_PX}; got {text!r}.")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _say_cost(what: str, cost: "RecordingCost") -> None:
    say(f"{what}: {cost.frames} frames, {cost.bytes / 1e6:.0f} MB, about {cost.seconds:.0f} core-seconds.")
