"""Failed episodes are grouped by what the judge wrote, else by their progress; films say when world and truth part."""

import dataclasses
import types

import numpy as np
import pytest
import torch

from worldsim.actions import ActionPart, ActionSpec
from worldsim.triage.engine.batches import RolloutResult
from worldsim.triage.engine.measures import find_movement, share_at_limits
from worldsim.triage.engine.replay import average
from worldsim.triage.engine.store import Record
from worldsim.triage.report import ReportData, render
from worldsim.triage.report.data import find_divergence
from worldsim.triage.report.failures import group_failures, name_failure
from worldsim.triage.report.training import training_runs


def result(**values: object) -> RolloutResult:
    base = {"success": 0.0, "progress": 0.1, "progress_max": 0.1, "solved_at": -1, "uncertainty_mean": 0.5}
    rest = {"row": -1, "probability": 0.0, "uncertainty_min": 0.0, "uncertainty_max": 1.0, "steps": 50}
    return RolloutResult(**{**rest, **base, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "never came near"),
        ({"progress_max": 0.6, "progress": 0.55}, "came halfway"),
        ({"progress_max": 0.9, "progress": 0.85}, "came near, and stopped short"),
        ({"progress_max": 0.9, "progress": 0.5}, "came closer, and moved away again"),
        ({"progress_max": 0.9, "progress": 0.5, "solved_at": 7}, "solved on the way, and lost again"),
        ({"note": "not solved: success 0.10; sees The arm misses Block 3"}, "the arm misses block #"),
    ],
)
def test_a_failure_has_a_name(values: dict[str, object], name: str) -> None:
    assert name_failure(result(**values)) == name


def record(start: int, found: RolloutResult, *, block: str = "triage") -> Record:
    return Record(policy="d", start=start, noise=0, block=block, episode=start, result=found)


def test_failures_are_counted_where_they_happen() -> None:
    rollouts = {
        0: [record(0, result()), record(1, result(success=1.0, solved_at=20, uncertainty_mean=0.1))],
        4: [
            record(0, result()),
            record(1, result(note="not solved: success 0.1, no progress after 9", progress_max=0.9)),
        ],
    }
    found = group_failures(types.SimpleNamespace(rollouts=rollouts))  # type: ignore[arg-type]
    assert found is not None
    assert (found.failed, found.solved, found.solved_at, found.hopeless, found.starts) == (3, 1, 20, 1, 2)
    never, away = found.modes
    assert (never.name, never.episodes, never.policies, never.example) == (
        "never came near",
        2,
        ((0, 1), (4, 1)),
        (0, 0),
    )
    assert (away.step, away.uncertainty) == (9, 0.5)
    assert group_failures(types.SimpleNamespace(rollouts={0: rollouts[0][1:]})) is None  # type: ignore[arg-type]


def test_the_page_says_why(sample: ReportData) -> None:
    rollouts = {0: [record(0, result())]}
    failures = group_failures(types.SimpleNamespace(rollouts=rollouts))  # type: ignore[arg-type]
    page = render(dataclasses.replace(sample, failures=failures))
    assert "never came near" in page and "No failed episode is on record" not in page
    assert "Success against training step" in page


def test_films_part_where_they_differ_for_good() -> None:
    world = np.zeros((10, 8, 8, 3), np.uint8)
    truth = world.copy()
    truth[3, :4] = 255  # a flicker
    truth[6:, :4] = 255
    assert find_divergence(world, truth) == 6
    assert find_divergence(world, world) is None
    assert find_divergence(world, truth[:6]) is None


def test_marks_of_a_film_stand_in_time(sample: ReportData) -> None:
    clip = dataclasses.replace(sample.clips[0], truth=None, solved_at=12, closest_at=30, at_limits=0.25)
    assert clip.marks == ((1.2, "solved in the world"),)
    page = render(dataclasses.replace(sample, clips=(clip,)))
    assert "solved in the world after 1.2 s" in page and "25\u202f% of action values at a limit" in page
    lost = dataclasses.replace(clip, solved_at=None)
    assert lost.marks == ((3.0, "most progress in the world"),)
    touched = dataclasses.replace(clip, world_moved_at=5, truth_moved_at=6)
    assert [words for _, words in touched.marks[:2]] == [
        f"an object first moves in the {w}" for w in ("world", "truth")
    ]


def test_every_policy_has_its_share_at_limits(sample: ReportData) -> None:
    best, second = (line.policy for line in sample.ranking.policies[:2])
    page = render(dataclasses.replace(sample, at_limits={best: 0.37}))
    assert ">at limits</th>" in page and page.count('data-label="at limits">37\u202f%') == 1
    assert second != best and 'data-label="at limits">–' in page and ">at limits</th>" not in render(sample)


def test_shares_are_averaged_over_all_episodes_that_have_one() -> None:
    shares = {0: (0.5, 0.25, -1.0), 1: (-1.0,)}
    rows = {p: [record(i, result(at_limits=share)) for i, share in enumerate(found)] for p, found in shares.items()}
    assert average(rows, lambda result: result.at_limits) == {0: 0.375}


def test_the_share_at_limits_leaves_choices_out() -> None:
    parts = (
        ActionPart(name="x", shape=(1,), path=("x",)),
        ActionPart(name="turn", kind="discrete", dtype="int64", path=("turn",)),
    )
    spec = ActionSpec(names=("x", "turn"), units=("m", "1"), low=(-1, 0), high=(1, 2), rate_hz=10, parts=parts)
    action_TA = torch.tensor([[0.5, 0.0], [1.0, 2.0], [-3.0, 0.0], [0.0, 1.0]])
    assert share_at_limits(action_TA[None], spec).tolist() == [0.5]
    assert share_at_limits(action_TA[:, None], spec).tolist() == [0, 1, 1, 0]


def test_a_touch_is_where_what_stood_still_moves() -> None:
    still, away = torch.zeros(3, 2), torch.tensor([[0.0, 0.01], [0.0, 0.5], [0.0, 1.0]])
    assert find_movement(torch.cat([still, away])) == 5  # one hundredth of the way is still
    assert find_movement(still) is None
    assert find_movement(torch.arange(5.0)[:, None]) is None  # something moves from the beginning: no touch


def test_runs_are_found_by_the_steps_in_their_names(sample: ReportData) -> None:
    runs = training_runs(sample)
    assert len(runs) == 2 and all(
        [step for step, *_ in points] == sorted(step for step, *_ in points) for points in runs.values()
    )
    lines = tuple(dataclasses.replace(p, name=f"module:policy{p.policy}") for p in sample.ranking.policies)
    assert training_runs(dataclasses.replace(sample, ranking=dataclasses.replace(sample.ranking, policies=lines))) == {}
