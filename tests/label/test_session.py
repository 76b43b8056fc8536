"""What a person is asked, alone and beside another."""

from pathlib import Path

import numpy as np
import pytest

from tests.label.conftest import EPISODES, STEPS
from worldsim.errors import InvalidInputError, StorageError
from worldsim.label.session import Session, join_frames, open_session


def answer_all(session: Session, outcomes: dict[int, str], most: int = 99) -> list[int]:
    asked: list[int] = []
    while (question := session.ask()).episode is not None and len(asked) < most:
        asked.append(question.episode)
        session.say(episode=question.episode, outcome=outcomes.get(question.episode, "failed"), frame=None)
    return asked


def test_every_episode_is_asked_once_and_the_same_command_continues(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.jsonl"
    first = open_session(data, out, who="ann").ask()
    assert (first.frames, first.task, first.labelled, first.episodes) == (
        STEPS + 1,
        "Push the L to the middle.",
        0,
        EPISODES,
    )
    begun = answer_all(open_session(data, out, who="ann"), {0: "solved"}, most=2)
    rest = answer_all(open_session(data, out, who="ann"), {0: "solved"})
    assert sorted(begun + rest) == list(range(EPISODES))
    done = open_session(data, out, who="ann").ask()
    assert (done.episode, done.labelled, done.counts) == (None, EPISODES, {"solved": 1, "failed": EPISODES - 1})


def test_one_may_go_back_and_say_something_else(data: Path, tmp_path: Path) -> None:
    session = open_session(data, tmp_path / "labels.jsonl", who="ann")
    session.say(episode=4, outcome="failed", frame=3)
    again = session.ask(4)
    assert (again.episode, again.said, again.frame) == (4, "failed", 3)
    session.say(episode=4, outcome="solved", frame=None)
    assert session.ask(4).said == "solved" and session.ask().counts == {"solved": 1}
    with pytest.raises(InvalidInputError, match="no episode 6"):
        session.ask(6)


def test_two_people_are_compared_and_asked_again_where_they_disagree(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.jsonl"
    ann, bob = open_session(data, out, who="ann"), open_session(data, out, who="bob")
    ann.say(episode=2, outcome="solved", frame=None)
    assert bob.ask().episode == 2  # a share of what another has labelled
    bob.say(episode=2, outcome="failed", frame=None)
    asked = ann.ask()
    assert (asked.episode, asked.again, asked.disputed) == (2, True, (2,))
    assert asked.agreements[0].startswith("ann and bob agree on 0.000")
    ann.say(episode=2, outcome="solved", frame=None)  # stays with it
    assert ann.ask().episode != 2
    assert bob.ask().episode == 2
    eve = open_session(data, out, who="eve")
    assert eve.ask().episode == 2
    eve.say(episode=2, outcome="solved", frame=None)
    settled = eve.ask()
    assert settled.counts == {"solved": 1} and not settled.disputed


def test_the_film_is_an_mp4_and_an_unreadable_episode_is_named_once(data: Path, tmp_path: Path) -> None:
    session = open_session(data, tmp_path / "labels.jsonl", who="ann")
    assert session.film(0)[4:8] == b"ftyp"

    def broken(index: int) -> np.ndarray:
        raise StorageError(f"episode {index} is damaged")

    session.recorded.frames = broken
    session._film.cache_clear()
    with pytest.raises(StorageError, match="episode 1 is damaged"):
        session.film(1)
    assert 1 not in answer_all(session, {})


def test_the_dataset_stays_as_it_is(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="inside the dataset"):
        open_session(data, data / "labels.jsonl", who="ann")
    before = {p: p.read_bytes() for p in data.rglob("*") if p.is_file()}
    answer_all(open_session(data, tmp_path / "labels.jsonl", who="ann"), {})
    assert {p: p.read_bytes() for p in data.rglob("*") if p.is_file()} == before


def test_cameras_of_different_heights_stand_beside_each_other() -> None:
    wide = join_frames([np.full((2, 4, 3, 3), 9, np.uint8), np.full((2, 8, 5, 3), 9, np.uint8)])
    assert wide.shape == (2, 8, 3 + 2 + 5, 3) and not wide[:, 4:, :3].any()
