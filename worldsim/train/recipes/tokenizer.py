"""The tokenizer stage: choose the family, fit what has a closed form, train the rest on frames.

Shape legend: N frames, H W pixels, C=3 colour, T time, E true state, P proprio.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldsim import storage
from worldsim.errors import InvalidInputError
from worldsim.noise import seeded
from worldsim.optimize import LossAt, Schedule, fit
from worldsim.progress import Progress, silent
from worldsim.text import first_sentence
from worldsim.tokenizers import TOKENIZERS
from worldsim.tokenizers.base import ClosedForm, Tokenizer
from worldsim.tokenizers.layers.tokenizer import LayersConfig, LayersTokenizer
from worldsim.tokenizers.state import IdentityConfig, IdentityTokenizer, PosesTokenizer
from worldsim.video import to_model

SAMPLE = 6000
"""Frames kept in memory to fit and train a tokenizer."""
CLIP_LATENTS = 3
"""Latent frames after the first in the clips that a tokenizer which compresses time is trained on."""
EXPLAINED = 0.9
"""Share of the scene's changes that layers must draw to be chosen by ``auto``."""
TRAINED_GAIN = 0.2
"""Where layers miss that share by less, the pixels of their sprites are trained before ``auto`` decides: it takes seconds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerRecipe:
    """How the tokenizer is made.

    Attributes:
        name: ``auto`` (layers where they explain the scene, else haar_pca; for a state world poses where the states
            are planar poses, else identity), or a registered name.
        options: Fields of the tokenizer's config that differ from its defaults.
        schedule: Training of the learned part.
        lr_layers: Learning rate of sprite pixels, which are few and well initialised.
    """

    name: str = "auto"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    schedule: Schedule = dataclasses.field(default_factory=lambda: Schedule(steps=0, batch=64, lr=2e-3))
    lr_layers: float = 4e-3


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FittedTokenizer:
    """A tokenizer whose closed form is fitted, and whose learned part is still to be trained.

    Attributes:
        name: Of its family.
        tokenizer: The module.
        frames_NCHW: The sample it was fitted to, uint8 [N, 3, H, W]; empty for a state world, which has nothing to train.
        why: Why it was chosen, with what was measured, in a sentence.
    """

    name: str
    tokenizer: Tokenizer
    frames_NCHW: Tensor
    why: str


def fit_tokenizer(
    episodes: Callable[[], Iterator[Tensor]],
    recipe: TokenizerRecipe,
    *,
    seed: int,
    folder: Path,
    progress: Progress = silent,
) -> FittedTokenizer:
    """Choose the family and fit what has a closed form, or take it from `folder`.

    Args:
        episodes: Begins to read frames, uint8 [F, H, W, 3] of one episode after another.
        recipe: What to make.
        seed: Of the frame sample and the batches.
        folder: Working folder of this stage.
        progress: Called as it advances.
    """
    x_NCHW = sample_frames(episodes(), seed=seed)
    started = folder / "fitted"
    if started.exists():
        values, tensors, _ = storage.load_folder(started, kind="tokenizer")
        tokenizer = TOKENIZERS.build(values["name"], values["config"])
        storage.load_weights(_module(tokenizer), tensors, source=started)
        return FittedTokenizer(name=values["name"], tokenizer=tokenizer, frames_NCHW=x_NCHW, why=values.get("why", ""))
    with seeded(0):
        fitted = _fit_closed_form(x_NCHW, recipe, seed=seed, folder=folder / "candidate", progress=progress)
    config = {"name": fitted.name, "config": storage.to_json(fitted.tokenizer.config), "why": fitted.why}
    storage.save_folder(started, kind="tokenizer", config=config, tensors=_module(fitted.tokenizer).state_dict())
    return fitted


def train_tokenizer(
    fitted: FittedTokenizer,
    episodes: Callable[[], Iterator[Tensor]],
    recipe: TokenizerRecipe,
    *,
    seed: int,
    folder: Path,
    progress: Progress = silent,
) -> float:
    """Train the learned part of a tokenizer in place, continuing from `folder`.

    Args:
        fitted: What to train.
        episodes: As for `fit_tokenizer`, uint8 [F, H, W, 3] each.
        recipe: How.
        seed: Of the batches.
        folder: Working folder of this stage.
        progress: Called as it advances.

    Returns:
        Core-seconds spent.
    """
    loss_at, schedule = tokenizer_loss(fitted, episodes, recipe, seed=seed)
    stage = f"tokenizer {fitted.name}"
    return fit(_module(fitted.tokenizer), loss_at, schedule, folder=folder, stage=stage, progress=progress)


def tokenizer_loss(
    fitted: FittedTokenizer, episodes: Callable[[], Iterator[Tensor]], recipe: TokenizerRecipe, *, seed: int
) -> tuple[LossAt, Schedule]:
    """The loss that a tokenizer is trained with, and its schedule; as `train_tokenizer`, frames uint8 [F, H, W, 3]."""
    schedule, tokenizer = recipe.schedule, fitted.tokenizer
    if fitted.name == "layers":
        schedule = dataclasses.replace(schedule, lr=recipe.lr_layers)
    x_NCTHW = fitted.frames_NCHW[:, :, None]
    if tokenizer.temporal_stride > 1:
        x_NCTHW = sample_clips(episodes(), length=1 + CLIP_LATENTS * tokenizer.temporal_stride, seed=seed)

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(x_NCTHW), (schedule.batch,), generator=generator)
        return tokenizer.loss(_in_range(x_NCTHW[rows]))

    return loss_at, schedule


@torch.no_grad()
def explained(tokenizer: Tokenizer, frames_NCHW: Tensor) -> float:
    """Share of what changes between frames that a tokenizer codes and draws: 1 less the squared error over the variance.

    Args:
        tokenizer: Whose latents are drawn again.
        frames_NCHW: uint8 [N, 3, H, W]; the first 512 are used.
    """
    missed, mean = 0.0, _in_range(frames_NCHW[:512, :, None]).mean(0)
    for part in frames_NCHW[:512, :, None].split(64):
        x = _in_range(part)
        missed += float((tokenizer.decode(tokenizer.encode(x)) - x).square().sum())
    total = sum(float((_in_range(p) - mean).square().sum()) for p in frames_NCHW[:512, :, None].split(64))
    return 1 - missed / max(total, 1e-9)


def state_tokenizer(true_state_NE: Tensor, proprio_NP: Tensor, recipe: TokenizerRecipe) -> FittedTokenizer:
    """The tokenizer of a state world, in closed form.

    Args:
        true_state_NE: True states of many frames.
        proprio_NP: Proprioception of the same frames.
        recipe: `name` is ``auto``, ``poses`` or ``identity``; the rest is for pictures.

    Raises:
        InvalidInputError: Another name, or poses were asked for and these are none.
    """
    if recipe.name not in ("auto", "poses", "identity"):
        raise InvalidInputError(
            f"A state world has no pictures for tokenizer.name={recipe.name}. Use auto, poses or identity."
        )
    nothing, why = torch.empty(0), "As asked for"
    if recipe.name != "identity":
        try:
            poses = PosesTokenizer.fit(true_state_NE, proprio_NP)
            return FittedTokenizer(
                name="poses", tokenizer=poses, frames_NCHW=nothing, why="The states are planar poses"
            )
        except InvalidInputError as error:
            if recipe.name == "poses":
                raise
            why = f"The states are no planar poses: {first_sentence(error)}"
    identity = IdentityTokenizer(IdentityConfig(size=true_state_NE.shape[1]))
    return FittedTokenizer(name="identity", tokenizer=identity, frames_NCHW=nothing, why=why)


def _module(tokenizer: Tokenizer) -> nn.Module:
    assert isinstance(tokenizer, nn.Module)
    return tokenizer


def _in_range(x_NCTHW: Tensor) -> Tensor:
    """Frames uint8 [N, 3, T, H, W] -> float32 in [-1, 1]."""
    return to_model(x_NCTHW.movedim(1, -1)).movedim(-3, 1)


def sample_clips(episodes: Iterator[Tensor], *, length: int, seed: int) -> Tensor:
    """Clips of `length` frames, up to eight of each episode, uint8 [N, 3, length, H, W].

    Raises:
        InvalidInputError: No episode is that long.
    """
    kept: list[Tensor] = []
    generator = torch.Generator().manual_seed(seed)
    for frames in episodes:
        first = torch.randperm(max(0, len(frames) - length + 1), generator=generator)[:8]
        kept += [frames[i : i + length].movedim(-1, 0) for i in first.sort().values.tolist()]
    if not kept:
        raise InvalidInputError(
            f"No episode has {length} frames, which this tokenizer is trained on. Record longer ones."
        )
    rows = torch.randperm(len(kept), generator=generator)[: SAMPLE // length]
    return torch.stack([kept[i] for i in rows.tolist()])


def sample_frames(episodes: Iterator[Tensor], *, seed: int) -> Tensor:
    """An even sample of frames over all episodes (eight of each), uint8 [N, 3, H, W]."""
    kept: list[Tensor] = []
    generator = torch.Generator().manual_seed(seed)
    for frames in episodes:
        rows = torch.randperm(len(frames), generator=generator)[:8]
        kept.append(frames[rows.sort().values].movedim(-1, 1))
    if not kept:
        raise InvalidInputError("The dataset has no episode to train on; collect at least two.")
    x_NCHW = torch.cat(kept)
    rows = torch.randperm(len(x_NCHW), generator=generator)[:SAMPLE]
    return x_NCHW[rows].contiguous()


def _fit_closed_form(
    x_NCHW: Tensor, recipe: TokenizerRecipe, *, seed: int, folder: Path, progress: Progress
) -> FittedTokenizer:
    """Choose the family, and fit what needs no training."""
    x = _in_range(x_NCHW[:3000, :, None])[:, :, 0]
    tried = ""
    if recipe.name in ("auto", "layers"):
        try:
            layers = LayersTokenizer.fit(x, **{k: v for k, v in recipe.options.items() if k in _layer_options()})
            fitted, share = _judge_layers(layers, x, x_NCHW, recipe, seed=seed, folder=folder, progress=progress)
            if recipe.name == "layers" or share >= EXPLAINED:
                return fitted
            tried = f"{fitted.why}, which is less than {EXPLAINED:.0%}; tokenizer.name=layers takes them all the same. "
        except InvalidInputError as error:
            if recipe.name == "layers":
                raise
            tried = f"Layers, which are tried first, do not fit: {first_sentence(error)}. "
    name = "haar_pca" if recipe.name == "auto" else recipe.name
    tokenizer = TOKENIZERS.build(name, {"image_size": list(x.shape[-2:]), **recipe.options})
    asked = f"{name} takes pictures of any kind" if recipe.name == "auto" else "As asked for"
    measured = ""
    if isinstance(tokenizer, ClosedForm):
        tokenizer.fit_frames(x)
        measured = f"; its closed form explains {explained(tokenizer, x_NCHW):.1%} of what changes between frames"
    return FittedTokenizer(name=name, tokenizer=tokenizer, frames_NCHW=x_NCHW, why=f"{tried}{asked}{measured}")


def _judge_layers(
    layers: LayersTokenizer,
    x: Tensor,
    x_NCHW: Tensor,
    recipe: TokenizerRecipe,
    *,
    seed: int,
    folder: Path,
    progress: Progress,
) -> tuple[FittedTokenizer, float]:
    """Layers that were fitted, and the share of the changes they explain: where auto would refuse them, after training too."""
    share = layers.explained(x[:512])
    why = f"Layers explain {share:.1%} of what changes between frames"
    fitted = FittedTokenizer(name="layers", tokenizer=layers, frames_NCHW=x_NCHW, why=why)
    if recipe.name != "auto" or not EXPLAINED - TRAINED_GAIN <= share < EXPLAINED:
        return fitted, share
    trained = dataclasses.replace(fitted, tokenizer=copy.deepcopy(layers))
    train_tokenizer(trained, lambda: iter(()), recipe, seed=seed, folder=folder, progress=progress)
    share = trained.tokenizer.explained(x[:512])  # type: ignore[attr-defined]
    return dataclasses.replace(fitted, why=f"{why} before their pixels are trained and {share:.1%} after"), share


def _layer_options() -> set[str]:
    return {f.name for f in dataclasses.fields(LayersConfig)} & {"max_layers", "oversample"}
