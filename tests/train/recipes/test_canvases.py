"""Canvases that differ between episodes are found, and things that stand somewhere else in each are not taken for them."""

import torch

from tests.tokenizers.structured.test_actor import covered, lit
from worldsim.tokenizers.structured.actor import solve_code
from worldsim.train.recipes.structured.canvases import find_canvases, miss_of_one_canvas
from worldsim.train.recipes.structured.rows import FrameRows

EPISODES, EACH = 40, 6


def rows(spread: float, *, things: float = 0.04, corner: int = 0) -> FrameRows:
    """Moments of episodes whose canvases differ, in a corner of so many pixels too; a thing stands still in each, and a robot moves."""
    base, basis = lit()
    if corner:
        blue = torch.zeros_like(base)
        blue[2, :corner, :corner] = 0.12
        basis = torch.cat([basis, blue[None]])
    code = spread * torch.randn(EPISODES, len(basis), generator=torch.Generator().manual_seed(0))
    frames = base + torch.einsum("ns,schw->nchw", code, basis)
    frames = covered(frames, things, seed=1).repeat_interleave(EACH, 0)
    frames = covered(frames, 0.1, seed=2)
    order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(3))
    return FrameRows(
        frames_NCHW=(frames.clamp(0, 1) * 255).round().byte()[order],
        proprio_NP=torch.zeros(len(frames), 1),
        episode_N=torch.arange(EPISODES).repeat_interleave(EACH)[order],
    )


def test_two_ways_in_which_canvases_differ_are_found() -> None:
    canvas, found = find_canvases(rows(1.0))
    assert len(found) == 2
    base, basis = lit()
    deviation = torch.cat([(canvas - base)[None], basis]).flatten(1)
    apart = deviation[0] - deviation[1:].T @ torch.linalg.lstsq(deviation[1:].T, deviation[0]).solution
    assert apart.abs().mean() < 0.01 and apart.abs().max() < 0.15  # nothing that stood there
    both = torch.cat([found, basis]).flatten(1)
    assert int((torch.linalg.svdvals(both) > 0.15 * torch.linalg.svdvals(both)[0]).sum()) == 2  # they span the same
    frames = base + basis[:1]
    drawn = canvas + torch.einsum("ns,schw->nchw", solve_code(frames, canvas, found), found)
    assert (drawn - frames).abs().mean() < 0.02


def test_things_and_robots_are_no_canvases() -> None:
    assert not len(find_canvases(rows(0.0))[1])
    assert not len(find_canvases(rows(0.0, things=0.15))[1])


def test_rows_of_unknown_episodes_have_one_canvas() -> None:
    some = rows(1.0)
    assert not len(find_canvases(FrameRows(frames_NCHW=some.frames_NCHW, proprio_NP=some.proprio_NP))[1])


def test_a_small_part_of_the_background_is_found_beside_things_that_stand_somewhere_else_in_each_episode() -> None:
    assert len(find_canvases(rows(1.0, things=0.08, corner=16))[1]) == 3


def test_one_canvas_behind_backgrounds_that_differ_is_said_to_miss() -> None:
    for spread, misses in ((0.0, False), (3.0, True)):
        every = rows(spread)
        assert every.episode_N is not None
        few = every.episode_N < 6
        some = FrameRows(
            frames_NCHW=every.frames_NCHW[few], proprio_NP=every.proprio_NP[few], episode_N=every.episode_N[few]
        )
        canvas, found = find_canvases(some)
        assert not len(found)
        assert ("differs between episodes" in miss_of_one_canvas(some, canvas)) == misses
