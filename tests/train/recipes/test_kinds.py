"""How many things there are is found, and each of them has a place of its own: squares on grey, of two colours and of one."""

import dataclasses

import pytest
import torch
from torch import Tensor

from worldsim.optimize import Schedule
from worldsim.tokenizers.structured.tokenizer import StructuredConfig, StructuredTokenizer
from worldsim.train.recipes.structured import pictures
from worldsim.train.recipes.structured.kinds import (
    PEAKS,
    Kinds,
    cell_places,
    center_of_rest,
    find_kinds,
    second_at_place,
    strongest,
)
from worldsim.train.recipes.structured.rows import FrameRows

SIZE = 48
RED, BLUE = (0.8, 0.2, 0.15), (0.1, 0.3, 0.8)


def squares(*colors: tuple[float, float, float], count: int = 160) -> tuple[FrameRows, Tensor]:
    """Frames with a square of each colour, and where they are, [N, K, 2] in [-1, 1]; proprioception is noise."""
    generator = torch.Generator().manual_seed(len(colors))
    xy = torch.rand(count * 8, len(colors), 2, generator=generator) * 1.5 - 0.75
    if len(colors) > 1:
        xy = xy[(xy[:, 0] - xy[:, 1]).norm(dim=1) > 0.4]
    xy = xy[:count]
    line = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
    frames = torch.full((count, 3, SIZE, SIZE), 0.7)
    for k, color in enumerate(colors):
        over = (line - xy[:, k, :1]).abs()[:, None, :].maximum((line - xy[:, k, 1:]).abs()[:, :, None])
        frames = torch.where((over < 0.13)[:, None], torch.tensor(color)[:, None, None], frames)
    proprio = torch.randn(count, 2, generator=generator)
    return FrameRows(frames_NCHW=(frames * 255).byte(), proprio_NP=proprio), xy


def begun(rows: FrameRows) -> StructuredTokenizer:
    """A tokenizer that has seen the background, and draws no robot."""
    torch.manual_seed(0)
    tokenizer = StructuredTokenizer(StructuredConfig(image_size=(SIZE, SIZE), proprio_dim=2))
    tokenizer.actor.begin(torch.full((1, 3, SIZE, SIZE), 0.7), rows.proprio_NP)
    with torch.no_grad():
        tokenizer.actor.paint.weight.zero_()
        tokenizer.actor.paint.bias[-(tokenizer.actor.factor**2) :] = -9.0  # type: ignore[index]
    return tokenizer


@pytest.mark.parametrize(
    ("colors", "kinds"),
    [((), ()), ((RED,), (0,)), ((RED, BLUE), (0, 1)), ((BLUE, BLUE), (0, 0)), ((BLUE, RED, BLUE), (0, 0, 1))],
)
def test_things_are_counted(colors: tuple[tuple[float, float, float], ...], kinds: tuple[int, ...]) -> None:
    rows, _ = squares(*colors)
    assert find_kinds(begun(rows), rows, most=4).kinds == kinds
    fewer = find_kinds(begun(rows), rows, most=1)
    assert len(fewer.kinds) == min(len(kinds), 1) and fewer.more == len(kinds) - len(fewer.kinds)


def test_one_thing_that_changes_color_from_episode_to_episode_is_one() -> None:
    red, blue = squares(RED)[0], squares(BLUE)[0]
    both = FrameRows(
        frames_NCHW=torch.cat([red.frames_NCHW, blue.frames_NCHW.flip(-1)]),
        proprio_NP=torch.cat([red.proprio_NP, blue.proprio_NP]),
    )
    assert find_kinds(begun(both), both, most=4).kinds == (0,)


def test_what_moves_with_the_robot_is_no_thing() -> None:
    rows, xy = squares(RED)
    hand = dataclasses.replace(rows, proprio_NP=xy[:, 0] * 3 + 1)
    assert find_kinds(begun(hand), hand, most=4).kinds == ()


def led(rows: FrameRows, monkeypatch: pytest.MonkeyPatch) -> tuple[StructuredTokenizer, Kinds]:
    """A tokenizer whose places were led to the residual's peaks for a few steps."""
    monkeypatch.setattr(pictures, "BOOTSTRAP", 1.0)
    found = find_kinds(begun(rows), rows, most=4)
    tokenizer = pictures.expecting(begun(rows), found, seed=0)
    learn(tokenizer, rows, found, steps=50)
    return tokenizer.requires_grad_(False), found


def learn(tokenizer: StructuredTokenizer, rows: FrameRows, found: Kinds, *, steps: int) -> None:
    """Some steps of the stage that learns things."""
    assert tokenizer.encoder is not None and tokenizer.painter is not None
    loss_at = pictures.things_loss(tokenizer, rows, found, Schedule(steps=steps, batch=12), seed=0)
    optimizer = torch.optim.Adam([*tokenizer.encoder.parameters(), *tokenizer.painter.parameters()], lr=6e-3)
    for step in range(steps):
        loss, _ = loss_at(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("colors", [(RED, BLUE), (BLUE, BLUE)])
def test_each_has_a_place_of_its_own(
    colors: tuple[tuple[float, float, float], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, truth = squares(*colors)
    tokenizer, found = led(rows, monkeypatch)
    assert tokenizer.encoder is not None
    frames = rows.frames(slice(100))
    at = tokenizer.encoder(frames, torch.full_like(frames, 0.7))[0]
    if colors == (BLUE, BLUE):  # any of them may be first
        truth = truth.gather(1, truth[..., :1].argsort(1).expand_as(truth))
    elif found.color_X6[found.kind_X.tolist().index(0), 0] < 0.5:
        truth = truth.flip(1)
    off_px = (at - truth[:100]).norm(dim=-1) * SIZE / 2
    assert float((off_px < 3).float().mean()) > 0.9


def test_a_long_thing_has_one_peak() -> None:
    rows, xy = squares(BLUE)
    line = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
    far = (line - xy[:, 0, :1]).abs()[:, None, :] < 0.12
    tall = (line - xy[:, 0, 1:]).abs()[:, :, None] < 0.75  # longer than a sprite reaches
    faint = torch.tensor([0.5, 0.55, 0.65])[:, None, None]
    frames = torch.where(
        (far & tall)[:, None] & (rows.frames(slice(None)) > 0.69).all(1, keepdim=True), faint, rows.frames(slice(None))
    )
    long = dataclasses.replace(rows, frames_NCHW=(frames * 255).byte())
    assert find_kinds(begun(long), long, most=4).kinds == (0,)


def test_of_two_that_explain_the_same_one_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {2: [0.0, 0.01], 1: [0.8]}
    monkeypatch.setattr(pictures, "explained_by_things", lambda made, _: (0.8, shares[made.config.things]))
    rows, _ = squares(RED, count=60)
    tokenizer = begun(rows).resized([0, 0])
    report = pictures.StageReport()
    kept = pictures.judge_things(tokenizer, rows, rows, report)
    assert kept.config.things == 1 and "Thing 0" in report.warnings[-1]
    assert report.figures["thing_1_explains"] == 0.8


def test_what_left_the_view_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = squares(RED)
    there = torch.rand(len(rows), generator=torch.Generator().manual_seed(0)) < 0.28  # most often it is away
    frames = torch.where(there[:, None, None, None], rows.frames_NCHW, torch.tensor(178, dtype=torch.uint8))
    rows = dataclasses.replace(rows, frames_NCHW=frames)
    tokenizer, found = led(rows, monkeypatch)
    assert found.kinds == (0,) and tokenizer.encoder is not None and tokenizer.painter is not None
    monkeypatch.setattr(pictures, "BOOTSTRAP", 0.0)
    learn(tokenizer.requires_grad_(True), rows, found, steps=80)
    with torch.no_grad():
        pictures.keep_looks(tokenizer, rows)
        seen = tokenizer.encode_rows(rows.frames(slice(None)), rows.proprio_NP).seen[:, 0]
    assert float((seen[there] > 0.5).float().mean()) > 0.9
    assert float((seen[~there] < 0.1).float().mean()) > 0.95


def test_the_place_of_what_is_left_over_at_two_ends_is_between_them() -> None:
    rows, _ = squares(RED)
    tokenizer = begun(rows)
    places = cell_places(torch.arange(PEAKS[0] * PEAKS[1]), PEAKS)
    middle = torch.tensor([[0.1, -0.2], [-0.3, 0.3]])
    ends = [middle + torch.tensor([0.0, s * 0.15]) for s in (-1.0, 1.0)]
    far = torch.tensor([[0.9, 0.9]])
    spots = [(1.0, ends[0]), (0.9, ends[1]), (0.6, far.expand(2, -1))]
    rest = sum(h * torch.exp(-((places - at[:, None]).norm(dim=-1) / 0.06).square()) for h, at in spots)
    assert isinstance(rest, Tensor)
    cell, _ = strongest(rest.unflatten(1, PEAKS))
    peak = places[cell]
    assert (peak - ends[0]).norm(dim=1).max() < 0.05
    found = center_of_rest(rest.unflatten(1, PEAKS), peak[:, None], tokenizer)[:, 0]
    assert (found - middle).norm(dim=1).max() < 0.03


def test_of_two_things_at_one_place_only_that_which_explains_more_is_learned() -> None:
    xy = torch.tensor([[[0.0, 0.0], [0.05, 0.0], [0.5, 0.0]], [[0.0, 0.0], [0.3, 0.0], [0.32, 0.0]]])
    error = torch.tensor([[-0.2, -0.5, -0.1], [-0.3, -0.2, 0.1]])
    second = second_at_place(xy, error, 0.1)
    assert second.tolist() == [[True, False, False], [False, False, True]]
