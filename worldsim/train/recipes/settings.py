"""The settings of a world's training, shared by its stages."""

import dataclasses

from worldsim.data.latents import hold_out
from worldsim.data.lerobot.join import Data, open_datasets
from worldsim.data.lerobot.read import Dataset
from worldsim.optimize import Schedule
from worldsim.train.recipes.predictor import PredictorRecipe
from worldsim.train.recipes.tokenizer import TokenizerRecipe

HELD_OUT_EVERY = 10
"""Every tenth episode is never trained on: it gives the starts and the figures."""


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
        state: Learn a state world from the data's true states instead of its pictures.
        minutes: Time that the training may take on this machine when nothing else runs; the schedules are shortened to fit,
            by a share that is measured once and kept. 0 trains as long as they say.
        device: Where to train.
        tokenizer: How frames become latents.
        predictor: How latents move.
        heads: Schedule of proprioception, progress and success.
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
    state: bool = False
    minutes: float = 0.0
    device: str = "cpu"
    tokenizer: TokenizerRecipe = dataclasses.field(default_factory=TokenizerRecipe)
    predictor: PredictorRecipe = dataclasses.field(default_factory=PredictorRecipe)
    heads: Schedule = dataclasses.field(default_factory=lambda: Schedule(steps=2000, batch=512, lr=2e-3))


def open_data(config: TrainWorld) -> Dataset:
    """The data of a world, one dataset or several as one; errors as `open_datasets`."""
    return open_datasets(
        config.data, cameras=config.cameras, action=config.action, proprio=config.proprio, weights=config.weights
    )


def split_episodes(dataset: Dataset) -> tuple[list[int], list[int]]:
    """The episodes to train on, and those to hold out; errors as `hold_out`."""
    aside = hold_out(dataset.lengths, every=HELD_OUT_EVERY, source=dataset.name)
    return [i for i in range(dataset.episodes) if i not in aside], sorted(aside)
