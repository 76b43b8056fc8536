"""Playing episodes with a planner, in the world it plans in or in the true environment, and what came of them.

Every place gets the same starts and noise keys, so episodes are paired.

Shape legend: n episodes of a batch, T steps, H planned actions, h steps that a plan looks ahead, A action width.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim import rollout
from worldsim.core import Observation
from worldsim.planners.ensemble_check import EnsembleCheck
from worldsim.planners.mpc import MPC, MPCCarry
from worldsim.planners.objective import unrolled
from worldsim.progress import Progress, silent
from worldsim.protocols import Startable, World
from worldsim.rollout import Actor
from worldsim.rollout.episodes import Block
from worldsim.rollout.judge import WorldJudge
from worldsim.runs import Ledger, Record
from worldsim.stats.intervals import clopper_pearson

BATCH = 16
"""Episodes that are played together, and that a kill may cost."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where episodes are played.

    Attributes:
        where: ``"world"`` or ``"simulator"``.
        name: For people.
        plant: What the actions are executed in.
    """

    where: str
    name: str
    plant: World


def play_all(
    controller: MPC,
    world: Startable,
    place: Place,
    *,
    episodes: Block,
    ledger: Ledger,
    batch: int = BATCH,
    progress: Progress = silent,
) -> None:
    """Play every episode that the ledger lacks, batch by batch; finished batches are safe.

    A batch is always played completely, so that an interrupted run ends with the same numbers as one that was not.

    Args:
        controller: The planner at work.
        world: Lends the first observations.
        place: Where to play.
        episodes: Starts and keys.
        ledger: Takes what is finished.
        batch: Episodes that share a batch.
        progress: Called with how many episode steps are done, of all episodes times the horizon.
    """
    horizon, stage = place.plant.spec.horizon, f"steps in {place.name}"
    total = len(episodes) * horizon
    for begin in range(0, len(episodes), batch):
        group = range(begin, min(begin + batch, len(episodes)))
        if any((place.where, e) not in ledger for e in group):
            start, key = (torch.from_numpy(v[group.start : group.stop]) for v in (episodes.start, episodes.key))
            outcomes = play(
                controller,
                place.plant,
                world.starts(start),
                key,
                on_step=lambda t, group=group: progress(  # type: ignore[misc]
                    stage, group.start * horizon + t * len(group), total, {}
                ),
            )
            rows = zip(group, start.tolist(), key.tolist(), outcomes, strict=True)
            ledger.add([{"where": place.where, "episode": e, "start": s, "key": k, **o} for e, s, k, o in rows])
        progress(stage, group.stop * horizon, total, {})


def play(
    controller: MPC,
    plant: World,
    first: Observation,
    keys: Tensor,
    *,
    on_step: Callable[[int], None] = lambda steps: None,
) -> list[Record]:
    """Play a batch of episodes from their first observations.

    Args:
        controller: The planner at work.
        plant: What the actions are executed in.
        first: What `plant.reset` and the planner's world begin from, each with leading n.
        keys: int64 [n].
        on_step: Called with the number of actions done, after each step.

    Returns:
        One record per episode: `success` and `final` progress by the task's rule, `progress` after each step, `promised`
        (the progress at the last step that the first plan to reach it predicted), `actions` [T, A] (where the plant takes
        several a step, the progress after all of them stands at each), `dreams` (plans, one
        after the other through the episode, and the progress they predicted, expected over the members of the planner's
        world), `plan_ms` per step, `evaluations`.
    """
    recorder = _RecordedMPC(controller, plant.spec.horizon)
    actor = Actor(name="the planner", policy=recorder, rows=slice(None))
    recording = rollout.play(plant, [actor], first, keys, keep="heads", on_step=on_step)
    each = plant.spec.actions_per_step  # what the plant says after a step of several actions stands for all of them
    success, progress, _ = (head.cpu().repeat_interleave(each, dim=1) for head in recording.heads())
    return recorder.records(success, progress, WorldJudge(success_at=plant.spec.success_at))


class _RecordedMPC:
    """A planner at work, which keeps what n episodes did and what its plans predicted."""

    def __init__(self, controller: MPC, horizon: int) -> None:
        self.needs = controller.needs
        self._mpc, self._horizon = controller, horizon
        self._check = EnsembleCheck.of(controller.world)
        self._span = controller.planner.horizon * controller.block * controller.repeat
        self._actions: list[Tensor] = []
        self._dreams: list[tuple[int, Tensor, Tensor]] = []
        self._promised: Tensor | None = None
        self._evaluations = 0
        self._spent_s = 0.0

    def initial(self, n: int) -> MPCCarry:
        """See `worldsim.protocols.Policy.initial`."""
        return self._mpc.initial(n)

    def act(self, observation: Observation, carry: MPCCarry, keys: Tensor) -> tuple[Tensor, MPCCarry]:
        """See `worldsim.protocols.Policy.act`."""
        began, plans = time.perf_counter(), carry.plans
        action, carry = self._mpc.act(observation, carry, keys)
        self._spent_s += time.perf_counter() - began
        if carry.plans > plans:
            self._add_plan(len(self._actions), carry)
        self._actions.append(action.detach().cpu())
        return action, carry

    def _add_plan(self, t: int, carry: MPCCarry) -> None:
        """A plan was made for all episodes before step t."""
        plan = carry.plan
        assert plan is not None
        assert carry.belief is not None
        self._evaluations += plan.stats.evaluations
        next_dream = not self._dreams or t >= self._dreams[-1][0] + self._span
        sees_end = self._promised is None and t + self._span >= self._horizon
        if not (next_dream or sees_end):
            return
        held = unrolled(plan.actions, block=self._mpc.block, repeat=self._mpc.repeat)[:, : self._horizon - t]
        per_step = self._mpc.world.spec.actions_per_step
        predicted = self._check.expected_progress(carry.belief, held).cpu().repeat_interleave(per_step, dim=1)
        if next_dream:
            self._dreams.append((t, held, predicted))
        if sees_end:
            self._promised = predicted[:, -1]

    def records(self, success: Tensor, progress: Tensor, rule: WorldJudge) -> list[Record]:
        """One record per episode, given what the plant said after each step, [n, T]."""
        actions, verdict = torch.stack(self._actions, dim=1), rule.read(success, progress)
        n, steps = progress.shape
        found: list[Record] = []
        for i in range(n):
            dreams = [
                {"step": t, "actions": a[i].tolist(), "progress": predicted[i].tolist()}
                for t, a, predicted in self._dreams
            ]
            values: dict[str, Any] = {
                "success": float(verdict.success[i]),
                "final": float(verdict.progress[i]),
                "progress": progress[i].tolist(),
                "actions": actions[i].tolist(),
                "dreams": dreams,
                "promised": None if self._promised is None else float(self._promised[i]),
                "plan_ms": 1e3 * self._spent_s / (n * steps),
                "evaluations": self._evaluations,
            }
            found.append(values)
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What came of the episodes played in one place.

    Attributes:
        where: The place's `where`; `name` its name.
        episodes: How many.
        success: Share solved, with the exact (Clopper-Pearson) 95 % interval `low` .. `high`.
        progress: Mean progress at the end, 0..1.
        optimism: Mean of the final progress that the first plan to reach the end predicted, minus what came; above 0
            the planner was promised more than it got. None if no plan reached the end.
        plan_ms: Planning time per episode and control step.
        evaluations: Imagined candidates per episode.
    """

    where: str
    name: str
    episodes: int
    success: float
    low: float
    high: float
    progress: float
    optimism: float | None
    plan_ms: float
    evaluations: float


def summarise(place: Place, records: Sequence[Record]) -> Summary:
    """Summarise at least one finished episode."""
    wins = sum(r["success"] for r in records)
    low, high = clopper_pearson([wins], [len(records)])
    over = [r["promised"] - r["progress"][-1] for r in records if r["promised"] is not None]
    return Summary(
        where=place.where,
        name=place.name,
        episodes=len(records),
        success=wins / len(records),
        low=float(low[0]),
        high=float(high[0]),
        progress=float(np.mean([r["final"] for r in records])),
        optimism=float(np.mean(over)) if over else None,
        plan_ms=float(np.mean([r["plan_ms"] for r in records])),
        evaluations=float(np.mean([r["evaluations"] for r in records])),
    )


def plan_seconds(controller: MPC, world: Startable, *, episodes: int) -> float:
    """Seconds that planning once for so many episodes together takes, measured; the first plan only warms up."""
    first, keys = world.starts(torch.arange(episodes)), torch.arange(episodes)
    spent = 0.0
    for _ in range(2):
        began = time.perf_counter()
        controller.act({k: first[k] for k in controller.needs}, controller.initial(episodes), keys)
        spent = time.perf_counter() - began
    return spent
