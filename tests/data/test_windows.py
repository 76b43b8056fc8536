"""Windows: their content, their borders, what is drawn, and that contact is found without labels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.data.windows import ClipSampler, EncodedEpisode
from worldsim.errors import InvalidInputError


def encoded(episode: int, frames: int) -> EncodedEpisode:
    """Latent = 1000 * episode + frame; the action that leaves a frame has the frame's number."""
    t = torch.arange(frames, dtype=torch.float32)
    z = (1000.0 * episode + t)[:, None, None, None].expand(frames, 2, 1, 1)
    action = (1000.0 * episode + t[:-1])[:, None]
    return EncodedEpisode(z_FCHW=z, proprio_FP=t[:, None], action_FA=action, progress_F=t, success_F=t)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 9), min_size=1, max_size=5),
    history=st.integers(1, 4),
    length=st.integers(2, 8),
    seed=st.integers(0, 2**31),
    step=st.integers(0, 10**6),
    eventful=st.floats(0, 1),
)
def test_windows_stay_within_episodes(
    lengths: list[int], history: int, length: int, seed: int, step: int, eventful: float
) -> None:
    clips = ClipSampler([encoded(i, n) for i, n in enumerate(lengths)], history=history, idle_A=torch.tensor([-5.0]))
    if length > max(lengths) + history - 1:
        with pytest.raises(InvalidInputError):
            clips.windows(length)
        return
    table = clips.windows(length)
    possible = sum(max(0, n + history - length) for n in lengths)
    assert len(set(torch.cat(table).tolist())) == possible
    clip = clips.batch(table, length, 16, seed=seed, step=step, eventful=eventful)
    z = clip.z_BTCHW[:, :, 0, 0, 0]
    assert z.shape == (16, length) and clip.action_BTA.shape == (16, length, 1)
    episode = torch.div(z, 1000, rounding_mode="floor")
    assert bool((episode == episode[:, :1]).all())
    assert torch.equal(clip.start_BCHW[:, 0, 0, 0], episode[:, 0] * 1000)
    moved = z[:, 1:] - z[:, :-1]
    assert bool(((moved == 1) | ((moved == 0) & (z[:, 1:] == episode[:, 1:] * 1000))).all())  # still only while padded
    leaves = clip.action_BTA[:, :-1, 0]
    assert torch.equal(leaves, torch.where(moved == 1, z[:, :-1], torch.tensor(-5.0)))
    assert torch.equal(clip.proprio_BTP[..., 0], z - episode * 1000)


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    clips = ClipSampler([encoded(i, 9) for i in range(4)], history=2, idle_A=torch.zeros(1))
    table = clips.windows(4)
    first = clips.batch(table, 4, 32, seed=1, step=7)
    torch.rand(5)
    assert torch.equal(first.z_BTCHW, clips.batch(table, 4, 32, seed=1, step=7).z_BTCHW)
    assert not torch.equal(first.z_BTCHW, clips.batch(table, 4, 32, seed=1, step=8).z_BTCHW)
    assert not torch.equal(first.z_BTCHW, clips.batch(table, 4, 32, seed=2, step=7).z_BTCHW)


@pytest.mark.parametrize("width", [1, 100])
def test_contact_is_found_without_labels(width: int) -> None:
    """A thing follows the action; a second one moves only for a few frames."""
    generator = torch.Generator().manual_seed(0)
    episodes, contact = [], []
    for _ in range(40):
        action = torch.rand(29, 1, generator=generator) * 2 - 1
        own = torch.cat([torch.zeros(1), 0.1 * action[:, 0].cumsum(0)])
        other = torch.zeros(30)
        begin = int(torch.randint(3, 26, (1,), generator=generator))
        other[begin:] = torch.arange(30 - begin).clamp_max(3) * 0.1
        z = torch.stack([own, other], dim=1)[:, :, None, None].repeat(1, width, 1, 1)
        nothing = torch.zeros(30)
        episodes.append(
            EncodedEpisode(z_FCHW=z, proprio_FP=own[:, None], action_FA=action, progress_F=nothing, success_F=nothing)
        )
        contact.append(torch.arange(30) == begin + 1)
    clips = ClipSampler(episodes, history=1, idle_A=torch.zeros(1))
    eventful, quiet = clips.windows(3)
    truth = torch.cat(contact)
    hits = [int(truth[rows[:, None] + torch.arange(3)].any(1).sum()) for rows in (eventful, quiet)]
    assert hits[0] > 0.95 * sum(hits)


def test_a_supplied_surprise_decides() -> None:
    episodes = [encoded(0, 20), encoded(1, 1), encoded(2, 20)]
    surprise = [torch.zeros(20), torch.zeros(1), torch.zeros(20)]
    surprise[2][10] = 1.0
    clips = ClipSampler(episodes, history=3, idle_A=torch.zeros(1), surprise=surprise)
    table = clips.windows(3)
    chosen = clips.batch(table, 3, 64, seed=0, step=0, eventful=1.0).z_BTCHW[:, :, 0, 0, 0]
    assert all(2010.0 in rows for rows in chosen.tolist())
    with pytest.raises(InvalidInputError, match="one number per frame"):
        ClipSampler(episodes, history=3, idle_A=torch.zeros(1), surprise=surprise[:2])


def test_nothing_to_learn_from() -> None:
    with pytest.raises(InvalidInputError, match="two frames"):
        ClipSampler([encoded(0, 1)], history=1, idle_A=torch.zeros(1))
