from pathlib import Path

import torch

from worldsim.optimize import Schedule, fit
from worldsim.progress import silent
from worldsim.train.recipes.structured.kinds import find_kinds
from worldsim.train.recipes.structured.pictures import begin_tokenizer, expecting, things_loss
from worldsim.train.recipes.structured.rows import FrameRows
from worldsim.train.recipes.structured.settings import StructuredRecipe

SIDE, SQUARE, GREY = 32, 9, 150


def squares(count: int) -> FrameRows:
    """A grey square at random places of a white table."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.full((count, 3, SIDE, SIDE), 255, dtype=torch.uint8)
    for frame in frames:
        x, y = (int(n) for n in torch.randint(0, SIDE - SQUARE, (2,), generator=generator))
        frame[:, y : y + SQUARE, x : x + SQUARE] = GREY
    return FrameRows(frames_NCHW=frames, proprio_NP=torch.randn(count, 2, generator=generator))


def test_a_thing_that_is_only_seen_over_white_is_learned_opaque(tmp_path: Path) -> None:
    rows, schedule = squares(200), Schedule(steps=300, batch=16, lr=2e-3, clip=5.0)
    tokenizer = begin_tokenizer(rows, StructuredRecipe(), seed=0)
    kinds = find_kinds(tokenizer, rows, most=1)
    tokenizer = expecting(tokenizer, kinds, seed=0)
    parts = torch.nn.ModuleList([tokenizer.encoder, tokenizer.painter])
    loss_at = things_loss(tokenizer, rows, kinds, schedule, seed=0)
    fit(parts, loss_at, schedule, folder=tmp_path, stage="things", progress=silent)
    p_NP, frames = rows.describe(tokenizer.actor)[:50], rows.frames(slice(50))
    with torch.no_grad():
        xy, code = tokenizer.encoder(frames, tokenizer.actor.scene(p_NP))
        layers = tokenizer.painter.layers(xy, code)[:, 0]
    inside = torch.nn.functional.avg_pool2d((frames[:, 0] < 0.7).float(), 5, 1, 2) == 1  # two pixels from its edges
    alpha, color = layers[:, 3][inside], layers[:, 0][inside]
    assert alpha.mean() > 0.95 and alpha.quantile(0.05) > 0.9
    assert abs(float(color.mean()) - GREY / 255) < 0.1
