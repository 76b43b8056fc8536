"""The settings of a world's training, shared by its stages."""

import dataclasses
from typing import Literal

from worldsim.data.faults.screen import FaultRule
from worldsim.data.latents import HELD_OUT_EVERY, hold_out
from worldsim.data.lerobot.join import Data, open_datasets
from worldsim.data.lerobot.read import Dataset
from worldsim.errors import InvalidInputError
from worldsim.optimize import Schedule, shorten_schedule
from worldsim.train.recipes.predictor import PredictorRecipe
from worldsim.train.recipes.structured.settings import FAMILY, STAGES, StructuredRecipe
from worldsim.train.recipes.tokenizer import TokenizerRecipe

FAMILIES = ("layers", "structured", "grid")
"""What `TrainWorld.family` chooses among; the last takes pictures of any kind."""
EPOCHS = 400
"""Passes over the data after which a schedule ends whose steps are not asked for. On 450 transitions of the push task a plain
network is 0.61, 0.59, 0.56 and 0.56 standard deviations off after 16 steps with 100, 200, 400 and 800 passes."""
MOST_STEPS = {"tokenizer": 400, "predictor": 6000, "heads": 2000}
"""Where such a schedule ends at the latest: about ten passes over the shipped worlds' data."""
MOST_STRUCTURED = {"actor": 2400, "things": 2400, "painter": 1200, "body": 8000, "contact": 5000}
"""Likewise of the stages of the structured family."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainWorld:
    """Settings of `worldsim.train.recipes.world.train_world`.

    Attributes:
        data: Dataset (LeRobotDataset v3 or v2.1), a folder or ``hf://datasets/OWNER/NAME``; or several that agree.
        out: World folder to write.
        seed: Of every random choice.
        cameras: Image features to learn from, the main one first; empty for all that can be read.
        action: Features that are joined to the actions, in this order; empty for `action`, or all of `action.*`.
        proprio: Likewise of the proprioception; empty for `observation.state`, or all of `observation.state.*`.
        weights: Shares of the batches that come from each dataset; empty for as it is. Tokenizers see all frames alike.
        horizon: Actions of an episode inside the world; 0 for as many as the longest episode has.
        num_starts: First observations to carry along.
        starts: Dataset that they come from; empty for the held-out episodes, and then, where those are too few, the others.
        labels: File of labels that people gave to the episodes (`worldsim label`); they replace the success that the data
            holds.
        faults: What is done about episodes with faults (`worldsim.data.faults.screen`): ``say`` (named and used all the
            same), ``leave_out``, or ``refuse``.
        dreams: Run folder of a triage whose dreams people labelled (`worldsim label RUN`): the heads learn from these too.
        state: Learn a state world from the data's true states instead of its pictures.
        minutes: Time that the training may take on this machine when nothing else runs; the schedules are shortened to fit,
            most where steps cost most, by shares that are measured once and kept. 0 trains as long as they say.
        device: Where to train.
        family: ``layers``: flat rigid things seen from above, in closed form. ``structured``: a canvas, the robot drawn from
            proprioception, things found without labels, and a contact model; for fixed cameras. ``grid``: features on a grid,
            for pictures of any kind. ``auto``: the one that does best in a short trial of each that fits, see
            `worldsim.train.recipes.choice`; where `tokenizer` or `predictor` has a name or options, as these say.
        structured: Stages of the structured family; the others are `tokenizer` and `predictor`.
        tokenizer: How frames become latents.
        predictor: How latents move.
        heads: Schedule of proprioception, progress and success.

    A schedule whose steps are 0, as by default, takes as many as the data is worth; see `settle_schedules`.
    """

    data: Data
    out: str
    seed: int = 0
    cameras: tuple[str, ...] = ()
    action: tuple[str, ...] = ()
    proprio: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    horizon: int = 0
    num_starts: int = 400
    starts: str = ""
    labels: str = ""
    faults: FaultRule = "say"
    dreams: str = ""
    state: bool = False
    minutes: float = 0.0
    device: str = "cpu"
    family: Literal["auto", "layers", "grid", "structured"] = "auto"
    structured: StructuredRecipe = dataclasses.field(default_factory=StructuredRecipe)
    tokenizer: TokenizerRecipe = dataclasses.field(default_factory=TokenizerRecipe)
    predictor: PredictorRecipe = dataclasses.field(default_factory=PredictorRecipe)
    heads: Schedule = dataclasses.field(default_factory=lambda: Schedule(steps=0, batch=512, lr=2e-3))


def leaves_family_open(config: TrainWorld) -> bool:
    """Whether the family is to be found by trial: nothing in the settings says which it is."""
    named = (config.tokenizer.name, config.predictor.name) != ("auto", "auto")
    return not (
        config.family != "auto" or named or config.tokenizer.options or config.predictor.options or config.state
    )


def with_family(config: TrainWorld, family: str) -> TrainWorld:
    """The settings that train a family, ``auto`` for what `tokenizer` and `predictor` say.

    Raises:
        InvalidInputError: A tokenizer of another family is asked for, or true states, which have no pictures.
    """
    if family == "auto":
        return config
    tokenizer, predictor = config.tokenizer, config.predictor
    fitting = {"layers": ("auto", "layers"), "structured": ("auto",)}.get(family, ())
    other = tokenizer.name not in fitting if fitting else tokenizer.name == "layers"
    if config.state or other:
        asked = "state=true" if config.state else f"tokenizer.name={tokenizer.name}"
        raise InvalidInputError(
            f"family={family} learns from pictures in its own way, not with {asked}. Leave one out."
        )
    if family == "layers":
        tokenizer = dataclasses.replace(tokenizer, name="layers")
    elif family == "grid" and tokenizer.name == "auto":
        tokenizer = dataclasses.replace(tokenizer, name="haar_pca")
    return dataclasses.replace(config, family=family, tokenizer=tokenizer, predictor=predictor)  # type: ignore[arg-type]


def open_data(config: TrainWorld) -> Dataset:
    """The data of a world, one dataset or several as one; errors as `open_datasets`."""
    return open_datasets(
        config.data, cameras=config.cameras, action=config.action, proprio=config.proprio, weights=config.weights
    )


def settle_schedules(config: TrainWorld, dataset: Dataset) -> TrainWorld:
    """The same settings with steps in every schedule: `EPOCHS` passes over the transitions that are trained on, or what is asked for.

    No stage takes more than `MOST_STEPS` or `MOST_STRUCTURED`; a schedule that takes fewer also warms up in fewer.
    """
    transitions = _transitions(dataset)

    def settle(schedule: Schedule, stage: str) -> Schedule:
        if schedule.steps:
            return schedule
        most = dataclasses.replace(schedule, steps=(MOST_STEPS | MOST_STRUCTURED)[stage])
        return shorten_schedule(most, min(1.0, EPOCHS * transitions / (schedule.batch * most.steps)))

    return dataclasses.replace(
        config,
        tokenizer=dataclasses.replace(config.tokenizer, schedule=settle(config.tokenizer.schedule, "tokenizer")),
        predictor=dataclasses.replace(config.predictor, schedule=settle(config.predictor.schedule, "predictor")),
        structured=dataclasses.replace(
            config.structured,
            **{name: settle(getattr(config.structured, name), name) for name in STAGES},  # type: ignore[arg-type]
        ),
        heads=settle(config.heads, "heads"),
    )


def explain_schedules(config: TrainWorld, dataset: Dataset) -> str:
    """Where the steps of the settled schedules come from, in a phrase; empty where all were asked for."""
    if config.family == FAMILY:
        limits = MOST_STRUCTURED | {"heads": MOST_STEPS["heads"]}
        schedules = [*(getattr(config.structured, name) for name in STAGES), config.heads]
    else:
        limits, schedules = MOST_STEPS, [config.tokenizer.schedule, config.predictor.schedule, config.heads]
    if all(schedule.steps for schedule in schedules):
        return ""
    most = ", ".join(f"{name} {steps:,}" for name, steps in limits.items())
    return f"by default {EPOCHS} passes over {_transitions(dataset):,} transitions, at most {most}"


def _transitions(dataset: Dataset) -> int:
    """Pairs of frames with the action between them, in the episodes that are trained on."""
    return sum(dataset.length(i) - 1 for i in split_episodes(dataset)[0])


def split_episodes(dataset: Dataset) -> tuple[list[int], list[int]]:
    """The episodes to train on, and those to hold out, of those that are used; errors as `hold_out`."""
    used = dataset.used
    places = hold_out([dataset.length(i) for i in used], every=HELD_OUT_EVERY, source=dataset.name)
    return [i for place, i in enumerate(used) if place not in places], [used[place] for place in sorted(places)]
