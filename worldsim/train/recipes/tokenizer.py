"""The tokenizer stage: choose the family, fit what has a closed form, train the rest on frames.

Shape legend: N frames, H W pixels, C=3 colour, T time, E true state, P proprio.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldsim import storage
from worldsim.errors import InvalidInputError
from worldsim.noise import seeded
from worldsim.optimize import Schedule, fit
from worldsim.progress import Progress, silent
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
    schedule: Schedule = dataclasses.field(default_factory=lambda: Schedule(steps=400, batch=64, lr=2e-3))
    lr_layers: float = 4e-3


def train_tokenizer(
    episodes: Callable[[], Iterator[Tensor]],
    recipe: TokenizerRecipe,
    *,
    seed: int,
    folder: Path,
    progress: Progress = silent,
) -> tuple[Tokenizer, float]:
    """Fit and train a tokenizer, continuing from `folder`.

    Args:
        episodes: Begins to read frames, uint8 [F, H, W, 3] of one episode after another.
        recipe: What to make.
        seed: Of the frame sample and the batches.
        folder: Working folder of this stage.
        progress: Called as it advances.

    Returns:
        The tokenizer and the core-seconds spent.
    """
    x_NCHW = sample_frames(episodes(), seed=seed)
    started = folder / "fitted"
    if started.exists():
        values, tensors, _ = storage.load_folder(started, kind="tokenizer")
        tokenizer = TOKENIZERS.build(values["name"], values["config"])
        storage.load_weights(_module(tokenizer), tensors, source=started)
        name = values["name"]
    else:
        with seeded(0):
            name, tokenizer = _fit_closed_form(x_NCHW, recipe)
        config = {"name": name, "config": storage.to_json(tokenizer.config)}
        storage.save_folder(started, kind="tokenizer", config=config, tensors=_module(tokenizer).state_dict())
    schedule = recipe.schedule
    if name == "layers":
        schedule = dataclasses.replace(schedule, lr=recipe.lr_layers)
    x_NCTHW = x_NCHW[:, :, None]
    if tokenizer.temporal_stride > 1:
        x_NCTHW = sample_clips(episodes(), length=1 + CLIP_LATENTS * tokenizer.temporal_stride, seed=seed)

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(x_NCTHW), (schedule.batch,), generator=generator)
        return tokenizer.loss(_in_range(x_NCTHW[rows]))

    return tokenizer, fit(
        _module(tokenizer), loss_at, schedule, folder=folder, stage=f"tokenizer {name}", progress=progress
    )


def state_tokenizer(true_state_NE: Tensor, proprio_NP: Tensor, recipe: TokenizerRecipe) -> Tokenizer:
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
    if recipe.name != "identity":
        try:
            return PosesTokenizer.fit(true_state_NE, proprio_NP)
        except InvalidInputError:
            if recipe.name == "poses":
                raise
    return IdentityTokenizer(IdentityConfig(size=true_state_NE.shape[1]))


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


def _fit_closed_form(x_NCHW: Tensor, recipe: TokenizerRecipe) -> tuple[str, Tokenizer]:
    """Make the tokenizer and fit what needs no training."""
    x = _in_range(x_NCHW[:3000, :, None])[:, :, 0]
    if recipe.name in ("auto", "layers"):
        try:
            layers = LayersTokenizer.fit(x, **{k: v for k, v in recipe.options.items() if k in _layer_options()})
            if recipe.name == "layers" or layers.explained(x[:512]) >= EXPLAINED:
                return "layers", layers
        except InvalidInputError:
            if recipe.name == "layers":
                raise
    name = "haar_pca" if recipe.name == "auto" else recipe.name
    values = {"image_size": list(x.shape[-2:]), **recipe.options}
    tokenizer = TOKENIZERS.build(name, values)
    if isinstance(tokenizer, ClosedForm):
        tokenizer.fit_frames(x)
    return name, tokenizer


def _layer_options() -> set[str]:
    return {f.name for f in dataclasses.fields(LayersConfig)} & {"max_layers", "oversample"}
