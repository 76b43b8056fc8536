"""Rolling out one wave: policies of different kinds act on their rows, one world steps them all.

A row's result depends on its start, its noise key and its policy; the other rows share its batch and nothing else. The
rows of a policy that crashed idle to the end while the rest goes on exactly as it would have. Frames are decoded for
the whole batch or not at all, so that a frame does not depend on who else looks. Not for what to roll out
(`worldsim.triage.run`) or where (`workers`).

Shape legend: W rows of the wave, T steps, A action, c h w latent.
"""

import dataclasses
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.core import IMAGE, Observation, Rollout, Verdict, WorldStep
from worldsim.errors import InvalidInputError, PolicyError
from worldsim.protocols import Judge, Policy, Startable, observe
from worldsim.rollout import policy_keys
from worldsim.rollout.judge import WorldJudge
from worldsim.triage.engine.batches import Crash, Finished, Wave, WaveResult
from worldsim.triage.engine.group import Group, NoWatch, Watch, crash_of


class _Tape:
    """What was played, step by step: the heads always, latents only if somebody asked, so that memory stays small."""

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self._heads: list[tuple[Tensor, Tensor, Tensor]] = []
        self._steps: list[WorldStep] = []
        self._actions: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._heads)

    def add(self, step: WorldStep, action: Tensor) -> None:
        """Record one step."""
        self._heads.append((step.success, step.progress, step.uncertainty))
        if self._keep:
            self._steps.append(step)
            self._actions.append(action)

    def heads(self) -> list[Tensor]:
        """Return success, progress and uncertainty of all rows, [W, T] each."""
        return [torch.stack(head, dim=1) for head in zip(*self._heads, strict=True)]

    def rollout(self) -> Rollout:
        """Return all rows [W, T, ...], if they were kept."""
        return Rollout.stack(self._steps, torch.stack(self._actions, dim=1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roller:
    """Rolls out waves in one world.

    Attributes:
        world: The world.
        policy_of: Gives the loaded policy of an index; may raise.
        rule: Reads the world's heads.
        judge: Overrules the heads; None leaves the verdict to `rule`.
        watch: Told which policy runs.
        timeout_s: For the words of a hang; the watch does the timing.
    """

    world: Startable
    policy_of: Callable[[int], Policy]
    rule: WorldJudge
    judge: Judge | None = None
    watch: Watch = dataclasses.field(default_factory=NoWatch)
    timeout_s: float = 300.0

    def run(self, wave: Wave, *, lost: Mapping[int, Crash] | None = None) -> WaveResult:
        """Roll out the rows of a wave that are not done.

        Args:
            wave: Which rollouts.
            lost: Policies known to hang or to kill their process: they are not called.

        Returns:
            A rollout or a crash for every such row.

        Raises:
            InvalidInputError: The judge returned NaN.
        """
        began = time.perf_counter()
        tape, groups = self._play(wave, lost or {}, keep=self.judge is not None)
        crashes = [g.crash for g in groups if g.crash is not None]
        finished: list[Finished] = []
        alive = [g.index for g in groups if g.crash is None]
        if alive:
            finished, broken = _read(wave, alive, tape, self.rule, self.judge)
            crashes += broken
        return WaveResult(
            wave=wave,
            finished=tuple(finished),
            crashes=tuple(sorted(crashes, key=lambda c: c.policy)),
            seconds=time.perf_counter() - began,
        )

    def film(self, wave: Wave) -> tuple[Observation, Rollout]:
        """Roll out a wave and keep everything: first observations [W, ...] and rollouts [W, T, ...], for pictures.

        Raises:
            PolicyError: No policy of the wave came through.
        """
        tape, groups = self._play(wave, {}, keep=True)
        reasons = [g.crash.reason for g in groups if g.crash is not None]
        if len(reasons) == len(groups):
            raise PolicyError(f"No policy could be filmed: {'; '.join(reasons)}. Leave the crashed policies out.")
        return self.world.starts(wave.padded()[0]), tape.rollout()

    def _play(self, wave: Wave, lost: Mapping[int, Crash], *, keep: bool) -> tuple[_Tape, list[Group]]:
        """Run the episodes; stops early only when nobody acts any more."""
        spec, tape = self.world.spec, _Tape(keep=keep)
        with torch.no_grad(), _own_randomness(wave):
            start, key = wave.padded()
            first = self.world.starts(start)
            state = self.world.reset(first, key)
            seen: Observation = {name: value.clone() for name, value in first.items()}
            groups = self._enlist(wave, lost)
            needs = frozenset[str]().union(*(g.needs for g in groups))
            keys_tw = policy_keys(key, spec.horizon).to(state.key.device)
            idle_wa = torch.tensor(spec.action.idle, dtype=torch.float32, device=state.key.device).repeat(wave.width, 1)
            for t in range(spec.horizon):
                action_wa = _act(groups, seen, idle_wa, keys_tw[t], t)
                if all(g.crash is not None for g in groups):
                    break
                state, step = self.world.step(state, action_wa)
                tape.add(step, action_wa)
                if t + 1 < spec.horizon:
                    seen = _protected(observe(self.world, step, needs), step)
        return tape, groups

    def _enlist(self, wave: Wave, lost: Mapping[int, Crash]) -> list[Group]:
        """Give every policy its rows, and load those that are not lost."""
        groups = []
        for index, rows in wave.live.items():
            group = Group(index, rows=rows, watch=self.watch, timeout_s=self.timeout_s)
            group.crash = lost.get(index)
            if group.crash is None:
                group.load(self.policy_of)
            groups.append(group)
        return groups


def _act(groups: Sequence[Group], seen: Observation, idle_wa: Tensor, keys: Tensor, t: int) -> Tensor:
    """Collect the actions [W, A] of one step; rows without a policy idle."""
    action_wa = idle_wa.clone()
    for group in groups:
        own = group.act(seen, keys, width=idle_wa.shape[1], step=t)
        if own is not None:
            action_wa[group.rows] = own
    if not bool(torch.isfinite(action_wa).all()):
        for group in groups:
            if not bool(torch.isfinite(action_wa[group.rows]).all()):
                group.fail("act", t, PolicyError("it returned NaN or infinite actions"))
                action_wa[group.rows] = idle_wa[group.rows]
    return action_wa


def _protected(seen: Mapping[str, Tensor], step: WorldStep) -> Observation:
    """Copy what may be part of the world's own state, so that no policy can write into it."""
    latent = step.latent.untyped_storage().data_ptr()
    return {k: v if k == IMAGE and v.untyped_storage().data_ptr() != latent else v.clone() for k, v in seen.items()}


def _read(
    wave: Wave, alive: Sequence[int], tape: _Tape, rule: WorldJudge, judge: Judge | None
) -> tuple[list[Finished], list[Crash]]:
    """Judge the rows that came through; a row whose world left the numbers crashes its policy."""
    heads, live = tape.heads(), wave.live
    sound = (heads[0].isfinite() & heads[1].isfinite()).all(dim=1).tolist()
    success_wt, progress_wt = (h.nan_to_num(nan=0.0).clamp(0, 1) for h in heads[:2])
    verdict = (
        rule.read(success_wt, progress_wt) if judge is None else judge(tape.rollout().rows(slice(len(wave.slots))))
    )
    columns = _columns(success_wt, progress_wt, heads[2].nan_to_num(nan=float("inf")), verdict, rule)
    finished, crashes = [], []
    for index in alive:
        rows = live[index]
        if not all(sound[row] for row in rows):
            error = PolicyError("the world answered its actions with NaN")
            crashes.append(crash_of(index, "world", len(tape), error))
            continue
        for row in rows:
            finished.append(Finished(row=row, steps=len(tape), **{k: v[row] for k, v in columns.items()}))
    return finished, crashes


def _columns(
    success_wt: Tensor, progress_wt: Tensor, uncertainty_wt: Tensor, verdict: Verdict, rule: WorldJudge
) -> dict[str, list[Any]]:
    """Every field of `Finished` but row and steps, one value per row of the wave; a judge's per row that is taken."""
    if not bool((verdict.success.isfinite() & verdict.progress.isfinite()).all()):
        raise InvalidInputError("The judge returned NaN; success and progress must be numbers in 0..1. Mend the judge.")
    likely = success_wt > 0.5
    solved_at = torch.where(likely.any(dim=1), likely.int().argmax(dim=1) + 1, -1)
    tensors = {
        "success": verdict.success.clamp(0, 1),
        "probability": rule.probability(success_wt),
        "progress": verdict.progress.clamp(0, 1),
        "progress_max": progress_wt.amax(dim=1),
        "uncertainty_min": uncertainty_wt.amin(dim=1),
        "uncertainty_mean": uncertainty_wt.mean(dim=1),
        "uncertainty_max": uncertainty_wt.amax(dim=1),
        "solved_at": solved_at,
        "abstained": verdict.abstain,
    }
    return {k: v.tolist() for k, v in tensors.items()} | {"note": list(verdict.text) or [""] * len(success_wt)}


@contextmanager
def _own_randomness(wave: Wave) -> Iterator[None]:
    """Seed the global generators by the wave, and give the caller's back at the end.

    Policies should draw from their keys. One that draws from a global generator anyway still repeats itself, as long as
    it meets the same wave.
    """
    seed = int(wave.id[:8], 16)
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
