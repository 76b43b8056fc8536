"""Which family a world is of, where the settings leave it open: each candidate is trained for a short time and measured.

Candidates are families whose closed form fits and whose input is there. Each gets the same core-seconds, a small share of what
the cheapest would cost in full, and is measured on held-out episodes beside copying and a constant background. Where that is
too little time to try anything, the first that fits is taken. What the trials learned is thrown away but for closed forms.
"""

import copy
import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

from worldsim import storage
from worldsim.data.lerobot.read import Dataset
from worldsim.errors import InvalidInputError, TrainingError
from worldsim.optimize import fit
from worldsim.progress import Progress
from worldsim.text import first_sentence
from worldsim.tokenizers.layers.tokenizer import LayersTokenizer
from worldsim.train.recipes.assemble import assemble_world
from worldsim.train.recipes.comparison import (
    Comparison,
    Measured,
    measure_copying,
    measure_world,
    read_windows,
)
from worldsim.train.recipes.cost import Candidate, Cost, TrainingPlan
from worldsim.train.recipes.heads import prepare_heads
from worldsim.train.recipes.parts import Begun, begin_parts, rehearse_parts, train_parts
from worldsim.train.recipes.rehearsal import shorten_all
from worldsim.train.recipes.settings import FAMILIES, TrainWorld, settle_schedules, split_episodes, with_family
from worldsim.train.recipes.structured.family import BegunPictures
from worldsim.train.recipes.tokenizer import EXPLAINED, TRAINED_GAIN
from worldsim.worlds.latent import LearnedWorld

TRIAL_SHARE, TRIAL_CORE_S = 0.15, 60.0
"""All trials together take that share of the training of the cheapest candidate, and each no longer than that."""
LEAST_TRIAL_CORE_S = 20.0
"""In less time than this a family of several stages shows nothing: candidates are then not tried, and the first that fits is trained."""
ENCODING_SHARE, LEAST_EPISODES = 0.2, 12
"""Share of a trial that encoding takes, which says how many episodes it learns from; no fewer than those."""
TRIAL_BATCH, TRIAL_UNROLL = 32, 4
"""Batches and rollouts of predictors of layers and grids in trials: many small steps teach more in a short time than few large."""
CLOSE = 0.05
"""Of candidates whose errors differ by a smaller part, the one that costs less is trained."""
TRIALS = "trials.json"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prospect:
    """A family that could be trained.

    Attributes:
        config: Settings of its training, with steps in every schedule.
        begun: What its training begins with.
        plan: What it will cost.
        folder: Where its training is kept.
    """

    config: TrainWorld
    begun: Begun
    plan: TrainingPlan
    folder: Path


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prospects:
    """All of them, and why other families are none, by family."""

    fit: dict[str, Prospect]
    refused: dict[str, str]

    @property
    def cheapest_s(self) -> float:
        """Core-seconds that the cheapest takes."""
        return min(_total_s(one.plan) for one in self.fit.values())

    def trial_s(self, minutes: float) -> float:
        """Core-seconds that each trial may take; 0 where there is nothing to choose, or too little time to try."""
        if len(self.fit) < 2:
            return 0.0
        cost_s = min(self.cheapest_s, 60 * minutes) if minutes else self.cheapest_s
        each_s = min(TRIAL_CORE_S, TRIAL_SHARE * cost_s / len(self.fit))
        return each_s if each_s >= LEAST_TRIAL_CORE_S else 0.0

    def listed(
        self, spent_s: Mapping[str, float], minutes: float, *, failed: Mapping[str, str] | None = None
    ) -> tuple[Candidate, ...]:
        """All families, with what their trials took or will take; those whose trials failed count as refused."""
        estimate_s, refused = self.trial_s(minutes), {**self.refused, **(failed or {})}
        return (
            *(
                Candidate(
                    family=name, cost=sum(one.plan.stages.values(), Cost()), trial_s=spent_s.get(name, estimate_s)
                )
                for name, one in self.fit.items()
                if name not in refused
            ),
            *(Candidate(family=name, refused=why) for name, why in refused.items()),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tried:
    """What came of the trials.

    Attributes:
        best: The family to train.
        compared: How all did; None where there was no choice.
        spent_s: Core-seconds of each trial.
        failed: Families whose trial failed, and why.
    """

    best: str
    compared: Comparison | None = None
    spent_s: Mapping[str, float] = dataclasses.field(default_factory=dict)
    failed: Mapping[str, str] = dataclasses.field(default_factory=dict)


def find_prospects(
    dataset: Dataset,
    config: TrainWorld,
    work: Path,
    progress: Progress,
    *,
    labelled: bool,
    refused: Mapping[str, str],
) -> Prospects:
    """Begin every family, and rehearse those that fit.

    Args:
        dataset: What is learned from.
        config: Leaves the family open.
        work: Working folder.
        progress: Called as it advances.
        labelled: Labels of people are used.
        refused: Families that are known not to fit, and why.

    Raises:
        InvalidInputError: No family fits.
    """
    fitting, why = dict[str, Prospect](), dict(refused)
    for number, family in enumerate(FAMILIES):
        progress("candidates", number, len(FAMILIES), {"family": family})
        if family in why:
            continue
        own = settle_schedules(with_family(config, family), dataset)
        try:
            begun = begin_parts(dataset, own, work / family, progress)
        except InvalidInputError as error:
            why[family] = first_sentence(error)
            if family == FAMILIES[-1] and not fitting:
                raise
            continue
        if reason := _poor_layers(begun):
            why[family] = reason
            shutil.rmtree(work / family, ignore_errors=True)
            continue
        plan = rehearse_parts(dataset, begun, own, labelled=labelled)
        fitting[family] = Prospect(config=own, begun=begun, plan=plan, folder=work / family)
    progress("candidates", len(FAMILIES), len(FAMILIES), {})
    return Prospects(fit=fitting, refused=why)


def try_prospects(dataset: Dataset, found: Prospects, work: Path, progress: Progress, *, minutes: float) -> Tried:
    """Train each for a short time, and compare.

    Args:
        dataset: What is learned from.
        found: Stay as they are.
        work: Working folder; trials that were begun there are continued.
        progress: Called as it advances.
        minutes: That the training may take; 0 for no limit.

    Raises:
        TrainingError: All trials failed.
        InvalidInputError: No held-out episode can be measured.
    """
    if not found.trial_s(minutes):
        return Tried(best=next(iter(found.fit)))
    windows = read_windows(dataset, split_episodes(dataset)[1])
    shares = _shares(dataset, found, work, minutes)
    lines, spent_s, failed = dict[str, Measured](), dict[str, float](), dict[str, str]()
    for number, (family, one) in enumerate(found.fit.items()):
        progress("trials", number, len(found.fit), {"family": family})
        share, episodes = shares[family]
        try:
            world, spent_s[family] = _train_briefly(_sample(dataset, episodes), one, share, progress)
        except TrainingError as error:
            failed[family] = f"its trial failed: {first_sentence(error)}"
            continue
        lines[family] = measure_world(world, windows)
    progress("trials", len(found.fit), len(found.fit), {})
    if not lines:
        raise TrainingError(
            f"The trial of every family failed. {'; '.join(f'{k}: {why}' for k, why in failed.items())}."
        )
    compared = Comparison(
        horizons=windows.horizons, windows=len(windows.action), lines={**lines, **measure_copying(windows)}
    )
    limit = (1 + CLOSE) * min(compared.score(family) for family in lines)
    close = [family for family in lines if compared.score(family) <= limit]
    best = min(close, key=lambda family: _total_s(found.fit[family].plan))
    return Tried(best=best, compared=compared, spent_s=spent_s, failed=failed)


def _poor_layers(begun: Begun) -> str:
    """Why layers that were fitted are no candidate; empty where they are one, and for other families."""
    if isinstance(begun, BegunPictures):
        return ""
    for one in begun.values():
        if isinstance(one.tokenizer, LayersTokenizer):
            share = one.tokenizer.explained(one.frames_NCHW[:512].float() / 127.5 - 1)
            if share < EXPLAINED - TRAINED_GAIN:
                return f"layers explain {share:.0%} of what changes between frames"
    return ""


def _shares(dataset: Dataset, found: Prospects, work: Path, minutes: float) -> dict[str, tuple[float, int]]:
    """Share of the steps of each trial's settings that it takes, and episodes that it learns from; kept, since they are timed."""
    path = work / TRIALS
    if path.exists():
        return {name: (float(share), int(count)) for name, (share, count) in storage.read_json(path).items()}
    trial_s, shares = found.trial_s(minutes), dict[str, tuple[float, int]]()
    for family, one in found.fit.items():
        plan = rehearse_parts(dataset, one.begun, _brief(one.config), labelled=False)
        each_s = plan.stages["latents"].core_s / max(len(dataset.used), 1)
        count = max(LEAST_EPISODES, int(ENCODING_SHARE * trial_s / max(each_s, 1e-9)))
        steps_s = sum(cost.core_s for stage, cost in plan.stages.items() if stage != "latents")
        left_s = max(trial_s - count * each_s, trial_s * (1 - 2 * ENCODING_SHARE))
        shares[family] = (min(1.0, left_s / max(steps_s, 1e-9)), count)
    storage.write_json(path, {name: list(pair) for name, pair in shares.items()})
    return shares


def _brief(config: TrainWorld) -> TrainWorld:
    """The settings of a trial before they are shortened."""
    recipe = config.predictor
    kept = [pair for pair in recipe.unrolls if pair[0] <= TRIAL_UNROLL] or [recipe.unrolls[0]]
    unrolls = tuple((unroll, end / kept[-1][1]) for unroll, end in kept)
    schedule = dataclasses.replace(recipe.schedule, batch=min(TRIAL_BATCH, recipe.schedule.batch))
    return dataclasses.replace(config, predictor=dataclasses.replace(recipe, schedule=schedule, unrolls=unrolls))


def _sample(dataset: Dataset, count: int) -> Dataset:
    """The dataset with so many of its training episodes, evenly spread, and none that are held out; all where there are no more."""
    trained = [i for i in split_episodes(dataset)[0] if dataset.length(i) > 1]
    if len(trained) <= count:
        return dataset
    kept = {trained[round(k * (len(trained) - 1) / (count - 1))] for k in range(count)}
    return dataset.without(set(dataset.used) - kept)


def _train_briefly(
    dataset: Dataset, prospect: Prospect, share: float, progress: Progress
) -> tuple[LearnedWorld, float]:
    """A world of a share of a trial's steps, and the core-seconds of these."""
    stages = [*prospect.plan.stages]
    config = shorten_all(_brief(prospect.config), dict.fromkeys(stages, share))
    folder = prospect.folder / "trial"
    parts = train_parts(dataset, copy.deepcopy(prospect.begun), config, folder, progress)
    trained, _ = parts.encoded.split(split_episodes(dataset)[1])
    heads, loss_at = prepare_heads(
        trained,
        parts.encoded,
        parts.tokenizer,
        dataset,
        config.heads,
        labels={},
        seed=config.seed,
        device=config.device,
    )
    last = fit(heads, loss_at, config.heads, folder=folder / "heads", stage="heads", progress=progress)
    world = assemble_world(parts.tokenizer, parts.predictor, heads, dataset, config, parts.encoded)
    return world, sum(parts.core_s.values()) + last


def _total_s(plan: TrainingPlan) -> float:
    return sum(cost.core_s for cost in plan.stages.values())
