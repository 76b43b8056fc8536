import base64
import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worldsim.decode import read_video
from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.ranking.ranking import Ranking
from worldsim.triage.report import Clip, ReportData, choose, videos
from worldsim.triage.report.videos import encode_films, enlarge


def evidence(success: list[list[float]]) -> Evidence:
    table = np.array(success)
    return Evidence(success=table, progress=table, failed=np.zeros(len(table), dtype=bool))


def test_chosen_episodes_are_what_they_are_shown_as() -> None:
    nan = np.nan
    world = evidence([[1, 1, 0, 0, 1, nan], [1, 0, 0, 1, 1, 1], [0, 0, 1, 0, 0, 0]])
    truth = evidence([[1, 0, 0, 1, nan], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0]])
    ranking = Ranking.from_evidence(world, names=["a", "b", "c"], k=1)
    first, second, third = (p.policy for p in ranking.policies)
    assert (first, second, third) == (1, 0, 2)
    found = choose(ranking, world=world, truth=truth, each=2)
    assert found == [(1, 0), (0, 0), (1, 1), (0, 2), (1, 3), (0, 1), (1, 2), (0, 3)]
    alone = choose(ranking, world=world, each=1)
    assert alone == [(1, 0), (1, 1)]


def test_a_policy_is_taken_again_only_when_there_is_no_other() -> None:
    world = evidence([[1, 1, 1], [0, 0, 0]])
    ranking = Ranking.from_evidence(world, names=["a", "b"], k=1)
    assert choose(ranking, world=world, each=2) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_crashed_policies_are_not_filmed() -> None:
    world = evidence([[1, 0], [1, 0]]).fail(0)
    ranking = Ranking.from_evidence(world, names=["a", "b"], k=1)
    assert {p for p, _ in choose(ranking, world=world)} == {1}


def test_kinds(sample: ReportData) -> None:
    clip = sample.clips[0]
    for world, truth, kind in (
        (1, 1, "win"),
        (0, 0, "loss"),
        (1, 0, "optimistic"),
        (0, 1, "pessimistic"),
        (1, None, "win"),
    ):
        assert dataclasses.replace(clip, world_success=world, truth_success=truth).kind == kind


def test_a_film_holds_world_and_truth_beside_each_other(tmp_path: Path) -> None:
    red, blue = np.zeros((7, 64, 64, 3), np.uint8), np.zeros((9, 48, 64, 3), np.uint8)
    red[..., 0], blue[..., 2] = 200, 200
    clip = Clip(
        policy=0, episode=0, rate_hz=10, world=red, world_success=1, world_progress=1, truth=blue, truth_success=1
    )
    (film,) = encode_films([clip])
    data = base64.b64decode(film.video.removeprefix("data:video/mp4;base64,"))
    (tmp_path / "film.mp4").write_bytes(data)
    frames, rate = read_video(tmp_path / "film.mp4")
    assert frames.shape == (9, film.height_px, film.width_px, 3) and rate == 10
    assert frames[-1, 96, 50, 0] > 150 > 60 > frames[-1, 96, 50, 2]
    assert frames[-1, 96, -50, 2] > 150 > 60 > frames[-1, 96, -50, 0]
    poster = Image.open(io.BytesIO(base64.b64decode(film.poster.removeprefix("data:image/png;base64,"))))
    assert poster.size == (film.width_px, film.height_px)


def test_pixels_are_enlarged_by_an_integer() -> None:
    frames = np.arange(2 * 64 * 64 * 3, dtype=np.int64).reshape(2, 64, 64, 3).astype(np.uint8)
    large = enlarge(frames, height_px=200)
    assert large.shape == (2, 192, 192, 3)
    assert (large[:, ::3, ::3] == frames).all() and (large[:, 2::3, 1::3] == frames).all()
    assert enlarge(frames, height_px=10).shape == frames.shape


def test_films_stop_where_the_page_grows_too_heavy(sample: ReportData, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = encode_films(sample.clips[:3])
    monkeypatch.setattr(videos, "_LIMIT_BYTES", sum(len(f.video) + len(f.poster) for f in everything) - 1)
    assert len(encode_films(sample.clips[:3])) == 2
