import functools
import logging

import numpy as np
import torch

from benchmarks.toy import ToyArena, ToyWorld, load_toy, toy_refs
from worldsim.triage.film import film
from worldsim.triage.request import Ref, TriageRequest
from worldsim.triage.run import Arena, run

WORLD = functools.partial(ToyWorld, horizon=8)
TRUTH = ToyArena(world=ToyWorld(horizon=8, bias=0.02))


def finished(out, refs):
    request = TriageRequest(
        policies=refs, world=Ref(name="toy", digest="w"), k=1, budget=80, width=16, allocator="uniform"
    )
    arena = Arena(kind="truth", world=Ref(name="truth", digest="t"), load=TRUTH, episodes=6)
    return run(request, load_world=WORLD, load_policy=load_toy, out=out, arenas=[arena])


def test_films_show_what_the_run_recorded(tmp_path):
    results = finished(tmp_path, toy_refs(4))
    pairs = [(3, 2), (0, 5), (2, 2), (1, 7)]
    clips = film(results, pairs, load_world=WORLD, load_policy=load_toy, load_truth=TRUTH)
    assert [(c.policy, c.episode) for c in clips] == pairs and {c.rate_hz for c in clips} == {10}
    for clip in clips:
        assert clip.world.shape == (9, 8, 8, 3) and clip.world.dtype == np.uint8
        assert clip.world_progress == results.triage.progress[clip.policy, clip.episode]
        point = torch.tensor([float(clip.world[-1, 0, 0, 0]), float(clip.world[-1, 0, -1, 0])]) / 60 - 2
        assert abs((1 - float(point.norm())) - clip.world_progress) < 0.04 or clip.world_progress == 0
    assert [c.truth is None for c in clips] == [False, False, False, True]  # the truth saw six episodes
    assert all(np.array_equal(c.truth[0], c.world[0]) and not np.array_equal(c.truth, c.world) for c in clips[:3])
    assert clips[0].truth_progress == results.arenas["truth"].progress[3, 2]
    alone = film(results, pairs[:1], load_world=WORLD, load_policy=load_toy)
    assert alone[0].truth is None and np.array_equal(alone[0].world, clips[0].world)


def test_an_episode_that_does_not_repeat_itself_is_left_out(tmp_path, caplog):
    results = finished(tmp_path, toy_refs(3))
    solved = np.argwhere(results.triage.success == 1)[0]
    elsewhere = functools.partial(ToyWorld, horizon=8, bias=0.5)
    with caplog.at_level(logging.WARNING):
        assert film(results, [tuple(map(int, solved))], load_world=elsewhere, load_policy=load_toy) == []
    assert "ended differently when filmed" in caplog.text
