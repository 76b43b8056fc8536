"""The settings of a world's training, shared by its stages."""

import dataclasses
from typing import Literal

from worldsim.data.faults.screen import FaultRule
from worldsim.data.latents import hold_out
from worldsim.data.lerobot.join import Data, open_datasets
from worldsim.data.lerobot.read import Dataset
from worldsim.optimize import Schedule, shorten_schedule
from worldsim.train.recipes.predictor import PredictorRecipe
from worldsim.train.recipes.structured.settings import StructuredRecipe
from worldsim.train.recipes.tokenizer import TokenizerRecipe

HELD_OUT_EVERY = 10
"""Every tenth episode is never trained on: it gives the starts and the figures."""
EPOCHS = 400
"""Passes over the data after which a schedule ends whose steps are not asked for. On 450 transitions of the push task a plain
network is 0.61, 0.59, 0.56 and 0.56 standard deviations off after 16 steps with 100, 200, 400 and 800 passes."""
MOST_STEPS = {"tokenizer": 400, "predictor": 6000, "heads": 2000}
"""Where such a schedule ends at the latest: about ten passes over the shipped worlds' data."""


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
        family: ``auto`` (as `tokenizer` and `predictor` say), or ``structured``: a canvas, the robot drawn from
            proprioception, things found without labels, and a contact model; for fixed cameras.
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
    family: Literal["auto", "structured"] = "auto"
    structured: StructuredRecipe = dataclasses.field(default_factory=StructuredRecipe)
    tokenizer: TokenizerRecipe = dataclasses.field(default_factory=TokenizerRecipe)
    predictor: PredictorRecipe = dataclasses.field(default_factory=PredictorRecipe)
    heads: Schedule = dataclasses.field(default_factory=lambda: Schedule(steps=0, batch=512, lr=2e-3))


def open_data(config: TrainWorld) -> Dataset:
    """The data of a world, one dataset or several as one; errors as `open_datasets`."""
    return open_datasets(
        config.data, cameras=config.cameras, action=config.action, proprio=config.proprio, weights=config.weights
    )


def settle_schedules(config: TrainWorld, dataset: Dataset) -> TrainWorld:
    """The same settings with steps in every schedule: `EPOCHS` passes over the transitions that are trained on, or what is asked for.

    No stage takes more than `MOST_STEPS`; a schedule that takes fewer also warms up in fewer.
    """
    transitions = _transitions(dataset)

    def settle(schedule: Schedule, stage: str) -> Schedule:
        if schedule.steps:
            return schedule
        most = dataclasses.replace(schedule, steps=MOST_STEPS[stage])
        return shorten_schedule(most, min(1.0, EPOCHS * transitions / (schedule.batch * most.steps)))

    return dataclasses.replace(
        config,
        tokenizer=dataclasses.replace(config.tokenizer, schedule=settle(config.tokenizer.schedule, "tokenizer")),
        predictor=dataclasses.replace(config.predictor, schedule=settle(config.predictor.schedule, "predictor")),
        heads=settle(config.heads, "heads"),
    )


def explain_schedules(config: TrainWorld, dataset: Dataset) -> str:
    """Where the steps of the settled schedules come from, in a phrase; empty where all were asked for."""
    if all(s.steps for s in (config.tokenizer.schedule, config.predictor.schedule, config.heads)):
        return ""
    most = ", ".join(f"{name} {steps:,}" for name, steps in MOST_STEPS.items())
    return f"by default {EPOCHS} passes over {_transitions(dataset):,} transitions, at most {most}"


def _transitions(dataset: Dataset) -> int:
    """Pairs of frames with the action between them, in the episodes that are trained on."""
    return sum(dataset.length(i) - 1 for i in split_episodes(dataset)[0])


def split_episodes(dataset: Dataset) -> tuple[list[int], list[int]]:
    """The episodes to train on, and those to hold out, of those that are used; errors as `hold_out`."""
    used = dataset.used
    places = hold_out([dataset.length(i) for i in used], every=HELD_OUT_EVERY, source=dataset.name)
    return [i for place, i in enumerate(used) if place not in places], [used[place] for place in sorted(places)]
