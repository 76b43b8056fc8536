"""Whether the best family is chosen is counted as said, and what was trained and measured is not done again."""

from pathlib import Path

import pytest

from benchmarks.any_scene_choice import Chosen, Error, Found, Trained, choose, figures
from tests.train import toy
from worldsim import storage
from worldsim.data.lerobot.read import Dataset
from worldsim.worlds.latent import LearnedWorld

FEW = [f"{name}.steps=3" for name in ("tokenizer.schedule", "predictor.schedule", "heads")]
FEW += ["predictor.schedule.batch=8", "predictor.unrolls=[[1,1.0]]"]


def trained(error: Error, *, predicted_s: float = 100.0) -> Trained:
    return Trained(error=error, predicted_s=predicted_s, stages_s=90.0, all_s=100.0)


def found(family: str, **errors: Error) -> Found:
    chosen = Chosen(family=family, candidates=dict.fromkeys(errors, 600.0), choosing_s=60.0, said="")
    return Found(scene="s", chosen=chosen, trained={name: trained(error) for name, error in errors.items()})


def px(value: float, least: float = 0.0) -> Error:
    return Error(what="px", value=value, least=least)


def db(value: float) -> Error:
    return Error(what="dB", value=value, more_is_better=True)


def test_the_chosen_may_be_a_little_worse_than_the_best() -> None:
    assert found("grid", layers=px(1.0), grid=px(1.04)).right
    assert not found("grid", layers=px(1.0), grid=px(1.06)).right
    assert found("grid", layers=px(0.1, 0.3), grid=px(0.3, 0.3)).right  # the detector cannot tell
    dim, bright = found("layers", layers=db(28.0), grid=db(30.0)), found("layers", layers=db(29.0), grid=db(30.0))
    assert dim.best == bright.best == "grid" and bright.right and not dim.right
    assert not found("layers", grid=px(1.0)).right  # which was never trained


def test_the_figures_count_scenes_and_trainings() -> None:
    late = Found(scene="t", chosen=found("grid", grid=px(1.0)).chosen, trained={"grid": trained(px(1), predicted_s=70)})
    rows = {f.name: f.value for f in figures([found("grid", layers=px(1.0), grid=px(2.0)), late])}
    assert rows["scenes"] == 2 and rows["scenes where several families fit"] == 1
    assert rows["scenes where the chosen is the best, or within 5 %"] == 1
    assert rows["choosing, largest share of the training"] == pytest.approx(10)
    assert rows["cost predicted, largest deviation"] == pytest.approx(30)
    assert (rows["trainings"], rows["trainings whose cost is predicted within 20 %"]) == (3, 2)
    assert (rows["s: chosen, px"], rows["s: best, px"]) == (2.0, 1.0)


def test_what_was_trained_and_measured_is_kept(tmp_path: Path) -> None:
    data, calls = toy.write(tmp_path / "data", episodes=10), list[str]()

    def measure(scene: str, world: LearnedWorld, dataset: Dataset) -> Error:
        calls.append(scene)
        return px(2.0)

    chosen = Chosen(family="layers", candidates={"layers": 50.0}, choosing_s=5.0, said="")
    (tmp_path / "toy").mkdir()
    storage.write_json(tmp_path / "toy" / "chosen.json", storage.to_json(chosen))
    first = choose({"toy": data}, tmp_path, settings=FEW, measure=measure)
    assert choose({"toy": data}, tmp_path, settings=FEW, measure=measure) == first and calls == ["toy"]
    (one,) = first[0].trained.values()
    assert one.error == px(2.0) and 0 < one.stages_s < one.all_s and one.predicted_s > 0
    assert first[0].right and first[0].to_json()["choosing_share"] == 0.1
