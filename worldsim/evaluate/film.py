"""Pictures and films of episodes that were played: replayed from their recorded actions, so nothing is searched twice.

Only the first plan is made again, for its candidates.

Shape legend: T steps, H W image.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import gymnasium
import numpy as np
import torch
from torch import Tensor

from worldsim import storage
from worldsim.core import IMAGE, STATE, TASK, Observation, Rollout, WorldStep, is_image
from worldsim.evaluate.environments import frame_extent
from worldsim.evaluate.planner_refs import image_world
from worldsim.evaluate.play import Place
from worldsim.planners.mpc import MPC
from worldsim.planners.objective import Objective
from worldsim.planners.plot import Backdrop, Futures, Ride, Witness, imagine, plan_picture
from worldsim.planners.world_objective import predict_rollout
from worldsim.protocols import World, observe, require_drawable
from worldsim.rollout import policy_keys
from worldsim.runs import Record
from worldsim.video import Frames, side_by_side, write_mp4
from worldsim.worlds.latent import LatentWorld, LearnedWorld

FILMED = 4
_PANE_PX = 256
Make = Callable[[Callable[[Objective], Objective]], MPC]
"""Makes the controller around watched objectives."""


def draw_plan(world: LearnedWorld, record: Record, make: Make, out: Path) -> list[Path]:
    """Draw an episode's first plan, its search and what came of it, as ``plan.png`` and ``plan.svg``."""
    witnesses: list[Witness] = []

    def watch(objective: Objective) -> Objective:
        witnesses.append(Witness(objective))
        return witnesses[-1]

    controller, (first, keys_t) = make(watch), _begin(world, record)
    _, carry = controller.act({k: first[k] for k in controller.needs}, controller.initial(1), keys_t[0])
    plan, belief = carry.plan, carry.belief
    assert plan is not None
    assert belief is not None
    actions, cost = witnesses[0].candidates()
    in_plane = frame_extent(world.spec.task_id) is not None
    futures, chosen = (
        imagine(world, belief, a, c, repeat=controller.repeat, block=controller.block, in_plane=in_plane)
        for a, c in ((actions, cost), (plan.actions, plan.cost))
    )
    ride = Ride(
        real=torch.tensor(record["progress"]),
        promised=[(d["step"], torch.tensor(d["progress"])) for d in record["dreams"]],
    )
    drawn = []
    for kind in ("png", "svg"):
        backdrop = _backdrop(world, first, futures)
        rate_hz = world.spec.action.rate_hz
        data = plan_picture(plan, futures, chosen, ride, backdrop=backdrop, rate_hz=rate_hz, kind=kind)  # type: ignore[arg-type]
        drawn.append(out / f"plan.{kind}")
        storage.write_bytes(drawn[-1], data)
    return drawn


def worth_filming(records: Sequence[Record]) -> list[Record]:
    """A few episodes: up to half of them failures, the rest successes, in order."""
    lost = [r for r in records if r["success"] < 0.5]
    won = [r for r in records if r["success"] >= 0.5]
    chosen = lost[: max(FILMED // 2, FILMED - len(won))]
    return sorted([*chosen, *won[: FILMED - len(chosen)]], key=lambda r: int(r["episode"]))


def film(world: LearnedWorld, place: Place, record: Record, controller: MPC, out: Path) -> Path | None:
    """Film an episode: what happened, and beside it what the plans along the way imagined.

    A world of pictures draws that itself; what a world of states imagines is drawn by its task's environment, where that
    has a `draw_state(environment_state, agent_pos)`.

    Args:
        world: Where it was planned.
        place: Where it was played.
        record: What was played.
        controller: Tells how long planned actions are held, and what the world begins from.
        out: Folder of the film.

    Returns:
        The file, or None where nothing can be drawn.
    """
    real, imagined = _replay(world, place, record, controller)
    panes = [p for p in (real, imagined) if p is not None]
    if not panes:
        return None
    panes = [_enlarged(p) for p in panes]
    frames = side_by_side(panes, gap_px=8) if len({p.shape[1] for p in panes}) == 1 else panes[0]
    path = out / f"{record['where']}_{record['episode']:04d}_{'solved' if record['success'] >= 0.5 else 'failed'}.mp4"
    write_mp4(path, frames, rate_hz=world.spec.action.rate_hz)
    return path


@torch.no_grad()
def _replay(world: LearnedWorld, place: Place, record: Record, controller: MPC) -> tuple[Frames | None, Frames | None]:
    """Frames [T + 1, H, W, 3] of the plant and of the imagination, each None where it cannot be drawn."""
    (first, keys_t), plant, needs = _begin(world, record), place.plant, controller.needs
    key, actions = torch.tensor([record["key"]]), torch.tensor([record["actions"]])
    dreams = {d["step"]: torch.tensor([d["actions"]]) for d in record["dreams"]}
    seen: Observation = {k: first[k] for k in needs if k in first}
    state, belief, draw = plant.reset(first, key), world.reset(seen, keys_t[0]), _imagination(world)
    draws, camera = place.where != "world" or image_world(world), next((k for k in first if is_image(k)), IMAGE)
    real, imagined, look = [first[camera]] if draws else [], list[Tensor](), world.spec.actions_per_step
    for t in range(0, actions.shape[1], look):
        if t in dreams and draw is not None:
            imagined += imagined[-1:] * (t - len(imagined))  # a plan has run out before the next was filmed
            now, path = world.present(belief), predict_rollout(world, belief, dreams[t])
            imagined = [*imagined[:t], draw(now)[-1], *draw(path)]
        taken = actions[:, t : t + look]
        for part in taken.split(plant.spec.actions_per_step, dim=1):
            state, step = plant.step(state, part if plant.spec.actions_per_step > 1 else part[:, 0])
            real += _frames(plant, step.latent) if draws else []
        seen = _observe_again(plant, step, seen, needs)
        belief = world.see(belief, seen, taken if look > 1 else taken[:, 0])
    return _film_of(real), _film_of(imagined)


def _imagination(world: LearnedWorld) -> Callable[[WorldStep | Rollout], list[Tensor]] | None:
    """What draws T imagined steps as frames uint8 [1, H, W, 3] after every action; None where nothing does."""
    if image_world(world):
        return lambda steps: _frames(world, steps.latent if isinstance(steps, WorldStep) else steps.latent[0])
    task_id = world.spec.task_id
    env = gymnasium.make(task_id).unwrapped if task_id in gymnasium.registry else None
    draw = getattr(env, "draw_state", None)
    if not callable(draw):
        return None

    def draw_all(steps: WorldStep | Rollout) -> list[Tensor]:
        assert steps.true_state is not None
        states, bodies = (value.flatten(0, -2).cpu().numpy() for value in (steps.true_state, steps.proprio))
        return [torch.from_numpy(draw(state, body))[None] for state, body in zip(states, bodies, strict=True)]

    return draw_all


def _observe_again(plant: World, step: WorldStep, seen: Observation, needs: frozenset[str]) -> Observation:
    """The observation after a step; what does not change through an episode, its task, is kept."""
    kept = {TASK: seen[TASK]} if TASK in seen else {}
    return {**kept, **observe(plant, step, needs)}


def _frames(world: World, latent_THW: Tensor) -> list[Tensor]:
    """The main camera's frame after every action, uint8 [1, H, W, 3] each, of consecutive steps' latents [T, c, h, w]."""
    frames = require_drawable(world).decode(latent_THW)
    return list(frames.flatten(0, -4).split(1))


def _film_of(frames: Sequence[Tensor]) -> Frames | None:
    film: Frames | None = torch.cat(list(frames)).numpy() if frames else None
    return film


def _begin(world: LearnedWorld, record: Record) -> tuple[Observation, Tensor]:
    """First observation of an episode, and the keys its policy saw, [T, 1]."""
    first = world.starts(torch.tensor([record["start"]]))
    return first, policy_keys(torch.tensor([record["key"]]), world.spec.horizon)


def _backdrop(world: LearnedWorld, first: Observation, futures: Futures) -> Backdrop | None:
    """The first frame as the world sees it, where it is known how places lie in it."""
    extent = frame_extent(world.spec.task_id)
    if extent is None or futures.place is None or IMAGE not in first:
        return None
    frame = (
        world.roundtrip(first[IMAGE], proprio=first.get(STATE))[0]
        if isinstance(world, LatentWorld)
        else first[IMAGE][0]
    )
    return Backdrop(frame=frame, extent=extent)


def _enlarged(frames: Frames) -> Frames:
    """Enlarged by an integer factor to about `_PANE_PX`."""
    factor = max(1, _PANE_PX // frames.shape[1])
    return np.ascontiguousarray(frames.repeat(factor, axis=1).repeat(factor, axis=2))
