"""Labels: durable, checked against the dataset, and what several people say together."""

import json
from pathlib import Path

import pytest

from worldsim.data.labels import LabelFile, Outcome, agree, compare
from worldsim.errors import InvalidInputError, StorageError

DIGEST = "ab" * 32
LENGTHS = (10, 10, 5, 10)
LINE = {
    "dataset": DIGEST,
    "episode": 2,
    "outcome": "failed",
    "frame": 3,
    "who": "ann",
    "when": "2026-11-29T12:00:00+00:00",
}


def opened(path: Path) -> LabelFile:
    return LabelFile(path, digest=DIGEST, lengths=LENGTHS)


def label_all(path: Path, said: dict[str, list[Outcome | None]]) -> LabelFile:
    file = opened(path)
    for who, outcomes in said.items():
        for episode, outcome in enumerate(outcomes):
            if outcome is not None:
                file.add(episode=episode, outcome=outcome, who=who)
    return opened(path)


def test_labels_are_read_back_and_the_last_line_of_a_person_holds(tmp_path: Path) -> None:
    file = opened(tmp_path / "deep" / "labels.jsonl")
    assert file.labels == ()
    file.add(episode=2, outcome="failed", frame=4, who="ann")
    file.add(episode=2, outcome="solved", who="ann")
    file.add(episode=0, outcome="unclear", who="ann")
    again = opened(file.path)
    assert again.labels == file.labels and len(again.labels) == 3
    assert {e: a.outcome for e, a in agree(again.labels).items()} == {2: "solved", 0: "unclear"}
    assert json.loads(file.path.read_text().splitlines()[0]).keys() == LINE.keys()


def test_a_torn_last_line_is_left_out_and_then_replaced(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    file = opened(path)
    file.add(episode=1, outcome="solved", who="ann")
    kept = path.read_bytes()
    path.write_bytes(kept + kept[:40])
    assert len(opened(path).labels) == 1
    opened(path).add(episode=3, outcome="failed", who="ann")
    assert [label.episode for label in opened(path).labels] == [1, 3]
    assert path.read_bytes().startswith(kept) and path.read_bytes().count(b"\n") == 2


def test_two_processes_see_each_others_labels(tmp_path: Path) -> None:
    first, second = opened(tmp_path / "labels.jsonl"), opened(tmp_path / "labels.jsonl")
    first.add(episode=1, outcome="solved", who="ann")
    second.add(episode=1, outcome="failed", who="bob")
    first.refresh()
    assert [label.who for label in first.labels] == ["ann", "bob"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dataset": "cd" * 32}, "another dataset"),
        ({"episode": 4}, "no episode 4.*0 to 3"),
        ({"episode": -1}, "count from 0"),
        ({"episode": 1.5}, "episode.*Expected int"),
        ({"episode": True}, "episode.*Expected int"),
        ({"episode": 10**30}, "finite number"),
        ({"outcome": "won"}, "outcome.*'solved', 'failed', 'unclear'"),
        ({"outcome": None}, "outcome"),
        ({"frame": 5}, "no frame 5.*0 to 4"),
        ({"frame": "3"}, "frame.*Expected int"),
        ({"outcome": "unclear"}, "unclear one has none"),
        ({"who": ""}, "who must be a name"),
        ({"who": "x" * 65}, "who must be a name"),
        ({"who": "\u202eann"}, "who must be a name"),
        ({"who": ["ann"]}, "who.*Expected str"),
        ({"when": "yesterday"}, "ISO 8601"),
        ({"more": 1}, "Unknown field.*'more'"),
    ],
)
def test_wrong_lines_are_refused_by_number_and_reason(tmp_path: Path, change: dict[str, object], says: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps(LINE) + "\n" + json.dumps(LINE | change) + "\n")
    with pytest.raises(InvalidInputError, match=rf"Line 2 of .*no label: .*{says}"):
        opened(path)


@pytest.mark.parametrize("line", ["[" * 100_000, "{", "\ud800", '{"episode": NaN}', "null", "[]", '{"episode": 1}'])
def test_hostile_json_is_refused_by_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_bytes(json.dumps(LINE).encode() + b"\n" + line.encode(errors="surrogatepass") + b"\n")
    with pytest.raises((StorageError, InvalidInputError), match="Line 2 of"):
        opened(path)


def test_a_field_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps(LINE)[:-1] + ', "episode": 1}\n')
    with pytest.raises(InvalidInputError, match=r"Line 1 of .*'episode' twice"):
        opened(path)


def test_a_wrong_label_is_not_written(tmp_path: Path) -> None:
    file = opened(tmp_path / "labels.jsonl")
    with pytest.raises(InvalidInputError, match="no episode 9"):
        file.add(episode=9, outcome="solved", who="ann")
    with pytest.raises(InvalidInputError, match="no frame 5"):
        file.add(episode=2, outcome="failed", frame=5, who="ann")
    assert not file.path.exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    file = opened(tmp_path / "labels.jsonl")
    file.path = tmp_path / "file" / "labels.jsonl"
    with pytest.raises(StorageError, match="Could not write"):
        file.add(episode=0, outcome="solved", who="ann")


def test_two_people_are_compared(tmp_path: Path) -> None:
    said: dict[str, list[Outcome | None]] = {
        "ann": ["solved", "solved", "failed", "failed"],
        "bob": ["solved", "failed", "failed", "failed"],
    }
    (found,) = compare(label_all(tmp_path / "labels.jsonl", said).labels)
    assert found.people == ("ann", "bob")
    assert (found.agreement.hits, found.agreement.count) == (3, 4)
    assert found.kappa == pytest.approx(0.5)  # same 3/4, by chance (2 * 1 + 2 * 3) / 16 = 1/2
    assert found.differing == (1,)
    assert "kappa 0.50" in str(found)


def test_kappa_is_undefined_where_all_is_alike(tmp_path: Path) -> None:
    said: dict[str, list[Outcome | None]] = {"ann": ["solved", "solved"], "bob": ["solved", "solved"], "eve": [None]}
    (found,) = compare(label_all(tmp_path / "labels.jsonl", said).labels)
    assert found.kappa is None and found.differing == ()


def test_disagreement_is_unclear_until_a_third_decides(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    file = label_all(path, {"ann": ["solved", "failed"], "bob": ["failed", "failed"]})
    first, second = (agree(file.labels)[e] for e in (0, 1))
    assert (first.outcome, first.disputed) == ("unclear", True)
    assert (second.outcome, second.disputed) == ("failed", False)
    file.add(episode=0, outcome="failed", frame=7, who="eve")
    decided = agree(file.labels)[0]
    assert (decided.outcome, decided.frame, decided.disputed) == ("failed", 7, False)
    file.add(episode=0, outcome="solved", frame=2, who="ann")
    assert agree(file.labels)[0].frame == 7  # what those mark who say something else does not count
