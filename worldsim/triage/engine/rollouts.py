"""Rolls out batches inside a worker: its loaded world, policies and judge, and what it makes of a recording.

A process loads the run's world once. Other worlds (the simulator, bare or seen through the world's codec) are built
around it: it lends them its starts. Policies are fenced from each other; a row's result depends on its start, its noise
key and its policy, and the other rows share its batch and nothing else.

Shape legend: W rows of the batch, T steps, H W image.
"""

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from worldsim.core import STATE, Verdict
from worldsim.errors import InvalidInputError, PolicyError
from worldsim.protocols import Judge, Policy, Startable, require_drawable
from worldsim.rollout import Actor, Recording, play
from worldsim.rollout.fence import Fence
from worldsim.rollout.judge import WorldJudge
from worldsim.rollout.loop import Detail
from worldsim.rollout.wrappers import ShortWorld
from worldsim.text import printable
from worldsim.triage.engine.batches import Batch, BatchResult, Crash, RolloutResult, crash_of
from worldsim.triage.engine.channel import Board
from worldsim.triage.engine.measures import FilmedRow, find_movement, share_at_limits, share_outside
from worldsim.triage.engine.plan import WORLD, Description
from worldsim.triage.request import Ref, TriageRequest

WorldLoader = Callable[[], Startable]
ArenaLoader = Callable[[Startable], Startable]
"""Builds another world around the loaded world of the run, which can lend it starts and a codec."""
PolicyLoader = Callable[[Ref], Policy]
JudgeLoader = Callable[[Startable], Judge]
"""Loads a judge for the rollouts of a world, which it may need to draw them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaders:
    """How a worker gets its world, policies and judge. All are sent to other processes and must be picklable.

    Attributes:
        world: Loads the world of the triage.
        policy: Loads a policy.
        arenas: Builds other worlds, by kind.
        judge: Loads the judge of the triage's world; None takes its own heads, by which other worlds are judged always.
    """

    world: WorldLoader
    policy: PolicyLoader
    arenas: Mapping[str, ArenaLoader] = dataclasses.field(default_factory=dict)
    judge: JudgeLoader | None = None


@dataclasses.dataclass(frozen=True)
class _PolicyWatch:
    """Writes on the board when one policy runs."""

    board: Board
    policy: int

    def enter(self) -> None:
        """See `worldsim.rollout.fence.Watch`."""
        self.board.enter(self.policy)

    def leave(self) -> None:
        """See `worldsim.rollout.fence.Watch`."""
        self.board.leave()


class Rollouts:
    """Loads on first use, keeps what it has loaded, and rolls out batches with it."""

    def __init__(self, request: TriageRequest, *, loaders: Loaders, board: Board | None = None) -> None:
        """Set up; nothing is loaded yet.

        Args:
            request: Whose policies are rolled out.
            loaders: Where things come from.
            board: Where it writes which policy runs.
        """
        self._request = request
        self._loaders = loaders
        self._board = board or Board([-1.0, 0.0, 0.0, 1.0, 0.0])
        self._worlds: dict[str, Startable] = {}
        self._policies: OrderedDict[int, Policy] = OrderedDict()
        self._unloadable: dict[int, BaseException] = {}
        self._judge: Judge | None = None

    def describe(self, kind: str) -> Description:
        """Say what a plan must know of a world.

        Raises:
            InvalidInputError: As `world`.
        """
        world = self.world(kind)
        spec = world.spec
        if kind == WORLD and not self._request.judge:
            WorldJudge.require_labels(spec, name=self._request.world.name)
        return Description(
            num_starts=int(world.num_starts),
            horizon=spec.horizon,
            success_at=spec.success_at,
            task=spec.task,
            task_id=spec.task_id,
            actions_per_step=spec.actions_per_step,
        )

    def run(self, batch: Batch, lost: Mapping[int, Crash]) -> BatchResult:
        """Roll out the rows of a batch that are not done.

        Args:
            batch: Which rollouts.
            lost: Policies known to hang or to kill their process: they are not called.

        Returns:
            A rollout or a crash for every such row.

        Raises:
            InvalidInputError: The judge returned NaN.
        """
        world, judge = self.world(batch.kind), self._judge_of(batch.kind)
        recording, crashes = self._play(batch, lost, world, keep="heads" if judge is None else "latents")
        rule = self._rule(batch.kind)
        found = list(crashes.values())
        rollouts: list[RolloutResult] = []
        if alive := self._names(batch, crashes):
            rollouts, broken = _judge(batch, alive, recording, rule, judge)
            at_limits = share_at_limits(recording.executed().cpu(), world.spec.action).tolist()
            outside = self._outside(batch, recording)
            rollouts = [
                dataclasses.replace(end, at_limits=at_limits[end.row], outside=outside[end.row]) for end in rollouts
            ]
            found += broken
        found.sort(key=lambda crash: crash.policy)
        return BatchResult(batch=batch, rollouts=tuple(rollouts), crashes=tuple(found))

    def film(self, batch: Batch, lost: Mapping[int, Crash]) -> tuple[FilmedRow, ...]:
        """Roll out a batch and draw it; rows whose policy fails are left out.

        Raises:
            InvalidInputError: The world draws nothing.
            PolicyError: No policy of the batch came through.
        """
        world = self.world(batch.kind)
        draw = require_drawable(world).decode
        recording, crashes = self._play(batch, lost, world, keep="latents")
        alive = [row for policy, rows in batch.live.items() if policy not in crashes for row in rows]
        if not alive:
            reasons = "; ".join(crash.reason for crash in crashes.values())
            raise PolicyError(f"No policy could be filmed: {reasons}. Leave the crashed policies out.")
        first, rollout = world.starts(batch.padded()[0])[world.spec.camera().key], recording.rollout()
        success: list[float | None] = [None] * batch.width
        judge = self._judge_of(batch.kind)
        if judge is not None or batch.kind != WORLD or not self._request.judge:
            success = [*_verdict(batch, recording, self._rule(batch.kind), judge).success.tolist()]
        filmed, action, states = [], world.spec.action, rollout.true_state
        at_limits = share_at_limits(rollout.action.cpu(), action).tolist()
        for row in alive:
            frames = torch.cat([first[row][None].cpu(), draw(rollout.latent[row]).flatten(0, -4).cpu()])
            filmed.append(
                FilmedRow(
                    row=row,
                    frames=frames.numpy(),
                    success=success[row],
                    rate_hz=action.rate_hz,
                    at_limits=at_limits[row],
                    closest_at=(int(rollout.progress[row].argmax()) + 1) * world.spec.actions_per_step,
                    moved_at=None if states is None else find_movement(states[row].cpu()),
                )
            )
        return tuple(filmed)

    def time(self, batch: Batch, lost: Mapping[int, Crash], steps: Sequence[int]) -> list[float]:
        """Seconds that a batch takes when its episodes end after so many world steps, once per entry of `steps`."""
        spent, world = [], self.world(batch.kind)
        judge, rule = self._judge_of(batch.kind), self._rule(batch.kind)
        for count in steps:
            began = time.perf_counter()
            short = ShortWorld(world, horizon=count * world.spec.actions_per_step)
            recording, crashes = self._play(batch, lost, short, keep="heads" if judge is None else "latents")
            if alive := self._names(batch, crashes):
                _judge(batch, alive, recording, rule, judge)
            spent.append(time.perf_counter() - began)
        return spent

    def world(self, kind: str) -> Startable:
        """Return a world, loaded on first use.

        Raises:
            InvalidInputError: What the loader returned is not a world with starts, or answers with NaN.
        """
        if kind not in self._worlds:
            made = self._loaders.world() if kind == WORLD else self._loaders.arenas[kind](self.world(WORLD))
            if not isinstance(made, Startable):
                raise InvalidInputError(
                    f"The loader of the {kind} world returned a {type(made).__name__}, which is not a World with "
                    "num_starts and starts(indices). Check it with worldsim.testing.check_world."
                )
            _require_finite(made, kind)
            self._worlds[kind] = made
            self._board.set_loaded()
        return self._worlds[kind]

    def policy(self, index: int) -> Policy:
        """Return a policy; the least recently used ones make room.

        Raises:
            BaseException: Whatever the loader raised, again at every call, for a policy that does not load once.
        """
        if index in self._unloadable:
            raise self._unloadable[index]
        if index not in self._policies:
            try:
                policy = self._loaders.policy(self._request.policies[index])
                if not isinstance(policy, Policy):
                    raise PolicyError(
                        f"its loader returned a {type(policy).__name__}, which lacks needs, initial or act"
                    )
            except BaseException as error:
                self._unloadable[index] = error
                raise
            while len(self._policies) >= self._request.policies_per_batch:
                self._policies.popitem(last=False)
            self._policies[index] = policy
        self._policies.move_to_end(index)
        return self._policies[index]

    def _outside(self, batch: Batch, recording: Recording) -> list[float]:
        """Share of each row's steps that lie outside of what the triage's world was trained on; -1 where that is not known."""
        world = self.world(batch.kind)
        coverage = None if world.spec.validity is None else world.spec.validity.coverage
        if coverage is None or batch.kind != WORLD:
            return [-1.0] * batch.width
        first = world.starts(batch.padded()[0])[STATE]
        return share_outside(coverage, first, recording.proprio(), recording.executed()).tolist()

    def _names(self, batch: Batch, crashes: Collection[int]) -> dict[int, str]:
        """Names of the policies that came through."""
        return {policy: self._request.policies[policy].name for policy in batch.live if policy not in crashes}

    def _judge_of(self, kind: str) -> Judge | None:
        """The judge of a world; None where its own heads judge."""
        if kind == WORLD and self._judge is None and self._loaders.judge is not None:
            self._judge = self._loaders.judge(self.world(WORLD))
        return self._judge if kind == WORLD else None

    def _rule(self, kind: str) -> WorldJudge:
        return WorldJudge(success_at=self.world(kind).spec.success_at, threshold=self._request.threshold)

    def _play(
        self, batch: Batch, lost: Mapping[int, Crash], world: Startable, *, keep: Detail
    ) -> tuple[Recording, dict[int, Crash]]:
        """Play the live rows of a batch; returns the recording and the crashes by policy."""
        start, key = batch.padded()
        fences: dict[int, Fence] = {}
        actors = []
        for index, rows in batch.live.items():
            if index in lost:
                continue
            seed = int(batch.id[:8], 16) ^ index
            fence = fences[index] = Fence(seed=seed, watch=_PolicyWatch(self._board, index))
            with fence.guard("load", 0):
                name, policy = self._request.policies[index].name, self.policy(index)
                actors.append(Actor(name=name, policy=policy, rows=_rows(rows), fence=fence))
        recording = Recording(keep)
        if actors:
            horizon = world.spec.horizon
            steps = min(self._request.steps or horizon, horizon)
            recording = play(world, actors, world.starts(start), key, steps=steps, keep=keep)
        crashes = {index: lost[index] for index in batch.live if index in lost}
        for index, fence in fences.items():
            if fence.failure is not None:
                stage, step, error = fence.failure.stage, fence.failure.step, fence.failure.error
                crashes[index] = crash_of(index, stage, step, error)
        return recording, crashes


def _rows(rows: Sequence[int]) -> slice | Tensor:
    """Rows as a slice where they lie together."""
    together = rows[-1] - rows[0] + 1 == len(rows)
    return slice(rows[0], rows[-1] + 1) if together else torch.tensor(rows, dtype=torch.int64)


def _require_finite(world: Startable, kind: str) -> None:
    """Refuse a world that answers with NaN before any policy acts.

    Raises:
        InvalidInputError: It does.
    """
    zero, spec = torch.zeros(1, dtype=torch.int64), world.spec
    shape = (1, spec.action.dim) if spec.actions_per_step == 1 else (1, spec.actions_per_step, spec.action.dim)
    with torch.no_grad():
        state = world.reset(world.starts(zero), zero)
        _, step = world.step(state, torch.tensor(spec.action.idle, dtype=torch.float32).expand(shape))
    wrong = [name for name in ("latent", "success", "progress") if not bool(getattr(step, name).isfinite().all())]
    if wrong:
        raise InvalidInputError(
            f"The {kind} world itself is broken: it answers an idle action with NaN or infinity in its "
            f"{' and '.join(wrong)}, before any policy has acted. Its weights are damaged; restore or retrain it."
        )


def _verdict(batch: Batch, recording: Recording, rule: WorldJudge, judge: Judge | None) -> Verdict:
    """What the judge, or without one the world's heads, say of all rows."""
    if judge is not None:
        return judge(recording.rollout().rows(slice(len(batch.slots))))
    success_WT, progress_WT, _ = recording.heads()
    return rule.read(success_WT.nan_to_num(nan=0.0).clamp(0, 1), progress_WT.nan_to_num(nan=0.0).clamp(0, 1))


def _judge(
    batch: Batch, names: Mapping[int, str], recording: Recording, rule: WorldJudge, judge: Judge | None
) -> tuple[list[RolloutResult], list[Crash]]:
    """Results of the policies that came through, by index and name; a policy to whose actions the world answered with NaN has crashed."""
    heads, live = recording.heads(), batch.live
    sound = (heads[0].isfinite() & heads[1].isfinite()).all(dim=1).tolist()
    columns = _columns(heads, _verdict(batch, recording, rule, judge), rule, each=recording.actions // len(recording))
    results, crashes = [], []
    for policy in names:
        rows = live[policy]
        if not all(sound[row] for row in rows):
            error = PolicyError("the world answered its actions with NaN")
            crashes.append(crash_of(policy, "world", recording.actions, error))
            continue
        unseen = recording.unseen[names[policy]]
        for row in rows:
            values = {name: column[row] for name, column in columns.items()}
            results.append(RolloutResult(row=row, steps=recording.actions, unseen=unseen, **values))
    return results, crashes


def _columns(heads: Sequence[Tensor], verdict: Verdict, rule: WorldJudge, *, each: int) -> dict[str, list[Any]]:
    """What is kept of every row, one list per field of `RolloutResult`; a world's step is `each` actions."""
    if not bool((verdict.success.isfinite() & verdict.progress.isfinite()).all()):
        raise InvalidInputError("The judge returned NaN; success and progress must be numbers in 0..1. Fix the judge.")
    success_WT, progress_WT = (head.nan_to_num(nan=0.0).clamp(0, 1) for head in heads[:2])
    uncertainty_WT = heads[2].nan_to_num(nan=float("inf"))
    likely = success_WT > 0.5
    solved_at = torch.where(likely.any(dim=1), (likely.int().argmax(dim=1) + 1) * each, -1)
    tensors = {
        "success": verdict.success.clamp(0, 1),
        "probability": rule.probability(success_WT),
        "progress": verdict.progress.clamp(0, 1),
        "progress_max": progress_WT.amax(dim=1),
        "uncertainty_min": uncertainty_WT.amin(dim=1),
        "uncertainty_mean": uncertainty_WT.mean(dim=1),
        "uncertainty_max": uncertainty_WT.amax(dim=1),
        "solved_at": solved_at,
        "abstained": verdict.abstain,
    }
    return {k: v.tolist() for k, v in tensors.items()} | {
        "note": [printable(text, lines=True) for text in verdict.text] or [""] * len(success_WT)
    }
