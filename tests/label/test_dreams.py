"""Dreams of a triage run: drawn again by lot, labelled, and what labels say of the run's judge and teach the heads."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from worldsim.data.labels import LabelFile
from worldsim.data.latents import EncodedEpisodes
from worldsim.data.lerobot.read import Dataset, open_dataset
from worldsim.data.windows import EncodedEpisode
from worldsim.errors import InvalidInputError, StorageError
from worldsim.evaluate.dreams import FOLDER, LABELS, chance_of_judges, dream_rates, is_run, rates_of_run, record_dreams
from worldsim.evaluate.policies import SHIPPED_FOLDER
from worldsim.evaluate.triage import prepare
from worldsim.label.session import open_session
from worldsim.train.recipes.labels import encode_dreams, read_dreams
from worldsim.triage.run import read_results

MOST = 9


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished triage of a good and a poor policy, with its dreams drawn."""
    out = tmp_path_factory.mktemp("run") / "run"
    policies = [str(SHIPPED_FOLDER / name) for name in ("all_s2/000400", "n20_s0/000060")]
    prepare(policies, world="push", k=1, budget=16, truth=0, workers=1).run(out, videos=0)
    record_dreams(out, most=MOST)
    return out


@pytest.fixture
def labels(run: Path):
    """The run's file of labels, empty again afterwards."""
    yield LabelFile.of(run / LABELS, open_dataset(run / FOLDER))
    (run / LABELS).unlink(missing_ok=True)


def judged(run: Path) -> list[bool]:
    results, dreams = read_results(run), open_dataset(run / FOLDER)
    names = [ref.name for ref in results.plan.request.policies]
    pairs = zip(dreams.behaviours, dreams.seeds, strict=True)
    return [bool(results.triage.success[names.index(who), seed] >= 0.5) for who, seed in pairs]


def test_dreams_are_drawn_as_the_run_played_them_and_once(run: Path) -> None:
    dreams = open_dataset(run / FOLDER)
    assert (dreams.episodes, dreams.dreamed_by) == (MOST, "push") and set(dreams.behaviours) <= {"000400", "000060"}
    episode = dreams.episode(0)
    assert len(episode.action) == read_results(run).plan.world.horizon and np.isnan(episode.success[1:]).all()
    before = {p: p.stat().st_mtime_ns for p in (run / FOLDER / "data").rglob("*.parquet")}
    assert record_dreams(run, most=MOST) == (run / FOLDER, [])
    assert {p: p.stat().st_mtime_ns for p in (run / FOLDER / "data").rglob("*.parquet")} == before
    assert is_run(run) and not is_run(run / FOLDER)


def test_what_judges_say_of_dreams_decides_the_order(run: Path, tmp_path: Path) -> None:
    chance_N = chance_of_judges(run)
    assert chance_N.shape == (MOST,) and ((chance_N > 0.5) == np.array(judged(run))).mean() > 0.7
    session = open_session(run / FOLDER, tmp_path / LABELS, who="ann", run=run)
    asked = []
    for _ in range(6):
        question = session.ask()
        assert question.dream and question.episode is not None
        asked.append(question.episode)
        session.say(episode=question.episode, outcome="failed", frame=None)
    assert {0, 1, 2} <= set(asked)  # every second question is of the random sample, in its order


def test_rates_are_of_a_random_sample_of_what_people_said(run: Path, labels: LabelFile) -> None:
    assert dream_rates(run) is None and rates_of_run(run) == ()
    verdicts = judged(run)
    for e in (0, 1, 3):  # 3 was chosen, not drawn by lot
        labels.add(episode=e, outcome="solved" if verdicts[e] else "failed", who="ann")
    labels.add(episode=2, outcome="solved", who="judge: reason")
    rates = dream_rates(run)
    assert rates is not None and rates.solved + rates.unsolved == 2
    assert rates.solved_right + rates.unsolved_right == 2
    labels.add(episode=2, outcome="unclear", who="ann")
    found = dream_rates(run)
    assert found is not None and found.solved + found.unsolved == 3  # 0, 1 and 3


def test_enough_labels_correct_the_ranking(run: Path, labels: LabelFile) -> None:
    assert read_results(run, judge_rates=rates_of_run(run)).ranking.corrected is False
    for e in range(8):
        labels.add(episode=e, outcome="solved" if e % 2 else "failed", who="ann")
    (rates,) = rates_of_run(run)
    assert (rates.solved, rates.unsolved) == (4, 4)
    corrected = read_results(run, judge_rates=(dataclasses.replace(rates, solved_right=4, unsolved_right=3),))
    assert all(line.corrected is not None for line in corrected.ranking.policies)


def test_the_heads_learn_from_labelled_dreams(run: Path, labels: LabelFile) -> None:
    with pytest.raises(InvalidInputError, match="not labelled"):
        read_dreams(str(run))
    labels.add(episode=1, outcome="unclear", who="ann")
    with pytest.raises(InvalidInputError, match="no dream solved or failed"):
        read_dreams(str(run))
    labels.add(episode=3, outcome="solved", frame=20, who="ann")
    labels.add(episode=5, outcome="failed", who="ann")
    found, like = read_dreams(str(run)), open_dataset(run / FOLDER)

    def encode(dataset: Dataset, chosen: list[int]) -> EncodedEpisodes:
        rows = dataset.length(chosen[0])
        blank = EncodedEpisode(
            z_FCHW=torch.zeros(rows, 1, 1, 1),
            proprio_FP=torch.zeros(rows, 2),
            action_FA=torch.zeros(rows - 1, 2),
            success_F=torch.full((rows,), torch.nan),
            progress_F=torch.full((rows,), torch.nan),
        )
        return EncodedEpisodes(episodes=(blank,) * len(chosen), indices=tuple(range(len(chosen))))

    made = encode_dreams(found, like, encode)
    assert made is not None and made.indices == (3, 5)
    solved_F, failed_F = (e.success_F for e in made.episodes)
    assert solved_F[20:].eq(1).all() and solved_F[1:20].isnan().all() and failed_F[-1] == 0
    assert encode_dreams(None, like, encode) is None and read_dreams("") is None


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not the folder of a triage run"):
        record_dreams(tmp_path)
    with pytest.raises(InvalidInputError, match="not labelled"):
        read_dreams(str(tmp_path))
