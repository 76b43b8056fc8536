"""A training says first what it chooses and what it costs, fits a time, keeps its schedule, and says last what it came to."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from tests.train import toy
from worldsim.errors import InvalidInputError
from worldsim.optimize import Schedule, shorten_schedule
from worldsim.train.config import plan, resolve
from worldsim.train.recipes import cost
from worldsim.train.recipes import world as recipe
from worldsim.train.recipes.cost import Cost, TrainingPlan, share_out
from worldsim.train.recipes.predictor import PredictorRecipe
from worldsim.train.recipes.tokenizer import TokenizerRecipe, fit_tokenizer
from worldsim.train.recipes.world import TrainWorld, plan_world, train_world
from worldsim.worlds import world_spec

STEPS = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write(tmp_path_factory.mktemp("toy") / "data", episodes=24)


def settings(data: Path, out: Path, **changes: object) -> TrainWorld:
    base = TrainWorld(
        data=str(data),
        out=str(out),
        num_starts=3,
        tokenizer=TokenizerRecipe(schedule=Schedule(steps=4, batch=8)),
        predictor=PredictorRecipe(
            options={"width": 16, "members": 2},
            schedule=Schedule(steps=STEPS, batch=16, lr=1e-5),
            unrolls=((1, 0.5), (2, 1.0)),
        ),
        heads=Schedule(steps=STEPS, batch=16, lr=1e-5),
    )
    return dataclasses.replace(base, **changes)


def test_a_plan_says_what_is_chosen_why_and_at_what_cost_and_leaves_nothing(data: Path, tmp_path: Path) -> None:
    found = plan_world(settings(data, tmp_path / "world"))
    assert [c.tokenizer for c in found.choices] == ["layers"] and found.predictor == "rigid"
    text = str(found)
    assert "Layers explain 9" in text and "the one for latents that are layers" in text
    assert f"tokenizer 4, predictor {STEPS}, heads {STEPS}" in text
    assert "core-seconds" in text and "GB of memory" in text
    assert found.memory_bytes > 1e8 and all(cost.core_s > 0 for cost in found.stages.values())
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_plans_the_same(data: Path, tmp_path: Path) -> None:
    few = ["tokenizer.name=haar_pca", "predictor.options.width=8", "predictor.schedule.batch=4"]
    few += ["predictor.options.blocks=1", "predictor.unrolls=[[1,1.0]]"]
    text = plan("world", resolve("world", [f"data={data}", f"out={tmp_path / 'w'}", *few]))
    assert "haar_pca. As asked for; its closed form explains" in text and "Predictor: conv" in text


def test_layers_that_auto_refuses_are_tried_after_training_and_both_shares_are_said(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldsim.train.recipes.tokenizer.EXPLAINED", 0.9999)
    frames = [torch.from_numpy(next(iter(toy.episode(i).frames.values()))) for i in range(1, 9)]
    how = TokenizerRecipe(schedule=Schedule(steps=3, batch=8))
    fitted = fit_tokenizer(lambda: iter(frames), how, seed=0, folder=tmp_path)
    assert fitted.name == "haar_pca"
    for words in ("before their pixels are trained and", "% after, which is less than 100%", "tokenizer.name=layers"):
        assert words in fitted.why


def test_a_time_shortens_every_schedule_and_one_that_is_too_short_is_refused() -> None:
    stages = {"tokenizer": Cost(wall_s=60.0), "latents": Cost(wall_s=60.0), "predictor": Cost(wall_s=540.0)}
    stages |= {"heads": Cost(wall_s=0.0)}
    steps = {"tokenizer": 100, "predictor": 1000, "heads": 100}
    full = TrainingPlan(choices=(), predictor="conv", suits="", steps=steps, stages=stages, memory_bytes=0)
    assert full.fit(0, spent_s=9) == full
    fitted = full.fit(10, spent_s=150)  # of 600 s, 60 are kept back, 210 are spent, and the cheap stage takes 60 of 330
    assert fitted.shares == pytest.approx({"tokenizer": 1, "predictor": 0.5, "heads": 1})
    assert fitted.steps == {"tokenizer": 100, "predictor": 500, "heads": 100}
    assert fitted.stages["latents"].wall_s == 60 and fitted.stages["predictor"].wall_s == pytest.approx(270)
    assert "Fitted to 10 minutes: predictor 50% of the steps asked for." in str(fitted)
    many = dataclasses.replace(full, stages={**stages, "frames": Cost(wall_s=900.0)}).fit(10, spent_s=150)
    assert many.shares == pytest.approx({"tokenizer": 1, "predictor": 0.25, "heads": 1, "frames": 0.15})
    assert "predictor 25% of the steps asked for, pictures learned from 15% of the frames." in str(many)
    assert "all of the steps" in str(full.fit(1000, spent_s=0))
    with pytest.raises(InvalidInputError, match=r"minutes=4 is too short.*minutes here"):
        full.fit(4, spent_s=180)
    schedule = Schedule(steps=1000, warmup=100)
    assert shorten_schedule(schedule, 1.0) is schedule
    assert (shorten_schedule(schedule, 0.25).steps, shorten_schedule(schedule, 0.25).warmup) == (250, 25)


def test_time_counts_by_the_processor_with_what_decodes_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = {"process_time": 0.0, "perf_counter": 0.0, "decoding": 0.0}
    clocks = {name: lambda name=name: spent[name] for name in ("process_time", "perf_counter")}
    monkeypatch.setattr(cost, "time", SimpleNamespace(**clocks))
    monkeypatch.setattr(cost, "decoding_s", lambda: spent["decoding"])

    def work() -> None:
        spent.update(process_time=2.0, decoding=3.0, perf_counter=50.0)  # nine tenths of the time for other programs

    assert cost.time_call(work) == Cost(core_s=5.0, wall_s=5.0)
    spent = dict.fromkeys(spent, 0.0)
    assert cost.time_call(work, on_cpu=False) == Cost(core_s=5.0, wall_s=50.0)


def test_a_time_that_was_too_short_binds_nothing(data: Path, tmp_path: Path) -> None:
    def kill(stage: str, step: int, steps: int, values: object) -> None:
        if stage == "latents":
            raise Killed

    with pytest.raises(InvalidInputError, match="is too short"):
        train_world(settings(data, tmp_path / "world", minutes=1e-6))
    with pytest.raises(Killed):  # it has begun
        train_world(settings(data, tmp_path / "world", minutes=60.0), progress=kill)


class Killed(Exception):
    """Stands for a kill at an awkward moment."""


def test_a_continued_training_keeps_the_schedule_and_a_world_that_does_not_beat_copying_is_not_called_usable(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, lines = settings(data, tmp_path / "world", minutes=60.0), list[str]()

    def kill(stage: str, step: int, steps: int, values: object) -> None:
        if stage == "latents":
            raise Killed

    with pytest.raises(Killed):
        train_world(config, progress=kill, say=lines.append)
    kept = tmp_path / "world.training" / "plan.json"
    values = json.loads(kept.read_text())
    kept.write_text(json.dumps({**values, "shares": {"predictor": 0.5}}))
    monkeypatch.setattr(recipe, "rehearse_parts", None)  # nothing is measured a second time
    out = train_world(config, say=lines.append)
    manifest = json.loads((out / "manifest.json").read_text())
    assert (
        manifest["plan"]["shares"] == {"predictor": 0.5}
        and manifest["config"]["predictor"]["schedule"]["steps"] == STEPS
    )
    validity = world_spec(out).validity
    assert validity is not None and validity.usable is False and validity.reasons
    assert validity.curve("progress") is not None and validity.curve("success") is not None
    assert "NOT usable" in lines[-1] and "pictures after 8 actions" in lines[-1]
    sheet = (out / "held_out.png").read_bytes()
    assert sheet.startswith(b"\x89PNG") and str(out / "held_out.png") in lines[-1]


@hypothesis.given(st.floats(0, 1e4), st.dictionaries(st.sampled_from("abcd"), st.floats(0.01, 1e4), min_size=1))
def test_a_time_is_shared_out_so_that_no_stage_that_is_cut_gets_less_than_another(
    budget: float, costs: dict[str, float]
) -> None:
    shares = share_out(budget, costs)
    taken = {name: shares[name] * cost for name, cost in costs.items()}
    assert sum(taken.values()) == pytest.approx(min(budget, sum(costs.values())))
    for name, share in shares.items():
        assert 0 <= share <= 1 and (share == 1 or taken[name] >= max(taken.values()) - 1e-6 * (1 + budget))
