import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from tests.reason.critics import critic, frames
from worldsim.errors import InvalidInputError
from worldsim.reason.calibration.fit import JudgedEpisodes, calibrate, judge_sources, split_policies, summary
from worldsim.reason.calibration.metrics import JudgeMetrics, calibration_error
from worldsim.reason.calibration.platt import Platt
from worldsim.reason.critic import Assessment
from worldsim.reason.items.sources import VideoList
from worldsim.reason.items.video import Provenance, Video
from worldsim.stats.judge_rates import Proportion


def sample(count, *, temperature=1.0, bias=0.0, seed=0):
    """Log-odds, and outcomes drawn from what they are worth."""
    draw = np.random.default_rng(seed)
    z = draw.normal(0, 3, count)
    return z, draw.random(count) < special.expit(z / temperature + bias)


def judged(z, y, groups, sources=None):
    z = torch.as_tensor(np.asarray(z))
    seen = Assessment(logodds=z.double(), progress=torch.full((len(z),), 0.5), unsaid=torch.zeros(len(z)))
    return JudgedEpisodes(
        assessments=seen,
        solved=np.asarray(y, bool),
        progress=np.full(len(z), 0.75),
        groups=tuple(groups),
        sources=tuple(sources or ["data"] * len(z)),
    )


@pytest.mark.parametrize(("temperature", "bias"), [(1.0, 0.0), (3.0, 0.0), (0.4, 1.5), (2.0, -2.0)])
def test_maximum_likelihood_finds_what_made_the_outcomes(temperature, bias):
    z, y = sample(20000, temperature=temperature, bias=bias)
    found = Platt.fit(z, y)
    assert found.temperature == pytest.approx(temperature, rel=0.06) and found.bias == pytest.approx(bias, abs=0.08)


def test_a_fit_is_where_the_likelihood_is_greatest():
    z, y = sample(300, temperature=2.0, bias=0.5)
    target = np.where(y, (y.sum() + 1) / (y.sum() + 2), 1 / ((~y).sum() + 2))

    def loss(platt):
        p = platt(z)
        return -(target * np.log(p) + (1 - target) * np.log1p(-p)).mean()

    for bias in (True, False):
        best = Platt.fit(z, y, bias=bias)
        steps = [(0.01, 0.0), (-0.01, 0.0)] + ([(0.0, 0.01), (0.0, -0.01)] if bias else [])
        for hotter, shift in steps:
            other = Platt(temperature=best.temperature + hotter, bias=best.bias + shift)
            assert loss(best) < loss(other)
    assert Platt.fit(z, y, bias=False).bias == 0.0


def test_a_judge_without_a_mistake_stays_finite_and_one_that_knows_nothing_says_the_base_rate():
    sure = Platt.fit([-3.0, -2.0, 2.0, 3.0], [False, False, True, True])
    assert 0.6 < float(sure([3.0])[0]) < 0.95  # (2 + 1) / (2 + 2) is what four episodes can promise
    z, _ = sample(2000)
    blind = Platt.fit(z, np.arange(2000) % 4 == 0)
    assert float(np.ptp(blind(z))) < 0.15 and float(blind(z).mean()) == pytest.approx(0.25, abs=0.01)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_error_is_a_mean_gap_over_bins_of_equal_mass(pairs):
    p, y = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    order = np.argsort(p, kind="stable")
    sizes = [len(x) for x in np.array_split(order, 10) if len(x)]
    assert max(sizes) - min(sizes) <= 1
    found = calibration_error(p, y)
    assert 0 <= found <= 1
    assert found >= abs(p.mean() - y.mean()) - 1e-12  # bins can only add to the overall gap
    assert calibration_error(y.astype(float), y) == 0


def test_a_calibrated_judge_shows_a_small_error_and_a_boastful_one_a_large():
    z, y = sample(4000)
    assert calibration_error(special.expit(z), y) < 0.025
    assert calibration_error(special.expit(4 * z), y) > 0.05


def test_metrics_are_sorted_by_group_and_source():
    p, y = [0.9, 0.2, 0.6, 0.4], [True, False, False, True]
    found = JudgeMetrics.of(
        p,
        y,
        groups=["b", "a", "b", "a"],
        sources=["real", "real", "dream", "dream"],
        abstained=[False, False, True, True],
        progress=([0.5, 0.5, 0.5, 0.5], [0.25, np.nan, 0.75, np.nan]),
    )
    assert [e.group for e in found.groups] == ["a", "b"] and [e.group for e in found.sources] == ["dream", "real"]
    assert found.balanced_accuracy == 0.5 and found.abstained == 0.5 and found.episodes == 4
    assert found.brier == pytest.approx((0.01 + 0.04 + 0.36 + 0.36) / 4) and found.progress_error == 0.25
    half = JudgeMetrics.of([0.5, 0.1], [True, True], groups=["a", "a"]).rates
    assert half.sensitivity == Proportion(hits=1, count=2) and half.specificity is None, "one half counts as solved"
    runs = JudgeMetrics.of(p, y, groups=["run/1", "run/2", "b", "c/1"])
    assert [e.group for e in runs.groups] == ["b", "c/1", "run", "run/1", "run/2"]
    assert runs.groups[2].sensitivity.count == 1 and runs.groups[2].specificity.count == 1
    alone = JudgeMetrics.of([0.9], [True], groups=["a"], sources=["real"], progress=([0.5], [np.nan]))
    assert alone.balanced_accuracy is None and alone.sources == () and alone.progress_error is None


def test_policies_are_split_and_both_halves_see_both_outcomes():
    groups = [f"p{i // 10}" for i in range(60)]
    y = [i < 10 or 30 <= i < 40 for i in range(60)]  # two policies succeed, always
    labelled = judged(np.zeros(60), y, groups)
    for seed in range(8):
        fit = split_policies(labelled, seed=seed)
        chosen = {g for g, f in zip(groups, fit, strict=True) if f}
        assert len(chosen) == 3 and all(f == (g in chosen) for g, f in zip(groups, fit, strict=True))
        assert len(chosen & {"p0", "p3"}) == 1
    assert len({split_policies(labelled, seed=s).tobytes() for s in range(8)}) > 1
    with pytest.raises(InvalidInputError, match="other policies"):
        split_policies(judged([0.0] * 4, [True, False] * 2, ["a"] * 4))
    with pytest.raises(InvalidInputError, match="no split"):
        split_policies(judged([0.0] * 4, [True, False, False, False], ["a", "b", "c", "d"]))


def test_calibration_is_fitted_on_one_half_and_tried_on_the_other():
    z, y = sample(8000, temperature=3.0, bias=-1.0)
    groups = [f"p{i % 10}" for i in range(8000)]
    labelled = judged(z, y, groups, ["real", "dream"] * 4000)
    before = critic()
    made = calibrate(before, labelled, data={"real": "r", "dream": "d"}, command="worldsim reason calibrate")
    found = made.settings.calibration
    assert found is not None and found.command and found.data == {"real": "r", "dream": "d"}
    tried = {e.group for e in found.metrics.groups}
    assert set(found.fitted_on) | tried == set(groups) and not set(found.fitted_on) & tried
    assert found.fitted_episodes + found.metrics.episodes == 8000
    assert made.settings.platt.temperature == pytest.approx(3.0, rel=0.1)
    assert found.metrics.ece < 0.03 and found.metrics.progress_error == 0.25
    assert made.version != before.version and before.settings.calibration is None
    assert summary(made)["episodes"] == found.metrics.episodes and summary(before) == {}
    assert calibrate(before, labelled, bias=False).settings.platt.bias == 0.0
    uncalibrated = dataclasses.replace(made.settings, platt=Platt())
    raw = made.with_settings(uncalibrated).decide(labelled.assessments)[0].numpy()
    assert calibration_error(raw, y) > 3 * found.metrics.ece


def test_a_calibration_is_saved_completely(tmp_path):
    z, y = sample(200)
    made = calibrate(critic(), judged(z, y, [f"p{i % 6}" for i in range(200)]))
    made.save_pretrained(tmp_path / "c")
    assert type(made).from_pretrained(tmp_path / "c").settings == made.settings


def films(count, *, policy, labelled=True, seed=0):
    videos = [
        Video(
            frames=f,
            provenance=Provenance(kind="simulator", episode=str(i), policy=policy),
            success=float(i % 2) if labelled else None,
            progress=torch.linspace(0, i / count, len(f)),
        )
        for i, f in enumerate(frames(count, seed=seed))
    ]
    return VideoList(videos)


def test_sources_are_judged_video_by_video():
    judge, reports = critic(batch=3), []
    data = {"a": films(5, policy="p"), "b": films(4, policy="q", seed=1)}
    found = judge_sources(judge, data, progress=lambda stage, done, total, values: reports.append((done, total)))
    assert found.groups == ("p",) * 5 + ("q",) * 4 and found.sources == ("a",) * 5 + ("b",) * 4
    assert found.solved.tolist() == [False, True, False, True, False, False, True, False, True]
    assert found.progress[4] == pytest.approx(0.8) and reports[-1] == (9, 9)
    alone = judge.decide(found.assessments)[0]
    torch.testing.assert_close(alone[:5], judge.frames(frames(5)).success, atol=1e-5, rtol=0)
    assert judge_sources(judge, data, most=2).assessments.batch == 4


def test_videos_without_an_outcome_are_left_out_and_counted():
    mixed = VideoList(
        [*(films(3, policy="p").video(i) for i in range(3)), films(1, policy="p", labelled=False).video(0)]
    )
    found = judge_sources(critic(), {"a": mixed})
    assert found.unlabelled == 1 and len(found.groups) == 3
    with pytest.raises(InvalidInputError, match="None of the 2 videos of b"):
        judge_sources(critic(), {"a": mixed, "b": films(2, policy="p", labelled=False)})
    with pytest.raises(InvalidInputError, match="no data"):
        judge_sources(critic(), {})


def test_bad_numbers():
    for call in (
        lambda: Platt.fit([0.0, 1.0], [True]),
        lambda: Platt.fit([0.0, np.nan], [True, False]),
        lambda: Platt.fit([0.0, 1.0], [True, True]),
        lambda: JudgeMetrics.of([], [], groups=[]),
        lambda: JudgeMetrics.of([1.2], [True], groups=["a"]),
    ):
        with pytest.raises(InvalidInputError):
            call()
