import functools

import pytest
import torch

from benchmarks.toy import ToyArena, ToyWorld, load_toy, toy_refs
from worldsim.core import IMAGE, STATE
from worldsim.errors import InvalidInputError
from worldsim.protocols import Startable, World
from worldsim.rollout.wrappers import (
    BorrowedStarts,
    RoundTripWorld,
    ShortWorld,
)
from worldsim.triage.request import Ref, TriageRequest
from worldsim.triage.run import Arena, run

WORLD = ToyWorld(horizon=6)


def coarse(frames):
    """A codec that keeps every 16th grey level only."""
    assert frames.ndim == 4 and frames.dtype == torch.uint8
    return frames // 16 * 16


def test_wrapped_worlds_are_worlds():
    for world in (
        BorrowedStarts(WORLD, lender=WORLD),
        RoundTripWorld(WORLD, roundtrip=coarse),
        ShortWorld(WORLD, horizon=2),
    ):
        assert isinstance(world, World) and isinstance(world, Startable)
        first = world.starts(torch.arange(3))
        state = world.reset(first, torch.arange(3))
        _, step = world.step(state, torch.zeros(3, 2))
        _, rollout = world.rollout(state, torch.zeros(3, 2, 2))
        assert torch.equal(rollout.proprio[:, 0], step.proprio)
    assert ShortWorld(WORLD, horizon=2).spec.horizon == 2


def test_borrowed_starts_come_from_the_lender():
    world = BorrowedStarts(ToyWorld(bias=1.0), lender=ToyWorld(count=7))
    assert world.num_starts == 7
    assert torch.equal(world.starts(torch.arange(3))[STATE], ToyWorld().starts(torch.arange(3))[STATE])


def test_a_round_trip_changes_what_is_seen_and_nothing_else():
    seen, plain = RoundTripWorld(WORLD, roundtrip=coarse), WORLD
    index, keys = torch.arange(4), torch.arange(4) + 9
    first, original = seen.starts(index), plain.starts(index)
    assert torch.equal(first[IMAGE], coarse(original[IMAGE])) and torch.equal(first[STATE], original[STATE])
    a, b = seen.reset(first, keys), plain.reset(original, keys)
    action = torch.full((4, 3, 2), 0.1)
    _, one = seen.rollout(a, action)
    _, two = plain.rollout(b, action)
    assert torch.equal(one.latent, two.latent)
    assert torch.equal(seen.decode(one.latent), coarse(plain.decode(two.latent).flatten(0, 1)).unflatten(0, (4, 3)))


def test_a_codec_that_reads_proprioception_gets_that_of_the_moment():
    given = []

    def codec(frames, proprio):
        given.append(proprio)
        return coarse(frames)

    seen = RoundTripWorld(WORLD, roundtrip=codec, reads_proprio=True)
    index, keys = torch.arange(4), torch.arange(4) + 9
    first = seen.starts(index)
    assert torch.equal(given[-1], first[STATE])
    state = seen.reset(first, keys)
    _, step = seen.step(state, torch.full((4, 2), 0.1))
    assert tuple(step.latent.shape[1:]) == seen.spec.latent_shape
    frames = seen.decode(step.latent)
    assert torch.equal(given[-1], step.proprio)
    _, plain = WORLD.step(WORLD.reset(WORLD.starts(index), keys), torch.full((4, 2), 0.1))
    assert torch.equal(frames, coarse(WORLD.decode(plain.latent)))
    _, rollout = seen.rollout(state, torch.full((4, 3, 2), 0.1))
    seen.decode(rollout.latent)
    assert torch.equal(given[-1], rollout.proprio.flatten(0, 1))


def test_a_world_that_starts_from_pixels_starts_from_the_true_ones():
    got = []

    class FromPixels(ToyWorld):
        def reset(self, starts, keys):
            got.append(dict(starts))
            return super().reset(starts, keys)

    world = RoundTripWorld(FromPixels(), roundtrip=coarse)
    world.reset(world.starts(torch.arange(3)), torch.arange(3))
    assert set(got[0]) == {IMAGE, STATE} and torch.equal(got[0][IMAGE], WORLD.starts(torch.arange(3))[IMAGE])


def test_a_codec_must_return_frames():
    with pytest.raises(InvalidInputError, match=r"frames of torch\.uint8; got torch\.float32"):
        RoundTripWorld(WORLD, roundtrip=lambda frames: frames.float()).starts(torch.arange(2))


def test_only_policies_that_look_feel_the_round_trip(tmp_path):
    refs = toy_refs(3)  # the last one looks at pixels
    request = TriageRequest(policies=refs, world=Ref(name="toy", digest="w"), k=1, budget=60, width=16, audit=0.0)
    load = functools.partial(ToyWorld, horizon=6)
    arenas = [
        Arena(kind="truth", world=Ref(name="toy", digest="t"), load=ToyArena(world=WORLD), episodes=10),
        Arena(kind="roundtrip", world=Ref(name="toy", digest="r"), load=ToyArena(world=WORLD, grain=16), episodes=10),
    ]
    results = run(request, load_world=load, load_policy=load_toy, out=tmp_path, arenas=arenas)
    gap = (results.arenas["truth"].progress - results.arenas["roundtrip"].progress)[:, :10]
    assert (gap[:2] == 0).all() and (gap[2] != 0).any()
