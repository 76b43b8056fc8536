"""A world put together from its trained parts and what the data says of its spec."""

from typing import Literal

from worldsim.core import STATE, TASK, TRUE_STATE, WorldSpec
from worldsim.data.latents import EncodedEpisodes
from worldsim.data.lerobot.read import Dataset
from worldsim.data.starts import Starts
from worldsim.predict.base import Predictor
from worldsim.tokenizers.base import LatentSpace
from worldsim.train.recipes.settings import TrainWorld
from worldsim.worlds.heads import Heads
from worldsim.worlds.latent import LatentWorld, LearnedWorld, drawable_shape
from worldsim.worlds.state import StateWorld


def assemble_world(
    tokenizer: LatentSpace,
    predictor: Predictor,
    heads: Heads,
    dataset: Dataset,
    config: TrainWorld,
    encoded: EncodedEpisodes,
    *,
    starts: Starts | None = None,
    unlabelled: tuple[Literal["success", "progress"], ...] = (),
) -> LearnedWorld:
    """Put the parts together, on the CPU.

    Args:
        tokenizer: How frames become latents.
        predictor: How latents move.
        heads: What is read off latents.
        dataset: What they were trained on.
        config: How.
        encoded: All of its episodes.
        starts: First observations to carry along.
        unlabelled: What the heads had no labels of.
    """
    stride = tokenizer.temporal_stride * predictor.frames_per_step
    cameras = () if config.state else dataset.cameras
    text = (TASK,) if "text" in predictor.reads and len(dataset.tasks) > 1 else ()
    spec = WorldSpec(
        action=dataset.action_spec,
        cameras=cameras,
        observes=(*([TRUE_STATE] if config.state else [camera.key for camera in cameras]), STATE, *text),
        latent_shape=drawable_shape(tokenizer, predictor.frames_per_step),
        proprio_dim=encoded.proprio_dim,
        horizon=config.horizon or (encoded.longest - 1) * stride,
        actions_per_step=stride,
        success_at=dataset.success_at,
        task=dataset.task,
        task_id=dataset.task_id,
        unlabelled=unlabelled,
    )
    kind = StateWorld if config.state else LatentWorld
    return kind(spec=spec, tokenizer=tokenizer, predictor=predictor, heads=heads, starts=starts).cpu()
