"""What training a world costs, measured on a rehearsal of a few steps, and how many of the steps fit a time."""

import copy
import dataclasses
import math
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from worldsim.data.faults.screen import Screening
from worldsim.decode import decoding_s
from worldsim.errors import InvalidInputError
from worldsim.optimize import LossAt, Schedule, scale
from worldsim.runs import show_duration
from worldsim.train.recipes.comparison import BACKGROUND, Comparison
from worldsim.train.recipes.tokenizer import FittedTokenizer, TokenizerRecipe, tokenizer_loss

RESERVE = 0.1
"""Share of the asked time that is kept for checkpoints, held-out figures and what else is not rehearsed."""
LEAST_STEPS = 20
"""A time that leaves fewer steps of the predictor is refused."""
LABELS_COST = 1.25 * 6
"""What labels of people make of the cost of the heads: larger batches, and five more trainings that measure the labels."""
LATENTS, FRAMES = "latents", "frames"
"""What takes no optimiser steps: encoding every episode, and what is done once for every frame that pictures are learned from."""
_REPEATS = 2  # the first step also allocates; the least of all counts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """Time that something takes.

    Attributes:
        core_s: Processor time of all threads, and of the process that decodes videos.
        wall_s: Elapsed time when nothing else runs.
    """

    core_s: float = 0.0
    wall_s: float = 0.0

    def __add__(self, other: Self) -> "Cost":
        return Cost(core_s=self.core_s + other.core_s, wall_s=self.wall_s + other.wall_s)

    def __mul__(self, factor: float) -> "Cost":
        return Cost(core_s=self.core_s * factor, wall_s=self.wall_s * factor)

    @classmethod
    def now(cls) -> Self:
        """What this process has taken so far, from an arbitrary zero."""
        return cls(core_s=time.process_time() + decoding_s(), wall_s=time.perf_counter())

    @classmethod
    def since(cls, began: Self, *, on_cpu: bool = True) -> Self:
        """What was taken since then; on the processor alone other programs slow the clock only, which is then held back."""
        end = cls.now()
        core_s, wall_s = end.core_s - began.core_s, end.wall_s - began.wall_s
        return cls(core_s=core_s, wall_s=min(core_s, wall_s) if on_cpu else wall_s)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """Which tokenizer a camera got, and why; the camera is empty where there is one, or none."""

    camera: str
    tokenizer: str
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A family that a world could be of.

    Attributes:
        family: Its name.
        refused: Why it is no candidate, a phrase; empty where it is one.
        cost: Of its training.
        trial_s: Core-seconds of its trial, 0 where there is none.
    """

    family: str
    refused: str = ""
    cost: Cost = dataclasses.field(default_factory=Cost)
    trial_s: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What a training will do and cost; kept in its run, so that a continued run keeps its schedule.

    Attributes:
        choices: The tokenizer of each camera.
        predictor: Its family.
        suits: What the predictor was chosen for; empty where it was asked for.
        steps: Optimiser steps by stage, as planned.
        stages: Cost by stage, with those steps.
        memory_bytes: Largest memory of the process.
        shares: Of the steps that the schedules ask for, and of the frames, by stage, in (0, 1]; empty where none is shortened.
        minutes: The time that was asked for; 0 for as long as the schedules take.
        reason: Where the steps come from, a phrase; empty where they were all asked for.
        screenings: Faults of the data, and of the dataset that the starts come from where that is another.
        advice: What is doubtful about the data and what to record more of, in sentences.
        candidates: Families that were considered; empty where the settings say which it is.
        family: Which of them is trained; empty where that is not decided, or was said.
        compared: How they did in their trials; None where there was none.
        choosing_s: Core-seconds that choosing took.
    """

    choices: tuple[Choice, ...]
    predictor: str
    suits: str
    steps: dict[str, int]
    stages: dict[str, Cost]
    memory_bytes: int
    shares: dict[str, float] = dataclasses.field(default_factory=dict)
    minutes: float = 0.0
    reason: str = ""
    screenings: tuple[Screening, ...] = ()
    advice: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    family: str = ""
    compared: Comparison | None = None
    choosing_s: float = 0.0

    def __str__(self) -> str:
        """Lines for people."""
        lines = [*map(str, self.screenings), *(f"Data: {sentence}" for sentence in self.advice), *self._show_choice()]
        if self.candidates and not self.family:
            return "\n".join(lines)
        lines += [f"Tokenizer{f' of {c.camera}' if c.camera else ''}: {c.tokenizer}. {c.why}." for c in self.choices]
        lines.append(f"Predictor: {self.predictor} ({self.suits or 'as asked for'})")
        steps = ", ".join(f"{name} {number:,}" for name, number in self.steps.items())
        lines.append(f"Steps: {steps}{f' ({self.reason})' if self.reason else ''}")
        total = sum(self.stages.values(), Cost())
        parts = ", ".join(f"{name} {cost.core_s:,.0f}" for name, cost in self.stages.items())
        lines.append(
            f"Cost: about {total.core_s:,.0f} core-seconds ({parts}), {show_duration(total.wall_s)} when nothing else runs, "
            f"and {self.memory_bytes / 1e9:.1f} GB of memory."
        )
        if self.minutes:
            short = [f"{name} {share:.0%}" for name, share in self.shares.items() if share < 1 and name != FRAMES]
            kept = ", ".join(short) + " of the steps asked for" if short else "all of the steps asked for"
            if (share := self.shares.get(FRAMES, 1.0)) < 1:
                kept += f", pictures learned from {share:.0%} of the frames"
            lines.append(f"Fitted to {self.minutes:g} minutes: {kept}.")
        return "\n".join(lines)

    def _show_choice(self) -> list[str]:
        """Which families were considered, how they did, and which is trained."""
        fitting = [one for one in self.candidates if not one.refused]
        costs = ", ".join(f"{one.family} (about {one.cost.core_s:,.0f} core-seconds)" for one in fitting)
        lines = [f"Families that fit: {costs}"] if fitting else []
        lines += [f"Not {one.family}: {one.refused}." for one in self.candidates if one.refused]
        if len(fitting) < 2 and self.compared is None:
            return lines
        trials_s, untried = sum(one.trial_s for one in fitting), [one.family for one in fitting if not one.trial_s]
        if not trials_s:
            return [
                *lines,
                f"{fitting[0].family} is trained: there is too little time for trials. family=NAME decides otherwise.",
            ]
        lines += [f"Too little time to try {' and '.join(untried)} too."] if untried else []
        if not self.family or self.compared is None:
            return [
                *lines,
                f"Which is trained is decided by trials, about {trials_s:,.0f} core-seconds in all; family=NAME decides it now.",
            ]
        lines += [
            f"Trials of {trials_s:,.0f} core-seconds in all, on {self.compared.windows} held-out episodes; error of what moves, as a "
            "share of that of copying the last frame:",
            str(self.compared),
            f"Choosing took {self.choosing_s:,.0f} core-seconds.",
            f"Trained is: {self.family}. family=NAME decides otherwise.",
        ]
        if min(self.compared.score(self.family), 1.0) >= min(1.0, self.compared.score(BACKGROUND)):
            lines.append(
                "In so short a trial no family does better than copying and a constant background; the figures after training say "
                "whether it does then."
            )
        return lines

    def fit(self, minutes: float, *, spent_s: float) -> "TrainingPlan":
        """The same plan with as many steps as fit a time; never more than the schedules ask for.

        Each stage may take an equal part of the time; what cheap stages leave over goes to the others.

        Args:
            minutes: Of this machine when nothing else runs; 0 leaves the plan as it is.
            spent_s: Seconds that were spent before.

        Raises:
            InvalidInputError: The time is too short for a training.
        """
        if not minutes:
            return self
        fixed_s = self.stages[LATENTS].wall_s + spent_s
        costs_s = {name: cost.wall_s for name, cost in self.stages.items() if name != LATENTS}
        shares = share_out(minutes * 60 * (1 - RESERVE) - fixed_s, costs_s)
        costliest = max(self.steps.keys() & costs_s.keys(), key=lambda name: costs_s[name])
        least = min(1.0, LEAST_STEPS / max(self.steps[costliest], 1))
        if shares[costliest] < least:
            most_s = least * costs_s[costliest]  # of each stage
            needed = (fixed_s + sum(min(cost_s, most_s) for cost_s in costs_s.values())) / 60 / (1 - RESERVE)
            raise InvalidInputError(
                f"minutes={minutes:g} is too short: reading and encoding the data and {LEAST_STEPS} steps take {needed:.1f} "
                "minutes here. Ask for more, for fewer cameras, or for a smaller batch."
            )
        return dataclasses.replace(
            self,
            steps={name: scale(number, shares.get(name, 1.0)) for name, number in self.steps.items()},
            stages={name: c * shares.get(name, 1.0) for name, c in self.stages.items()},
            shares=shares,
            minutes=minutes,
        )


def share_out(budget_s: float, costs_s: Mapping[str, float]) -> dict[str, float]:
    """Share of each stage, at most 1, that fits a time: equal parts, of which the cheapest stages leave over what they do not need.

    Args:
        budget_s: Seconds for all stages.
        costs_s: Seconds of each.
    """
    shares = {}
    for place, (name, cost_s) in enumerate(sorted(costs_s.items(), key=lambda item: item[1])):
        taken_s = min(cost_s, max(budget_s, 0.0) / (len(costs_s) - place))
        shares[name] = taken_s / cost_s if cost_s else 1.0
        budget_s -= taken_s
    return {name: shares[name] for name in costs_s}


def time_call(call: Callable[[], object], *, on_cpu: bool = True) -> Cost:
    """Time one call, of which an accelerator computes a part unless it is `on_cpu`."""
    began = Cost.now()
    call()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return Cost.since(began, on_cpu=on_cpu)


def time_step(model: nn.Module, loss_at: LossAt, step: int) -> Cost:
    """Time one optimiser step of a model, which moves by it."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)

    def take() -> None:
        loss, _ = loss_at(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    on_cpu = all(p.device.type == "cpu" for p in model.parameters())
    found = [time_call(take, on_cpu=on_cpu) for _ in range(_REPEATS)]
    return Cost(core_s=min(c.core_s for c in found), wall_s=min(c.wall_s for c in found))


def time_tokenizer(
    fitted: FittedTokenizer, episodes: Callable[[], Iterator[Tensor]], recipe: TokenizerRecipe, *, seed: int
) -> Cost:
    """What training a tokenizer costs; a copy of it is trained. Arguments as of `train_tokenizer`, frames [F, H, W, 3]."""
    trial = copy.deepcopy(fitted.tokenizer)
    assert isinstance(trial, nn.Module)
    loss_at, schedule = tokenizer_loss(dataclasses.replace(fitted, tokenizer=trial), episodes, recipe, seed=seed)
    return time_step(trial.train(), loss_at, 0) * schedule.steps


def time_unrolls(model: nn.Module, loss_at: LossAt, schedule: Schedule, unrolls: Sequence[tuple[int, float]]) -> Cost:
    """What training a predictor costs: its shortest and its longest unrolls are timed, those between interpolated.

    Args:
        model: A predictor that is thrown away afterwards.
        loss_at: Its loss.
        schedule: Its steps.
        unrolls: Lengths of rollouts, and the share of the steps at which each ends.
    """
    model.train()
    begins = [0.0, *(end for _, end in unrolls[:-1])]
    first = {u: math.ceil(begin * schedule.steps) for (u, _), begin in zip(unrolls, begins, strict=True)}
    short, long = min(first), max(first)
    costs = {u: time_step(model, loss_at, min(first[u], schedule.steps - 1)) for u in {short, long}}
    total = Cost()
    for (unroll, end), begin in zip(unrolls, begins, strict=True):
        part = (unroll - short) / max(long - short, 1)
        total = total + (costs[short] * (1 - part) + costs[long] * part) * ((end - begin) * schedule.steps)
    return total


def peak_memory() -> int:
    """Largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
