"""Sources that label instead of people: rewards, rules, progress files, goal pictures, critics; people count before them."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.label.conftest import EPISODES, STEPS
from tests.train import toy
from worldsim.cli import app
from worldsim.data.labels import LabelFile, agree, compare
from worldsim.data.lerobot.read import Dataset, open_dataset
from worldsim.data.lerobot.write import episode_writer
from worldsim.errors import InvalidInputError, StorageError
from worldsim.label.automatic import Automatic
from worldsim.label.goal import best_distance, goal_source
from worldsim.label.session import Session, mean_chance, open_labels
from worldsim.label.sources import RewardSource, Said, label_by, rewards_of_file, said_of, source_name
from worldsim.video import encode_png


@pytest.fixture(scope="module")
def paid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes with rewards: progress of the toy task, paid after every action."""
    path = tmp_path_factory.mktemp("paid") / "data"
    with episode_writer(path, dataclasses.replace(toy.spec(), has_success=False, has_progress=False)) as writer:
        for i in range(EPISODES):
            made = toy.episode(i, steps=STEPS)
            writer.write(dataclasses.replace(made, reward=made.progress[1:]))
    return path


def ends(data: Path) -> list[float]:
    dataset = open_dataset(data)
    return [float(dataset.episode(i).reward[-1]) for i in range(EPISODES)]


def test_a_rule_on_rewards_labels_every_episode_and_twice_the_same(paid: Path, tmp_path: Path) -> None:
    dataset, file = open_labels(paid, tmp_path / "labels.jsonl")
    middle = float(np.median(ends(paid)))
    source = RewardSource(f"reward > {middle}", success_at="end")
    found = label_by(source, dataset, file)
    assert {e: a.outcome for e, a in agree(file.labels).items()} == {
        e: "solved" if end > middle else "failed" for e, end in enumerate(ends(paid))
    }
    assert all(label.automatic and label.who == f"reward: reward > {middle}" for label in file.labels)
    assert "solved" in str(found)
    label_by(source, dataset, file)
    assert len(file.labels) == EPISODES  # nothing is written twice


def test_outcomes_at_the_end_and_at_any_step_and_where_nothing_is_known() -> None:
    nan = np.nan
    cases = [
        ([nan, 0, 1, 1], "end", Said(outcome="solved", frame=2)),
        ([1, 1, 1, 1], "end", Said(outcome="solved", frame=0)),
        ([nan, 1, 1, 0], "end", Said(outcome="failed")),
        ([nan, 1, 1, 0], "any", Said(outcome="solved", frame=1)),
        ([1, 0, 0, 0], "any", Said(outcome="failed")),  # where an episode begins does not count
        ([nan, 1, 1, nan], "end", Said(outcome="unclear")),
        ([nan, nan, nan], "any", Said(outcome="unclear")),
    ]
    for holds, at, said in cases:
        assert said_of(np.array(holds, float), success_at=at) == said, (holds, at)


@pytest.mark.parametrize(
    "rule", ["info.x > 1", "os:getcwd", "__import__('os')", "reward", "reward.0 > 1", "reward > nan"]
)
def test_what_is_no_rule_on_a_recording_is_refused(rule: str) -> None:
    with pytest.raises(InvalidInputError, match="reward > 0.9"):
        RewardSource(rule, success_at="end")


def test_a_rule_on_the_state(paid: Path) -> None:
    episode = open_dataset(paid).episode(0)
    rule = f"observation.state.1 >= {episode.proprio[-1, 1] - 0.01}"
    assert RewardSource(rule, success_at="end")(0, episode).outcome == "solved"
    assert RewardSource("observation.state.7 > 0", success_at="end")(0, episode).outcome == "unclear"


def progress_file(path: Path, data: Dataset, **change: object) -> Path:
    rows = [(e, f) for e in range(data.episodes) for f in range(data.length(e))]
    columns = {
        "index": np.arange(len(rows)),
        "episode_index": np.array([e for e, _ in rows]),
        "frame_index": np.array([f for _, f in rows]),
        "progress_sparse": np.array([f / STEPS if e % 2 else 0.2 for e, f in rows], np.float32),
        **change,
    }
    pq.write_table(pa.table({k: v for k, v in columns.items() if v is not None}), path)
    return path


def test_the_progress_file_of_a_reward_model(data: Path, tmp_path: Path) -> None:
    out, given = tmp_path / "labels.jsonl", progress_file(tmp_path / "sarm_progress.parquet", open_dataset(data))
    done = CliRunner().invoke(app, ["label", str(data), "--rewards", str(given), "--out", str(out)])
    assert done.exit_code == 0, done.output
    _, file = open_labels(data, out)
    assert {e: a.outcome for e, a in agree(file.labels).items()} == {
        e: "solved" if e % 2 else "failed" for e in range(EPISODES)
    }
    assert {label.who for label in file.labels} == {"reward: sarm_progress.parquet reward >= 0.9"}


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"progress_sparse": None}, StorageError, "no progress file"),
        ({"episode_index": None}, StorageError, "no progress file"),
        ({"episode_index": np.full(EPISODES * (STEPS + 1), EPISODES)}, InvalidInputError, "other episodes"),
        ({"frame_index": np.full(EPISODES * (STEPS + 1), STEPS + 1)}, InvalidInputError, "longer than"),
    ],
)
def test_progress_files_of_other_episodes_are_refused(data: Path, tmp_path: Path, change, error, says: str) -> None:
    dataset = open_dataset(data)
    with pytest.raises(error, match=says):
        rewards_of_file(progress_file(tmp_path / "p.parquet", dataset, **change), dataset)


def test_a_file_that_is_no_parquet_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(b"not a table")
    with pytest.raises(StorageError, match="no progress file"):
        rewards_of_file(tmp_path / "p.parquet", open_dataset(data))


def goal_picture(data: Path, path: Path, episode: int) -> Path:
    path.write_bytes(encode_png(next(iter(open_dataset(data).episode(episode).frames.values()))[-1]))
    return path


def test_a_goal_picture_labels_what_ends_like_it(data: Path, tmp_path: Path) -> None:
    picture = goal_picture(data, tmp_path / "goal.png", 2)
    dataset, file = open_labels(data, tmp_path / "labels.jsonl")
    with pytest.raises(InvalidInputError, match="label some solved and some failed"):
        goal_source(picture, dataset, file)
    source = goal_source(picture, dataset, file, within=0.05)
    label_by(source, dataset, file)
    said = {e: a.outcome for e, a in agree(file.labels).items()}
    assert said[2] == "solved" and list(said.values()).count("failed") >= EPISODES - 2
    assert source.distance(dataset.episode(2).frames[source.camera])[-1] == pytest.approx(0, abs=1e-6)


def test_how_near_follows_from_labels_of_people_and_is_tested_on_others(data: Path, tmp_path: Path) -> None:
    picture = goal_picture(data, tmp_path / "goal.png", 2)
    dataset, file = open_labels(data, tmp_path / "labels.jsonl")
    probe = goal_source(picture, dataset, file, within=1.0)
    far = {i: probe.distance(dataset.episode(i).frames[probe.camera])[-1] for i in range(EPISODES)}
    order = sorted(far, key=far.__getitem__)
    for rank, i in enumerate(order[:4]):
        file.add(episode=i, outcome="solved" if rank < 2 else "failed", who="ann")
    made = goal_source(picture, dataset, file)
    assert far[order[1]] < made.within < far[order[2]]
    assert made.rates is not None and made.rates.solved == 2 and "balanced accuracy" in str(made)


def test_the_best_distance_lies_in_the_middle_of_the_gap() -> None:
    far, solved = np.array([0.1, 0.3, 0.9, 1.2]), np.array([True, True, False, False])
    assert best_distance(far, solved) == pytest.approx(0.6)
    assert best_distance(np.array([0.4, 0.4]), np.array([True, False])) >= 0


def test_pictures_that_do_not_fit_are_named(data: Path, tmp_path: Path) -> None:
    dataset, file = open_labels(data, tmp_path / "labels.jsonl")
    (tmp_path / "wide.png").write_bytes(encode_png(np.zeros((20, 60, 3), np.uint8)))
    (tmp_path / "none.png").write_bytes(b"x")
    for name, error, says in (
        ("wide.png", InvalidInputError, "20 x 60"),
        ("none.png", StorageError, "none.png"),
        ("absent.png", StorageError, "absent.png"),
    ):
        with pytest.raises(error, match=says):
            goal_source(tmp_path / name, dataset, file, within=0.1)


def test_people_count_before_sources_and_both_are_compared(data: Path, tmp_path: Path) -> None:
    _, file = open_labels(data, tmp_path / "labels.jsonl")
    who = source_name("reward", "reward > 1")
    for episode, outcome in ((0, "solved"), (1, "solved"), (2, "unclear"), (3, "failed")):
        file.add(episode=episode, outcome=outcome, who=who)
    file.add(episode=0, outcome="failed", who="ann")
    file.add(episode=2, outcome="failed", who="ann")
    found = agree(file.labels)
    assert [found[e].outcome for e in range(4)] == ["failed", "solved", "failed", "failed"]
    assert [found[e].automatic for e in range(4)] == [False, True, False, True]
    (both,) = compare(file.labels)
    assert both.people == ("ann", who) and both.differing == (0,) and both.agreement.count == 1
    file.add(episode=3, outcome="solved", who="judge: reason")
    assert agree(file.labels)[3].disputed  # two sources, no person


def test_a_source_says_where_questions_begin(data: Path, tmp_path: Path) -> None:
    dataset, file = open_labels(data, tmp_path / "labels.jsonl")
    for episode in range(EPISODES):
        file.add(episode=episode, outcome="solved" if episode % 2 else "failed", who="judge: reason")
    file.add(episode=3, outcome="failed", who="goal: goal.png")  # the only one on which they disagree
    chance = mean_chance(file.labels, None, episodes=EPISODES)
    assert chance is not None and chance[3] == pytest.approx(0.5) and chance[1] == pytest.approx(0.9)
    from worldsim.label.session import RecordedDataset

    session = Session(
        RecordedDataset(dataset), file, who="ann", features_ND=np.random.default_rng(0).normal(size=(6, 2))
    )
    asked = session.ask()
    assert asked.episode == 3 and asked.labelled == 0
    with pytest.raises(InvalidInputError, match="what a source is called"):
        Session(RecordedDataset(dataset), file, who="judge: me", features_ND=np.zeros((6, 2)))


def test_a_critic_labels_what_it_watches(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    out = tmp_path / "labels.jsonl"
    done = CliRunner().invoke(app, ["label", str(data), "--judge", "reason", "--out", str(out)])
    assert done.exit_code == 0, done.output
    _, file = open_labels(data, out)
    assert len(agree(file.labels)) == EPISODES and {label.who for label in file.labels} == {"judge: reason"}


def test_options_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="One source"):
        Automatic(goal=Path("a.png"), judge="reason")
    with pytest.raises(InvalidInputError, match="--goal"):
        Automatic(within=0.3)
    assert not Automatic()


def test_long_names_of_sources_fit(tmp_path: Path) -> None:
    name = source_name("goal", "x" * 100 + "\n.png")
    assert len(name) == 64 and name.isprintable()
    LabelFile(tmp_path / "l.jsonl", digest="a", lengths=[1]).add(episode=0, outcome="solved", who=name)
