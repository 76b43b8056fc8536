"""Control from pixels by planning in a learned world of a third-party scene, against a scripted controller that sees true states.

    python -m benchmarks.any_plan fetch_push --data data/fetch_push --world worlds/fetch_push       # extra `scenes`
    python -m benchmarks.any_plan pusht --data data/pusht --world worlds/pusht

In the simulator, from the same starts: what FetchPush's cube has gone of 10 cm along y, how much of its goal PushT's T covers.
The planner sees frames and proprioception; where the thing will be is read off the world's latents (`benchmarks.scene_places`).
What a plan promises is the final progress that the members of the world's ensemble expect of it; plans of two moments of every
episode are carried out to their end in the simulator, without looking, for what they give.

Shape legend: B episodes, N candidates, T steps, K points, A action, D latent channels.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.record import Figure, run, write
from benchmarks.scene_arms import FetchPush
from benchmarks.scene_base import PLACE, Scene
from benchmarks.scene_checkpoints import teacher
from benchmarks.scene_places import PlaceHeads, read_places
from benchmarks.scene_policies import WAYS_RAD
from benchmarks.scenes import PushT
from benchmarks.third_party_policies import pusht
from worldsim.core import STATE, TRUE_STATE, Rollout, WorldState
from worldsim.data.lerobot.join import open_datasets
from worldsim.envs.simulator import SimulatorWorld
from worldsim.planners import MPC, EnsembleCheck, make_planner, world_objective
from worldsim.planners.objective import StepCost, unrolled
from worldsim.policies.function import FunctionPolicy
from worldsim.protocols import Policy, observe
from worldsim.tokenizers.structured.tokenizer import NOWHERE
from worldsim.train.recipes.settings import split_episodes
from worldsim.worlds import load_world
from worldsim.worlds.latent import LatentWorld

FIRST_SEED = 2 * 10**6
"""Of the episodes: none that a world learned from."""
PLANNER = {"horizon": 8, "samples": 64, "iterations": 2}
REPEAT, MOMENTS, BATCH = 3, (0, 15), 10
_BEHIND_M, _LOW_M, _CLEAR_M = 0.06, 0.425, 0.09
"""Where the gripper is to be: so far behind the cube, so low, and where it is not behind it, so much higher."""
_GOAL_PX, _GOAL_RAD = 256.0, torch.pi / 4
_BARS = ((-60.0, 0.0, 60.0, 30.0), (-15.0, 30.0, 15.0, 120.0))
"""The T's two rectangles in its own frame: left, top, right, bottom, px."""


class CoveredPushT(PushT):
    """PushT as its package means it: progress is how much of its goal the T covers."""

    def _done(self) -> float:
        return float(self._env._get_coverage())


class ShiftHeads(PlaceHeads):
    """Nothing is done, as far as is known, where the thing was not seen: then and at the beginning."""

    def done(self, z_BCHW: Tensor, start_BCHW: Tensor) -> Tensor:
        """How much of the task is done, [B]."""
        seen = [self.layout.split(z[..., 0, 0]).seen[:, self.thing] > NOWHERE for z in (z_BCHW, start_BCHW)]
        return super().done(z_BCHW, start_BCHW) * (seen[0] & seen[1])


class CoverHeads(PlaceHeads):
    """Progress is how much of its goal the T covers."""

    def done(self, z_BCHW: Tensor, start_BCHW: Tensor) -> Tensor:
        """Share [B] of the goal's points that lie in the T."""
        return covered(self.place(z_BCHW), self.angle_rad(z_BCHW))


def covered(place: Tensor, angle: Tensor) -> Tensor:
    """Share [...] of PushT's goal that a T at a place [..., 2], px, and an angle [...], rad, covers."""
    grid = torch.cartesian_prod(torch.arange(-57.5, 60, 5), torch.arange(2.5, 120, 5)).to(place)
    points = grid[_inside(grid)]
    turn = _turned(points, place.new_tensor(_GOAL_RAD)) + _GOAL_PX  # [K, 2], the goal's points in the frame
    away = turn - place[..., None, :]
    return _inside(_turned(away, -angle[..., None])).to(place).mean(-1)


def _inside(points: Tensor) -> Tensor:
    """Whether points [..., 2] of the T's own frame lie in it."""
    x, y = points.unbind(-1)
    return torch.stack(
        [(x >= left) & (x <= right) & (y >= top) & (y <= bottom) for left, top, right, bottom in _BARS]
    ).any(0)


def _turned(points: Tensor, angle: Tensor) -> Tensor:
    """Points [..., 2] turned by angles [...]."""
    x, y = points.unbind(-1)
    return torch.stack([angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y], -1)


@dataclasses.dataclass(frozen=True)
class FetchCost:
    """Progress that is missing, how far the cube is along its way, and how far the gripper is from where it can push."""

    heads: PlaceHeads

    def __call__(self, futures: Rollout, actions: Tensor) -> Tensor:
        """[B, N, T]."""
        place, tip = self.heads.place(futures.latent), futures.proprio[..., :3]
        rad = torch.tensor(WAYS_RAD["fetch_push"])
        way = torch.stack([rad.cos(), rad.sin()]).to(place)
        gap = (place - _BEHIND_M * way - tip[..., :2]).norm(dim=-1)
        height = _LOW_M + (2 * (gap - 0.03)).clamp(0, _CLEAR_M)
        return 1 - futures.progress - place @ way + 3 * gap + 3 * (tip[..., 2] - height).abs()


@dataclasses.dataclass(frozen=True)
class CoverCost:
    """How far the corners of the T are from those of its goal, and the disc from the T."""

    heads: PlaceHeads

    def __call__(self, futures: Rollout, actions: Tensor) -> Tensor:
        """[B, N, T]."""
        place, angle = self.heads.place(futures.latent), self.heads.angle_rad(futures.latent)
        corners = place.new_tensor([[-60, 0], [60, 0], [-15, 120], [15, 120]])
        goal = _turned(corners, place.new_tensor(_GOAL_RAD)) + _GOAL_PX
        off = (_turned(corners, angle[..., None]) + place[..., None, :] - goal).norm(dim=-1).mean(-1)
        middle = place + _turned(place.new_tensor([0.0, 45.0]), angle)
        return off / 100 + (futures.proprio[..., :2] - middle).norm(dim=-1) / 2000


def _script_pusht() -> Policy:
    """The controller of `benchmarks.third_party_policies`."""

    def act(observation: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        disc, true = observation[STATE][:, :2], observation[TRUE_STATE]
        angle = np.arctan2(true[:, 3], true[:, 2])[:, None]
        return pusht(np.concatenate([disc, true[:, PLACE][:, :2], angle], 1).astype(np.float64))

    return FunctionPolicy(act, name="pusht", needs=(STATE, TRUE_STATE))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A task of a scene.

    Attributes:
        env: Makes its environment of frames of this side, px.
        steps: Actions in an episode.
        script: Makes the scripted controller.
        heads: That read it.
        cost: What a search minimises.
    """

    env: Callable[[int], Scene]
    steps: int
    script: Callable[[], Policy]
    heads: type[PlaceHeads]
    cost: Callable[[PlaceHeads], StepCost]


TASKS = {
    "fetch_push": Task(
        env=FetchPush,
        steps=50,
        script=functools.partial(teacher, "fetch_push", "straight"),
        heads=ShiftHeads,
        cost=FetchCost,
    ),
    "pusht": Task(env=CoveredPushT, steps=60, script=_script_pusht, heads=CoverHeads, cost=CoverCost),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Driven:
    """What came of episodes."""

    progress: Tensor  # [B], after the last action
    success: Tensor  # [B]
    promised: Tensor  # [B, moments], by plans of the moments; empty for a controller that plans nothing
    given: Tensor  # [B, moments]


def drive(policy: Policy, sim: SimulatorWorld, seeds: Tensor, *, steps: int) -> Driven:
    """Play episodes of these seeds, and carry out plans of some moments without looking."""
    seen = dict(sim.starts(seeds))
    state: WorldState = sim.reset(seen, seeds)
    carry, plans = policy.initial(len(seeds)), list[Tensor]()
    for t in range(steps):
        action, carry = policy.act({k: seen[k] for k in policy.needs}, carry, seeds * 1000 + t)
        if t in MOMENTS and isinstance(policy, MPC):
            plans.append(promised_and_given(policy, carry, sim, state))
        state, step = sim.step(state, action)
        seen = observe(sim, step, frozenset(policy.needs))
    both = torch.stack(plans, 1) if plans else torch.empty(len(seeds), 0, 2)
    return Driven(progress=step.progress, success=step.success, promised=both[..., 0], given=both[..., 1])


def promised_and_given(mpc: MPC, carry: Any, sim: SimulatorWorld, state: WorldState) -> Tensor:
    """Final progress of plans just made, [B, 2]: expected by the members, and true."""
    actions = unrolled(carry.plan.actions, repeat=mpc.repeat)
    expected = EnsembleCheck.of(mpc.world).expected_progress(carry.belief, actions)[:, -1]
    return torch.stack([expected, sim.rollout(state, actions)[1].progress[:, -1]], 1)


def planner(task: Task, world: LatentWorld, caution: float) -> MPC:
    """Planning in the world, its finalists ranked at a price for what the members disagree about."""
    assert isinstance(world.heads, PlaceHeads)
    cost, check = task.cost(world.heads), EnsembleCheck.of(world)
    return MPC(
        make_planner("weighted", **PLANNER),
        world,
        objective=lambda w, s: world_objective(w, s, cost, repeat=REPEAT),
        repeat=REPEAT,
        rerank=(lambda w, s: check.objective(s, cost, weight=caution, repeat=REPEAT)) if caution else None,
    )


def joined(parts: Sequence[Driven]) -> Driven:
    """All episodes of several batches."""
    return Driven(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(Driven)})


def main(
    scene: Annotated[str, typer.Argument(help=f"One of {', '.join(TASKS)}.")],
    data: Annotated[Path, typer.Option(help="What the world was trained on.")],
    world: Annotated[Path, typer.Option(help="World folder.")],
    episodes: Annotated[int, typer.Option(help="Starts.")] = 100,
    caution: Annotated[float, typer.Option(help="Weight of the members' disagreement among the finalists.")] = 1.0,
    record: Annotated[bool, typer.Option(help="Write benchmarks/results/any_plan_SCENE.json.")] = True,
) -> None:
    """Drive the simulator by plans and by the script, and compare."""
    torch.set_num_threads(1)
    task, loaded, dataset = TASKS[scene], load_world(world), open_datasets(str(data))
    assert isinstance(loaded, LatentWorld)
    reading = read_places(loaded, scene, dataset, split_episodes(dataset)[0], task.heads)
    side = loaded.spec.cameras[0].height
    sim = SimulatorWorld(
        functools.partial(task.env, side), horizon=task.steps + PLANNER["horizon"] * REPEAT, seeded=True
    )
    found = {}
    for name, policy in (("script", task.script()), ("planner", planner(task, reading, caution))):
        began, parts = time.process_time(), list[Driven]()
        for seeds in torch.arange(FIRST_SEED, FIRST_SEED + episodes).split(BATCH):
            parts.append(drive(policy, sim, seeds, steps=task.steps))
            done = joined(parts)
            print(name, len(done.progress), f"progress {done.progress.mean():.3f}", f"success {done.success.mean():.3f}",
                  f"optimism {(done.promised - done.given).mean():.3f}", flush=True)  # fmt: skip
        found[name] = joined(parts), time.process_time() - began
    view = in_view(task.env(side), range(FIRST_SEED, FIRST_SEED + episodes))
    figures = figures_of(scene, {name: driven for name, (driven, _) in found.items()}, view)
    figures += [Figure(name=f"{scene}: {n}, core-seconds", value=s, unit="core-s") for n, (_, s) in found.items()]
    details = {
        name: {"progress": [round(float(v), 3) for v in driven.progress], "seeds_from": FIRST_SEED}
        for name, (driven, _) in found.items()
    }
    print(*(f"{f.name}: {f.value}" for f in figures), sep="\n")
    if record:
        write(
            f"any_plan_{scene}",
            module="any_plan",
            figures=figures,
            seeds=[FIRST_SEED],
            details={**details, **PLANNER, "repeat": REPEAT},
        )


def in_view(env: Scene, seeds: Sequence[int]) -> Tensor:
    """Whether the thing is to be seen when the episodes of these seeds begin, bool [B]."""
    shown = []
    for seed in seeds:
        env.reset(seed=seed)
        shown.append(env.thing_in_view())
    return torch.tensor(shown)


def figures_of(scene: str, found: dict[str, Driven], view: Tensor) -> list[Figure]:
    """What came of planning, of the script, and how much plans promised beyond what they gave: all starts, then those hidden.

    Args:
        scene: Its name.
        found: Episodes of the planner and of the script.
        view: Whether the thing is in view at the beginning, bool [B].
    """
    plan, script = found["planner"], found["script"]
    over = plan.promised - plan.given
    figures = [
        Figure(name=f"{scene}: starts", value=len(view)),
        Figure(name=f"{scene}: hidden", value=int((~view).sum())),
    ]
    for what in ("progress", "success"):
        said, scripted = getattr(plan, what), getattr(script, what)
        figures += [
            Figure(name=f"{scene}: final {what}, planner", value=float(said.mean())),
            Figure(name=f"{scene}: final {what}, script", value=float(scripted.mean())),
        ]
        if scripted.mean() > 0:
            ratio = float(said.mean() / scripted.mean())
            figures.append(Figure(name=f"{scene}: final {what}, planner over script", value=ratio))
        if not view.all():
            figures.append(Figure(name=f"{scene}: hidden, final {what}, planner", value=float(said[~view].mean())))
    figures.append(Figure(name=f"{scene}: optimism", value=float(over.mean())))
    for t, moment in zip(MOMENTS, over.unbind(1), strict=True):
        figures.append(Figure(name=f"{scene}: optimism of plans at step {t}", value=float(moment.mean())))
    return figures


if __name__ == "__main__":
    run(main)
