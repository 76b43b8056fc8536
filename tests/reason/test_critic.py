import dataclasses
import json
import logging
from types import SimpleNamespace

import pytest
import torch

from tests.reason import films
from tests.reason.critics import Painter, critic, frames, rollout, vlm
from tests.validity.examples import curve, validity
from worldsim import storage
from worldsim.errors import InvalidInputError, StorageError
from worldsim.protocols import Judge
from worldsim.reason import critic as critics
from worldsim.reason.calibration.metrics import JudgeMetrics
from worldsim.reason.calibration.platt import Platt
from worldsim.reason.critic import BIN_CENTRES, ReasonCritic, assess, first_stall
from worldsim.reason.items.video import Provenance, Video
from worldsim.reason.settings import Calibration, CriticSettings
from worldsim.reason.tasks.base import Items
from worldsim.reason.tasks.outcome import OutcomeConfig, OutcomeTask
from worldsim.reason.vlm.model import VLM

FAMILIES = ("qwen3_vl", "qwen2_5_vl", "cosmos3_omni")


def same(a, b):
    return all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("success", "progress", "abstain", "failed_at"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_critic_of_each_family_is_saved_and_loaded_completely(family, tmp_path):
    before = critic(family, bias=-0.3, task="Push it.")
    before.save_pretrained(tmp_path / "critic", manifest={"figures": 1})
    after = ReasonCritic.from_pretrained(tmp_path / "critic")
    assert after.settings == before.settings and after.version == before.version
    assert same(after.frames(frames()), before.frames(frames()))
    manifest = json.loads((tmp_path / "critic/manifest.json").read_text())
    assert "critic.json" in manifest["sha256"] and manifest["figures"] == 1
    assert VLM.from_pretrained(tmp_path / "critic").model.config.model_type == family


def test_it_asks_what_the_outcome_task_asks_of_the_same_frames():
    footage = films.footage(32)[0]
    task = "Push the block to the goal."
    items = Items(OutcomeTask(OutcomeConfig(frames=4, task=task)), footage, count=6)
    for item in items:
        row = next(i for i, c in enumerate(footage.summaries) if c.provenance == item.provenance)
        full = Video(frames=footage.frames(row, range(footage.summaries[row].frames)), provenance=item.provenance)
        options = vlm().option_logprobs([item])[0]
        found = critic(task=task).videos([full])
        if item.group == "success":
            assert float(found.success[0]) == pytest.approx(float((options[0] - options[1]).sigmoid()), abs=1e-4)
        else:
            expected = float(options.softmax(0) @ torch.tensor(BIN_CENTRES))
            assert float(found.progress[0]) == pytest.approx(expected, abs=1e-4)
    assert BIN_CENTRES == (0.1, 0.3, 0.5, 0.7, 0.9)


def test_a_rollout_is_judged_by_the_frames_that_its_world_draws_and_only_those():
    world = Painter()
    judge = critic(batch=2).with_world(world)
    assert isinstance(judge, Judge)
    shown = frames(count=5, steps=9)
    assert same(judge(rollout(shown)), critic().frames(shown))
    assert world.drawn == [(2, 4), (2, 4), (1, 4)]
    started = judge(rollout(shown[:, 1:]), first=shown[:, 0])
    assert same(started, critic().frames(shown)) and not same(started, judge(rollout(shown[:, 1:])))


def test_a_rollout_is_watched_as_far_as_its_world_is_valid():
    world = Painter()
    world.spec = SimpleNamespace(**{**vars(Painter.spec), "validity": validity(curve(5.0), horizon=4)})
    seen, entire = frames(steps=9), critic(world=Painter())
    short = entire.with_world(world)(rollout(seen))
    begun = entire(rollout(seen[:, :4]))
    assert torch.equal(short.success, begun.success) and torch.equal(short.progress, begun.progress)
    unsolved = short.success < 0.5
    assert torch.equal(short.abstain, unsolved)
    for text, censored in zip(short.text, unsolved.tolist(), strict=True):
        assert text.endswith("watched 4 of 9 actions: the world is valid no longer") == censored
    assert bool(unsolved.any()) and critic(bias=-9.0, world=world)(rollout(seen)).abstain.all()
    assert not critic(bias=9.0, world=world)(rollout(seen)).abstain.any()  # what is solved by then is solved
    beyond = ReasonCritic(vlm(), entire.settings, world=world, beyond=True)
    assert torch.equal(beyond(rollout(seen)).success, entire(rollout(seen)).success)


def test_verdicts_do_not_depend_on_the_batch_or_on_the_size_of_the_frames():
    shown = frames(count=5)
    for batch in (1, 3):
        found = critic(batch=batch).frames(shown)
        torch.testing.assert_close(found.success, critic().frames(shown).success, atol=1e-5, rtol=0)
    large = shown.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert same(critic().frames(list(large)), critic().frames(shown))


def test_probability_is_the_calibrated_log_odds():
    seen = assess(vlm(), list(frames(count=3, steps=4)), task="")
    for platt in (Platt(), Platt(temperature=2.0), Platt(temperature=0.5, bias=1.0)):
        judge = ReasonCritic(vlm(), CriticSettings(frames=4, size=32, platt=platt))
        expected = (seen.logodds / platt.temperature + platt.bias).sigmoid().float()
        torch.testing.assert_close(judge.frames(frames(count=3, steps=4)).success, expected)


def test_it_abstains_near_one_half_and_where_the_model_says_something_else():
    shown = frames()
    close = (critic().frames(shown).success - 0.5).abs()
    band = float(close.median()) + 1e-6
    assert torch.equal(critic(band=band).frames(shown).abstain, close < band)
    assert critic(unsaid=0.0).frames(shown).abstain.all() and not critic().frames(shown).abstain.any()
    assert "undecided" in critic(unsaid=0.0).frames(shown).text[0]


def test_failures_are_located_and_only_they_cost_further_looks(monkeypatch):
    asked = []
    real = critics.assess_progress

    def counted(model, shown, **asked_for):
        asked.append(len(shown))
        return real(model, shown, **asked_for)

    monkeypatch.setattr(critics, "assess_progress", counted)
    shown = frames(count=3, steps=9)
    assert critic(bias=50.0, locate=True).frames(shown).failed_at.tolist() == [-1] * 3 and not asked
    assert critic(bias=-50.0).frames(shown).failed_at.tolist() == [-1] * 3 and not asked
    found = critic(bias=-50.0, locate=True, batch=4).frames(shown)
    assert asked == [4, 4, 1]  # three failures, each up to three frames before the last
    assert set(found.failed_at.tolist()) <= {0, 3, 5, 8}
    assert f"no progress after {int(found.failed_at[0])}" in found.text[0]


def test_a_failure_lies_at_the_last_frame_that_brought_progress(monkeypatch):
    curve = torch.tensor([0.1, 0.5, 0.5])
    monkeypatch.setattr(critics, "assess_progress", lambda model, shown, **_: curve[: len(shown)])
    shown, world = frames(count=1, steps=9), Painter()
    at_video = critic(bias=-50.0, locate=True).frames(shown)
    at_step = critic(bias=-50.0, locate=True, world=world)(rollout(shown[:, 1:]), first=shown[:, 0])
    last = float(at_video.progress[0])
    assert last < 0.5
    assert int(at_video.failed_at[0]) == 3 and int(at_step.failed_at[0]) == 2  # frame 3 is what step 2 led to


def test_failures_are_looked_for_in_what_came_before_not_in_the_full_episode(monkeypatch):
    looked = []
    monkeypatch.setattr(
        critics, "assess_progress", lambda model, shown, **_: looked.extend(shown) or torch.zeros(len(shown))
    )
    shown = torch.arange(9, dtype=torch.uint8)[None, :, None, None, None].expand(1, 9, 32, 32, 3)
    critic(bias=-50.0, locate=True).frames(shown)
    assert [int(part.max()) for part in looked] == [0, 3, 5]


def test_other_words_count_by_the_question_that_has_more_of_them(monkeypatch):
    success, progress = torch.tensor([[0.4, 0.1]]).log(), torch.full((1, 5), 0.19).log()
    monkeypatch.setattr(critics, "score_options", lambda model, rows, **_: (success, progress))
    found = assess(vlm(), list(frames(count=1, steps=4)), task="")
    assert found.unsaid.tolist() == pytest.approx([0.5])


@pytest.mark.parametrize(
    ("progress", "place"),
    [([0.1], 0), ([0.1, 0.2, 0.3], 2), ([0.5, 0.2, 0.1], 0), ([0.1, 0.6, 0.3, 0.62, 0.2], 1), ([0.1, 0.3, 0.3], 1)],
)
def test_stalled(progress, place):
    assert first_stall(progress) == place


def test_explaining_adds_what_the_model_sees_and_decides_nothing(monkeypatch):
    monkeypatch.setattr(
        critics.VLM, "generate", lambda self, items, **_: ["<think>object\n12</think><answer>"] * len(items)
    )
    shown = frames(count=2)
    found = critic(explain=True).frames(shown)
    assert found.text[1].endswith("; sees object 12") and same(found, critic().frames(shown))
    assert "sees" not in critic().frames(shown).text[0]


def test_a_critic_that_thinks_first_weighs_answers_after_its_thought(monkeypatch):
    shown = frames(count=3)
    said = ["<think>object 12</think><answer>yes</answer>", "never closed", "<think>13 object 12</think>"]
    monkeypatch.setattr(critics.VLM, "generate", lambda self, items, **_: said[: len(items)])
    thinking, plain = critic(think=8).frames(shown), critic().frames(shown)
    first = assess(vlm(), list(shown[:, [0, 3, 5, 8]]), task="")
    torch.testing.assert_close(plain.success, first.logodds.sigmoid().float())
    different = (thinking.success - plain.success).abs() > 1e-5
    assert different.tolist() == [True, False, True]
    item = critics._item(0, shown[0, [0, 3, 5, 8]], "success", "")
    found = vlm().option_logprobs([item], thinks=["object 12"])[0]
    assert float(thinking.success[0]) == pytest.approx(float((found[0] - found[1]).sigmoid()), abs=1e-4)


def test_the_version_changes_with_everything_that_decides_and_nothing_else():
    base = critic()
    others = [
        critic(bias=0.1),
        critic(band=0.2),
        critic(unsaid=0.5),
        critic(frames=5),
        critic(size=64),
        critic(task="Push."),
        critic(think=4),
        critic(locate=True),
        critic(explain=True),
        ReasonCritic(vlm(seed=2), base.settings),
        critic("qwen2_5_vl"),
    ]
    assert len({c.version for c in (base, *others)}) == 12
    assert base.version == critic(batch=3, world=Painter()).version == ReasonCritic(vlm(), base.settings).version
    touched = VLM.tiny([], seed=5)
    before = ReasonCritic(touched, base.settings).version
    with torch.no_grad():
        next(touched.model.parameters()).view(-1)[0] += 1e-3
    assert ReasonCritic(touched, base.settings).version != before


def test_a_folder_without_critic_json_judges_uncalibrated_and_says_so(tmp_path, caplog):
    vlm().save_pretrained(tmp_path / "model")
    with caplog.at_level(logging.WARNING):
        plain = ReasonCritic.from_pretrained(tmp_path / "model")
    assert "not calibrated" in caplog.text and plain.version.endswith("/uncalibrated")
    assert plain.settings == CriticSettings(size=32)
    assert "uncalibrated" in plain.frames(frames(1)).text[0]
    metrics = JudgeMetrics.of([0.5], [True], groups=["a"])
    known = dataclasses.replace(
        plain.settings, calibration=Calibration(fitted_on=("b",), fitted_episodes=2, metrics=metrics)
    )
    calibrated = plain.with_settings(known)
    assert "uncalibrated" not in calibrated.version and "uncalibrated" not in calibrated.frames(frames(1)).text[0]


def test_a_trained_folder_is_shown_what_it_was_trained_on(tmp_path):
    outcome = {"frames": 5, "about": "both", "task": "Push the block."}
    for config, size in (
        ({"model": "", "size": 48}, 32),
        ({"model": "x", "size": 48}, 48),
        ({"model": "x", "size": 0}, 32),
    ):
        vlm().save_pretrained(
            tmp_path / "m", manifest={"config": {**config, "items": {"options": {"outcome": outcome}}}}
        )
        found = ReasonCritic.from_pretrained(tmp_path / "m").settings
        assert (found.frames, found.task, found.size) == (5, "Push the block.", size)


def test_broken_folders_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(critics, "SHIPPED", tmp_path / "none")
    with pytest.raises(StorageError, match="ships no critic.*reason calibrate"):
        ReasonCritic.from_pretrained("reason")
    with pytest.raises(StorageError, match="no model folder"):
        ReasonCritic.from_pretrained(tmp_path / "nowhere")
    critic().save_pretrained(tmp_path / "critic")
    monkeypatch.setattr(critics, "SHIPPED", tmp_path / "critic")
    assert ReasonCritic.from_pretrained().version == critic().version
    text = (tmp_path / "critic/critic.json").read_text()
    (tmp_path / "critic/critic.json").write_text(text.replace('"band"', '"brand"'))
    with pytest.raises(StorageError, match="does not match the sha256"):
        ReasonCritic.from_pretrained(tmp_path / "critic")
    (tmp_path / "critic" / storage.MANIFEST).unlink()
    with pytest.raises(StorageError, match="Did you mean 'band'.*reason calibrate"):
        ReasonCritic.from_pretrained(tmp_path / "critic")
    (tmp_path / "critic/critic.json").write_text('{"format": "other"}')
    with pytest.raises(StorageError, match="not of format"):
        ReasonCritic.from_pretrained(tmp_path / "critic")


def test_a_model_without_numbers_is_not_believed():
    broken = VLM.tiny([], seed=7)
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    with pytest.raises(InvalidInputError, match="no number for episodes"):
        ReasonCritic(broken, critic().settings).frames(frames(2))


def test_bad_input():
    shown = frames(2)
    for call in (
        lambda: critic()(rollout(shown)),
        lambda: critic().frames([]),
        lambda: critic().frames(shown.float()),
        lambda: critic().frames(shown[:, :, :, :, :2]),
        lambda: critic(world=Painter())(rollout(shown), first=shown[:1, 0]),
        lambda: critic(world=Painter())(rollout(shown), first=frames(2, size=16)[:, 0]),
        lambda: critic(batch=0),
        lambda: critic(frames=1),
        lambda: critic(band=0.5),
        lambda: Platt(temperature=0.0),
    ):
        with pytest.raises(InvalidInputError):
            call()


def test_an_episode_shorter_than_the_frames_shown_is_judged_by_those_it_has():
    short = Video(frames=frames(1, steps=2)[0], provenance=Provenance(kind="file", episode="a"))
    assert critic(frames=8, locate=True, bias=-50.0).videos([short]).failed_at.tolist()[0] in (0, 1)
