"""The settings of a world's training, shared by its stages."""

import dataclasses

from worldsim.optimize import Schedule
from worldsim.train.recipes.predictor import PredictorRecipe
from worldsim.train.recipes.tokenizer import TokenizerRecipe

HELD_OUT_EVERY = 10
"""Every tenth episode is never trained on: it gives the starts and the figures."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainWorld:
    """Settings of `worldsim.train.recipes.world.train_world`.

    Attributes:
        data: Dataset folder (LeRobotDataset v3).
        out: World folder to write.
        seed: Of every random choice.
        cameras: Image features to learn from, the main one first; empty for all.
        horizon: Actions of an episode inside the world; 0 for as many as the longest held-out episode has.
        num_starts: First observations to carry along.
        starts: Dataset folder that they come from; empty for the held-out episodes.
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

    data: str
    out: str
    seed: int = 0
    cameras: tuple[str, ...] = ()
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
