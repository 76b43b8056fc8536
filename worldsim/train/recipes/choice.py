"""Which family a world is of, where the settings leave it open: each candidate is trained for a short time and measured.

Candidates are families whose closed form fits, whose input is there, and whose training fits the time that was asked for. Choosing
takes a small share of what the cheapest would cost in full. Each gets the same core-seconds of steps, and is measured on held-out
episodes beside copying and a constant background. Where time does not reach for all, those that suit the data best are tried;
where it does not reach for two, the first of them is taken. What the trials learned is thrown away but for closed forms.
"""

import copy
import dataclasses
import shutil
import tempfile
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
from worldsim.train.recipes.cost import FRAMES, LATENTS, Candidate, Cost, TrainingPlan
from worldsim.train.recipes.heads import prepare_heads
from worldsim.train.recipes.parts import Begun, begin_parts, keep_rows, rehearse_parts, train_parts
from worldsim.train.recipes.rehearsal import shorten_all
from worldsim.train.recipes.settings import FAMILIES, TrainWorld, settle_schedules, split_episodes, with_family
from worldsim.train.recipes.structured.family import BegunPictures
from worldsim.train.recipes.tokenizer import EXPLAINED, TRAINED_GAIN, train_tokenizer
from worldsim.worlds.latent import LearnedWorld

CHOICE_SHARE, TRIAL_CORE_S = 0.15, 60.0
"""Choosing takes that share of the training of the cheapest candidate: beginning and rehearsing all, then trials, each no longer than that."""
LEAST_TRIAL_CORE_S = 20.0
"""In less time than this a family of several stages shows nothing, and is not tried."""
ENCODING_SHARE, LEAST_EPISODES = 0.2, 12
"""Share of a trial that encoding takes, which says how many episodes it learns from; no fewer than those."""
STEPS_SHARE = 0.5
"""Share of a trial that steps take at least, however long the rest takes."""
TRIAL_ROWS, TRIAL_HELD_OUT = 1000, 200
"""Moments that pictures of the structured family are learned from in a trial, and measured on: some work is done once for each."""
TRIAL_BATCH, TRIAL_UNROLL = 32, 4
"""Batches and rollouts of predictors of layers and grids in trials: many small steps teach more in a short time than few large."""
PIXEL_STEPS = 30
"""Steps that pixels of layers are trained for where they explain too little, to see whether they would explain enough: in 2
core-seconds 88 % become 94 % in MountainCar, where layers are far better, and 80 % become 82 % in PushT, where they are worse."""
CLEAR = 0.8
"""Error, as a share of that of copying or a constant background, below which a family does well: the last is then not tried."""
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
    """All of them.

    Attributes:
        fit: By family, the one that should suit the data best first.
        refused: Why other families are none.
        spent_s: Core-seconds that it took to find this out.
    """

    fit: dict[str, Prospect]
    refused: dict[str, str]
    spent_s: float = 0.0

    @property
    def cheapest_s(self) -> float:
        """Core-seconds that the cheapest takes."""
        return min(_total_s(one.plan) for one in self.fit.values())

    def trials(self, minutes: float) -> dict[str, float]:
        """Families to try, as many as time reaches for, and core-seconds for each; empty where it does not reach for two."""
        cost_s = min(self.cheapest_s, 60 * minutes) if minutes else self.cheapest_s
        left_s = CHOICE_SHARE * cost_s - self.spent_s
        for count in range(len(self.fit), 1, -1):
            if left_s / count >= LEAST_TRIAL_CORE_S:
                return dict.fromkeys([*self.fit][:count], min(TRIAL_CORE_S, left_s / count))
        return {}

    def within(self, minutes: float, *, spent_s: float) -> "Prospects":
        """Those whose training fits a time beside the trials; the others are refused.

        Args:
            minutes: That training may take; 0 for no limit.
            spent_s: Seconds that were spent before.

        Raises:
            InvalidInputError: None fits.
        """
        fitting, refused, last = dict[str, Prospect](), dict(self.refused), None
        for family, one in self.fit.items():
            try:
                one.plan.fit(minutes, spent_s=spent_s + sum(self.trials(minutes).values()))
                fitting[family] = one
            except InvalidInputError as error:
                refused[family], last = first_sentence(error), error
        if last is not None and not fitting:
            raise last
        return dataclasses.replace(self, fit=fitting, refused=refused)

    def listed(
        self, spent_s: Mapping[str, float], minutes: float, *, failed: Mapping[str, str] | None = None
    ) -> tuple[Candidate, ...]:
        """All families, with what their trials took or will take; those whose trials failed, or were not run, count as refused."""
        trials, refused = self.trials(minutes), {**self.refused, **(failed or {})}
        return (
            *(
                Candidate(
                    family=name,
                    cost=sum(one.plan.stages.values(), Cost()),
                    trial_s=spent_s.get(name, trials.get(name, 0.0)),
                    refused=refused.get(name, ""),
                )
                for name, one in self.fit.items()
            ),
            *(Candidate(family=name, refused=why) for name, why in refused.items() if name not in self.fit),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tried:
    """What came of the trials.

    Attributes:
        best: The family to train.
        compared: How all did; None where there was no choice.
        spent_s: Core-seconds of each trial.
        failed: Families whose trial failed or was not run, and why.
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
    """Begin every family, and rehearse those that fit the data.

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
    began, fitting, why, doubtful = Cost.now(), dict[str, Prospect](), dict(refused), set[str]()
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
        share = _explained(begun)
        if share < EXPLAINED - TRAINED_GAIN:
            why[family] = f"layers explain {share:.0%} of what changes between frames"
            shutil.rmtree(work / family, ignore_errors=True)
            continue
        if share < EXPLAINED and _explained_trained(begun, own) < EXPLAINED:
            doubtful.add(family)
        plan = rehearse_parts(dataset, begun, own, labelled=labelled)
        fitting[family] = Prospect(config=own, begun=begun, plan=plan, folder=work / family)
    progress("candidates", len(FAMILIES), len(FAMILIES), {})
    suited = sorted(fitting, key=lambda family: (family == FAMILIES[-1], family in doubtful))
    fit_ = {family: fitting[family] for family in suited}
    return Prospects(fit=fit_, refused=why, spent_s=Cost.since(began).core_s)


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
    if not found.trials(minutes) and not (work / TRIALS).exists():
        return Tried(best=next(iter(found.fit)))
    windows = read_windows(dataset, split_episodes(dataset)[1])
    shares = _shares(dataset, found, work, minutes)
    lines, spent_s, failed, still = (
        dict[str, Measured](),
        dict[str, float](),
        dict[str, str](),
        measure_copying(windows),
    )

    def compared() -> Comparison:
        return Comparison(horizons=windows.horizons, windows=len(windows.action), lines={**lines, **still})

    for number, (family, (share, episodes)) in enumerate(shares.items()):
        progress("trials", number, len(shares), {"family": family})
        began = Cost.now()
        if family == FAMILIES[-1] and (good := compared().clear(CLEAR)):
            failed[family] = f"{good[0]} does well, and {family} is for what suits no other"
            continue
        try:
            world = _train_briefly(_sample(dataset, episodes), found.fit[family], share, progress)
        except TrainingError as error:
            failed[family] = f"its trial failed: {first_sentence(error)}"
            continue
        lines[family] = measure_world(world, windows)
        spent_s[family] = Cost.since(began).core_s
    progress("trials", len(shares), len(shares), {})
    if not lines:
        raise TrainingError(
            f"The trial of every family failed. {'; '.join(f'{k}: {why}' for k, why in failed.items())}."
        )
    table = compared()
    limit = (1 + CLOSE) * min(table.score(family) for family in lines)
    close = [family for family in lines if table.score(family) <= limit]
    best = min(close, key=lambda family: _total_s(found.fit[family].plan))
    return Tried(best=best, compared=table, spent_s=spent_s, failed=failed)


def _explained(begun: Begun) -> float:
    """Share of what changes between frames that layers explain as they were fitted, the least of all cameras; 1 for other families."""
    if isinstance(begun, BegunPictures):
        return 1.0
    layers = [(one.tokenizer, one.frames_NCHW[:512]) for one in begun.values()]
    return min((t.explained(x.float() / 127.5 - 1) for t, x in layers if isinstance(t, LayersTokenizer)), default=1.0)


def _explained_trained(begun: Begun, config: TrainWorld) -> float:
    """The same after a few steps that train the pixels of layers; `begun` stays as it is."""
    schedule = config.tokenizer.schedule
    schedule = dataclasses.replace(schedule, steps=min(PIXEL_STEPS, schedule.steps), warmup=PIXEL_STEPS // 6)
    recipe = dataclasses.replace(config.tokenizer, schedule=schedule)
    trained = copy.deepcopy(begun)
    assert not isinstance(trained, BegunPictures)
    for one in trained.values():
        with tempfile.TemporaryDirectory(prefix="worldsim-pixels-") as scratch:
            train_tokenizer(one, lambda: iter(()), recipe, seed=config.seed, folder=Path(scratch))
    return _explained(trained)


def _shares(dataset: Dataset, found: Prospects, work: Path, minutes: float) -> dict[str, tuple[float, int]]:
    """Share of the steps of each trial's settings that it takes, and episodes that it learns from; kept, since they are timed."""
    path = work / TRIALS
    if path.exists():
        kept = storage.read_json(path)
        return {name: (float(share), int(count)) for name, (share, count) in kept.items() if name in found.fit}
    began, trials = Cost.now(), found.trials(minutes)
    counts, steps_s, fixed_s, most = dict[str, int](), dict[str, float](), 0.0, len(split_episodes(dataset)[0])
    for family, trial_s in trials.items():
        one = found.fit[family]
        plan = rehearse_parts(
            dataset, keep_rows(one.begun, most=TRIAL_ROWS, held_out=TRIAL_HELD_OUT), _brief(one.config), labelled=False
        )
        each_s = plan.stages["latents"].core_s / max(len(dataset.used), 1)
        counts[family] = min(most, max(LEAST_EPISODES, int(ENCODING_SHARE * trial_s / max(each_s, 1e-9))))
        fixed_s += counts[family] * each_s + plan.stages.get(FRAMES, Cost()).core_s
        steps_s[family] = sum(cost.core_s for stage, cost in plan.stages.items() if stage not in (LATENTS, FRAMES))
    total_s = sum(trials.values())
    each_s = max(total_s - fixed_s - Cost.since(began).core_s, STEPS_SHARE * total_s) / len(trials)
    shares = {family: (min(1.0, each_s / max(s, 1e-9)), counts[family]) for family, s in steps_s.items()}
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


def _train_briefly(dataset: Dataset, prospect: Prospect, share: float, progress: Progress) -> LearnedWorld:
    """A world of a share of a trial's steps."""
    stages = [*prospect.plan.stages]
    config = shorten_all(_brief(prospect.config), dict.fromkeys(stages, share))
    folder = prospect.folder / "trial"
    few = keep_rows(prospect.begun, most=TRIAL_ROWS, held_out=TRIAL_HELD_OUT)
    parts = train_parts(dataset, copy.deepcopy(few), config, folder, progress)
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
    fit(heads, loss_at, config.heads, folder=folder / "heads", stage="heads", progress=progress)
    return assemble_world(parts.tokenizer, parts.predictor, heads, dataset, config, parts.encoded)


def _total_s(plan: TrainingPlan) -> float:
    return sum(cost.core_s for cost in plan.stages.values())
