"""Where the settings leave the family open, each that fits is tried, the best is trained, and the choice outlives a kill."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.train import toy
from worldsim import storage
from worldsim.data.lerobot.read import open_dataset
from worldsim.data.lerobot.write import episode_writer
from worldsim.errors import InvalidInputError, TrainingError
from worldsim.optimize import Schedule
from worldsim.testing import check_world
from worldsim.train.recipes import choice, parts, rehearsal
from worldsim.train.recipes import world as recipe
from worldsim.train.recipes.comparison import BACKGROUND, COPYING, measure_copying, moved_error, read_windows
from worldsim.train.recipes.parts import keep_rows
from worldsim.train.recipes.predictor import PredictorRecipe
from worldsim.train.recipes.settings import (
    MOST_STRUCTURED,
    TrainWorld,
    explain_schedules,
    leaves_family_open,
    settle_schedules,
    split_episodes,
)
from worldsim.train.recipes.structured.family import BegunPictures
from worldsim.train.recipes.structured.settings import STAGES, StructuredRecipe
from worldsim.train.recipes.tokenizer import TokenizerRecipe
from worldsim.train.recipes.world import plan_world, train_world
from worldsim.worlds import load_world

SHORT = Schedule(steps=6, batch=8, lr=1e-3)


class Killed(Exception):
    """Stands for a kill at an awkward moment."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write(tmp_path_factory.mktemp("toy") / "data", episodes=14)


def settings(data: Path, out: Path, **changes: object) -> TrainWorld:
    base = TrainWorld(
        data=str(data),
        out=str(out),
        num_starts=2,
        tokenizer=TokenizerRecipe(schedule=SHORT),
        predictor=PredictorRecipe(schedule=SHORT, unrolls=((1, 1.0),)),
        structured=StructuredRecipe(**dict.fromkeys(STAGES, SHORT), frames=100, unrolls=((2, 1.0),)),
        heads=SHORT,
    )
    return dataclasses.replace(base, **changes)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are run however little time there is for them, since toys are trained in less; and of all families."""
    monkeypatch.setattr(choice, "CHOICE_SHARE", 1e6)
    monkeypatch.setattr(choice, "CLEAR", 0.0)


def test_settings_that_name_a_part_leave_nothing_open(data: Path, tmp_path: Path) -> None:
    open_ = settings(data, tmp_path)
    assert leaves_family_open(open_)
    named = dataclasses.replace(open_.tokenizer, name="haar_pca"), dataclasses.replace(open_.predictor, name="flow")
    changes = [{"tokenizer": named[0]}, {"predictor": named[1]}, {"state": True}, {"family": "grid"}]
    assert not any(leaves_family_open(dataclasses.replace(open_, **change)) for change in changes)
    with pytest.raises(InvalidInputError, match=r"family=layers.*not with tokenizer\.name=haar_pca"):
        train_world(settings(data, tmp_path / "w", family="layers", tokenizer=named[0]))


@pytest.mark.usefixtures("patient")
def test_the_best_is_trained_its_table_is_kept_and_a_killed_choice_is_not_made_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, lines = settings(data, tmp_path / "world"), list[str]()

    def kill(stage: str, step: int, steps: int, values: object) -> None:
        if stage == "heads" and (tmp_path / "world.training" / "plan.json").exists():
            raise Killed

    with pytest.raises(Killed):
        train_world(config, progress=kill, say=lines.append)
    kept = storage.read_json(tmp_path / "world.training" / "plan.json")
    family = kept["family"]
    assert [path.name for path in (tmp_path / "world.training").iterdir() if path.name in choice.FAMILIES] == [family]
    assert not (tmp_path / "world.training" / family / "trial").exists()
    for words in ("Families that fit: layers", "structured (about", "grid (about", "copying", f"Trained is: {family}"):
        assert words in lines[0]
    monkeypatch.setattr(recipe, "find_prospects", None)
    monkeypatch.setattr(recipe, "try_prospects", None)
    manifest = storage.read_manifest(train_world(config), kind="world")
    assert manifest["plan"]["family"] == family
    compared = manifest["plan"]["compared"]
    assert compared["horizons"] == [1, 4, 8] and compared["windows"] == 2
    assert set(compared["lines"]) == {"layers", "structured", "grid", COPYING, BACKGROUND}
    check_world(load_world(tmp_path / "world"))


@pytest.fixture(scope="module")
def found(data: Path, tmp_path_factory: pytest.TempPathFactory) -> choice.Prospects:
    """All families of the toy, begun and rehearsed."""
    folder = tmp_path_factory.mktemp("found")
    config = settings(data, folder / "w")
    return choice.find_prospects(open_dataset(data), config, folder, recipe.silent, labelled=False, refused={})


def show(found: choice.Prospects) -> str:
    """What is said where no family is decided yet."""
    first = next(iter(found.fit.values()))
    return str(dataclasses.replace(first.plan, candidates=found.listed({}, 0.0)))


def test_without_time_for_trials_the_first_family_that_fits_is_trained_and_the_plan_says_so(
    data: Path, found: choice.Prospects, tmp_path: Path
) -> None:
    assert list(found.fit) == ["layers", "structured", "grid"] and found.spent_s > 0
    assert "layers is trained: there is too little time for trials. family=NAME decides otherwise." in show(found)
    tried = choice.try_prospects(open_dataset(data), found, tmp_path, recipe.silent, minutes=0.0)
    assert tried == choice.Tried(best="layers") and not (tmp_path / "trials.json").exists()


def test_layers_that_explain_little_are_tried_after_the_structured_family(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretend(*args: object, **more: object) -> Plan:
        return Plan(100.0)

    monkeypatch.setattr(choice, "EXPLAINED", 0.9999)
    monkeypatch.setattr(choice, "rehearse_parts", pretend)
    config = settings(data, tmp_path / "w")
    found = choice.find_prospects(open_dataset(data), config, tmp_path, recipe.silent, labelled=False, refused={})
    assert list(found.fit) == ["structured", "layers", "grid"]
    monkeypatch.setattr(choice, "_explained_trained", lambda begun, config: 1.0)
    refused = {"grid": "not asked for"}
    found = choice.find_prospects(open_dataset(data), config, tmp_path, recipe.silent, labelled=False, refused=refused)
    assert list(found.fit) == ["layers", "structured"]


@pytest.mark.usefixtures("patient")
def test_candidates_and_their_cost_are_named_before_anything_is_decided(found: choice.Prospects) -> None:
    for words in ("Families that fit: layers (about", "decided by trials", "family=NAME decides it now"):
        assert words in show(found)


@pytest.mark.usefixtures("patient")
def test_a_family_whose_trial_fails_is_none_and_why_is_said(
    data: Path, found: choice.Prospects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, brief = open_dataset(data), choice._train_briefly
    fit = {family: found.fit[family] for family in ("layers", "grid")}
    found = choice.Prospects(fit=fit, refused={"structured": "not asked for"})

    def fail(data: object, prospect: choice.Prospect, *rest: object) -> object:
        if prospect.config.family == "layers":
            raise TrainingError("The loss is not finite. Do this.")
        return brief(data, prospect, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(choice, "_train_briefly", fail)
    tried = choice.try_prospects(dataset, found, tmp_path / "a", recipe.silent, minutes=0.0)
    assert tried.best == "grid" and tried.failed == {"layers": "its trial failed: The loss is not finite"}
    listed = {one.family: one.refused for one in found.listed(tried.spent_s, 0.0, failed=tried.failed)}
    assert listed == {"grid": "", "structured": "not asked for", **tried.failed}
    alone = dataclasses.replace(found, fit={"grid": found.fit["grid"]})
    assert choice.try_prospects(dataset, alone, tmp_path / "b", recipe.silent, minutes=0.0) == choice.Tried(best="grid")


@pytest.mark.usefixtures("patient")
def test_what_is_for_pictures_of_any_kind_is_not_tried_where_another_family_does_well(
    data: Path, found: choice.Prospects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "CLEAR", 1e3)
    fit = {family: found.fit[family] for family in ("layers", "grid")}
    found = choice.Prospects(fit=fit, refused={})
    tried = choice.try_prospects(open_dataset(data), found, tmp_path / "a", recipe.silent, minutes=0.0)
    assert tried.best == "layers" and tried.failed == {"grid": "layers does well, and grid is for what suits no other"}
    assert tried.compared is not None and set(tried.compared.lines) == {"layers", COPYING, BACKGROUND}
    listed = found.listed(tried.spent_s, 0.0, failed=tried.failed)
    plan = dataclasses.replace(fit["layers"].plan, candidates=listed, family="layers", compared=tried.compared)
    assert "Not grid: layers does well" in str(plan) and "constant background" in str(plan)
    assert {one.family for one in listed if one.cost.core_s} == {"layers", "grid"}


class Plan:
    """Stands for a plan of which only the cost counts."""

    def __init__(self, core_s: float) -> None:
        self.stages = {"predictor": choice.Cost(core_s=core_s)}


def costing(*costs_s: float, spent_s: float = 0.0) -> choice.Prospects:
    """Prospects of such costs."""
    fit = {str(s): choice.Prospect(config=None, begun=None, plan=Plan(s), folder=Path()) for s in costs_s}  # type: ignore[arg-type]
    return choice.Prospects(fit=fit, refused={}, spent_s=spent_s)


def test_choosing_takes_a_bounded_share_and_the_last_are_not_tried_where_time_does_not_reach() -> None:
    assert costing(500.0).trials(0) == {}
    assert costing(400.0, 500.0).trials(0) == pytest.approx(dict.fromkeys(("400.0", "500.0"), 0.15 * 400 / 2))
    assert costing(1e5, 2e5).trials(0) == {"100000.0": 60, "200000.0": 60}
    assert list(costing(1e5, 2e5).trials(10).values()) == pytest.approx([0.15 * 600 / 2] * 2)
    assert costing(200.0, 500.0).trials(0) == costing(1e5, 2e5).trials(4) == {}
    three = costing(700.0, 800.0, 900.0, spent_s=50.0)
    assert three.trials(0) == pytest.approx({"700.0": 27.5, "800.0": 27.5})  # all three would get less than 20
    assert costing(700.0, 800.0, 900.0).trials(0) == pytest.approx(dict.fromkeys(("700.0", "800.0", "900.0"), 35.0))
    assert costing(700.0, 800.0, spent_s=70.0).trials(0) == {}


def test_families_that_do_not_fit_the_time_are_none_before_anything_is_tried(found: choice.Prospects) -> None:
    slow = found.fit["grid"]
    stages = {**slow.plan.stages, "latents": choice.Cost(core_s=1e5, wall_s=1e5)}
    fit = {**found.fit, "grid": dataclasses.replace(slow, plan=dataclasses.replace(slow.plan, stages=stages))}
    found = dataclasses.replace(found, fit=fit)
    assert found.within(0.0, spent_s=1e9).fit == fit
    left = found.within(60.0, spent_s=1.0)
    assert list(left.fit) == ["layers", "structured"] and left.refused["grid"].startswith("minutes=60 is too short")
    with pytest.raises(InvalidInputError, match="minutes=60 is too short"):
        found.within(60.0, spent_s=3600.0)


def test_pictures_are_learned_from_fewer_moments_in_a_trial_and_in_a_short_time(
    found: choice.Prospects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "LEAST_ROWS", 20)
    monkeypatch.setattr(parts, "LEAST_HELD_OUT", 4)
    begun = found.fit["structured"].begun
    assert isinstance(begun, BegunPictures)
    few = keep_rows(begun, most=30, held_out=7)
    assert isinstance(few, BegunPictures)
    (every,), (some,) = begun.cameras.values(), few.cameras.values()
    assert (len(every.rows), len(some.rows), len(some.held_out)) == (100, 30, 7)
    for share, count in ((1.0, 100), (0.5, 50), (0.01, 20)):
        kept = keep_rows(begun, share=share)
        assert isinstance(kept, BegunPictures) and [len(one.rows) for one in kept.cameras.values()] == [count]
        aside = max(4, math.ceil(share * len(every.held_out)))
        assert [len(one.held_out) for one in kept.cameras.values()] == [aside]
    assert torch.equal(some.rows.frames_NCHW, every.rows.frames_NCHW[:30]) and some.rows.later_NP is not None


def test_a_slow_predictor_is_rehearsed_at_a_small_batch_only(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, step_s = list[int](), 1.0

    def pretend(model: object, loss_at: object, schedule: Schedule, unrolls: object) -> choice.Cost:
        batches.append(schedule.batch)
        return choice.Cost(core_s=step_s * schedule.batch * schedule.steps)

    monkeypatch.setattr(rehearsal, "time_unrolls", pretend)
    how = PredictorRecipe(schedule=dataclasses.replace(SHORT, batch=256), unrolls=((1, 1.0),))
    config = settings(data, tmp_path / "w", family="grid", predictor=how)
    assert plan_world(config).stages["predictor"].core_s == 256 * SHORT.steps and batches == [64]
    step_s = 1e-6
    assert plan_world(config).stages["predictor"].core_s == pytest.approx(256e-6 * SHORT.steps)
    assert batches == [64, 64, 256]


def test_stages_of_the_structured_family_take_what_the_data_is_worth(data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(data)
    config = TrainWorld(data=str(data), out="w", family="structured")
    settled = settle_schedules(config, dataset).structured
    transitions = sum(dataset.length(i) - 1 for i in split_episodes(dataset)[0])
    assert settled.actor.steps == 400 * transitions // 32 < MOST_STRUCTURED["actor"] and settled.actor.warmup < 100
    assert "400 passes over" in explain_schedules(config, dataset)
    assert f"contact {MOST_STRUCTURED['contact']:,}" in explain_schedules(config, dataset)
    asked = dataclasses.replace(config, structured=dataclasses.replace(config.structured, actor=SHORT))
    assert settle_schedules(asked, dataset).structured.actor == SHORT


def scene(x: int, *, opacity: float = 1.0, blur: int = 0) -> Tensor:
    """A red square of 6 pixels on white, [1, 3, 64, 64]."""
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 30:36, x : x + 6] = opacity
    mask = F.avg_pool2d(mask, blur, 1, blur // 2) if blur else mask
    return 0.8 * (1 - mask) + torch.tensor([0.8, 0.2, 0.15])[:, None, None] * mask


def test_a_sharp_thing_a_little_off_is_better_than_a_dissolved_one() -> None:
    true = scene(30)

    def error(drawn: Tensor) -> float:
        return float(moved_error(drawn, true))

    def squared(drawn: Tensor) -> float:
        return float((drawn - true).square().mean())

    gone, faint, smeared = scene(30, opacity=0), scene(30, opacity=0.2), scene(30, blur=17)
    assert error(true) == 0 < error(scene(31)) < error(scene(33)) < error(scene(35)) < error(gone)
    assert error(scene(33)) < error(faint) and error(scene(33)) < error(smeared)
    assert squared(scene(33)) > squared(faint) and squared(scene(35)) > squared(
        gone
    )  # which squared errors see otherwise
    assert error(true + 10 / 255) == 0  # shading


def test_windows_are_of_held_out_episodes_as_long_as_they_are(data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(data)
    windows = read_windows(dataset, split_episodes(dataset)[1])
    assert windows.horizons == (1, 4, 8) and windows.context == 4 and windows.action.shape == (2, 11, 2)
    still = measure_copying(windows)
    assert still[COPYING].error[0] < still[COPYING].error[-1]
    short = open_dataset(toy.write(tmp_path / "short", episodes=3))
    with pytest.raises(InvalidInputError, match="family=NAME"):
        read_windows(short, [])


def test_without_proprioception_the_structured_family_is_none_and_is_refused_by_name(tmp_path: Path) -> None:
    with episode_writer(tmp_path / "data", toy.spec()) as writer:
        for seed in range(6):
            made = toy.episode(seed)
            writer.write(dataclasses.replace(made, proprio=0 * made.proprio))
    found = plan_world(settings(tmp_path / "data", tmp_path / "w"))
    assert {one.family for one in found.candidates if not one.refused} == {"grid"}
    assert "Not structured: there is no proprioception that changes" in str(found)
    with pytest.raises(InvalidInputError, match="family=structured does not fit: there is no proprioception"):
        plan_world(settings(tmp_path / "data", tmp_path / "w", family="structured"))
