"""The graded policies of tasks of other packages: each fits its task, and less noise is better."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import third_party_policies as graded
from benchmarks.third_party import SCENES, Budget, Result, _affordable, _done
from worldsim import storage
from worldsim.core import STATE
from worldsim.data.collect.success import success_rule
from worldsim.policies.function import load_function

WIDTHS = {"pusht": 5, "fetch_push": 31, "reacher": 10, "pusher": 23, "dm_reacher": 6, "mountain_car": 2}


def test_every_task_has_its_policies_and_a_rule_that_reads() -> None:
    assert {scene.name for scene in SCENES} == set(graded.CONTROLLERS) == set(WIDTHS)
    for scene in SCENES:
        assert scene.options[:2] == ["--env", scene.env]
        if scene.success:
            success_rule(scene.success)


@pytest.mark.parametrize("scene", sorted(WIDTHS))
def test_policies_give_actions_that_fit(scene: str) -> None:
    seen = {STATE: torch.rand(3, WIDTHS[scene], generator=torch.Generator().manual_seed(0))}
    acted = {}
    for level in graded.levels(scene):
        policy = load_function(f"benchmarks.third_party_policies:{scene}_{level}")
        acted[level], _ = policy.act(seen, policy.initial(3), torch.arange(3))
        assert acted[level].shape[0] == 3 and bool(acted[level].isfinite().all())
    assert not torch.equal(acted["random"], acted["noise_0"])
    with pytest.raises(AttributeError):
        _ = graded.no_such_policy


def test_the_arm_comes_nearer_to_its_target() -> None:
    q, target = np.array([[0.3, 0.8], [-1.0, 0.5]]), np.array([[0.05, 0.15], [-0.1, 0.1]])

    def tip(q_n2: np.ndarray) -> np.ndarray:
        both = q_n2.sum(1)
        return 0.1 * np.stack([np.cos(q_n2[:, 0]), np.sin(q_n2[:, 0])], 1) + 0.11 * np.stack(
            [np.cos(both), np.sin(both)], 1
        )

    before = np.linalg.norm(target - tip(q), axis=1)
    for _ in range(60):
        cos_sin = np.concatenate([np.cos(q), np.sin(q)], 1)
        s = np.concatenate([cos_sin, target, np.zeros((2, 2)), tip(q) - target], 1)
        q = q + 0.1 * graded.reacher(s)
    assert (np.linalg.norm(target - tip(q), axis=1) < 0.5 * before).all()


def test_the_gripper_goes_behind_the_cube_and_pushes_it_to_the_goal() -> None:
    grip, cube, goal = np.array([[1.3, 0.7, 0.5]]), np.array([[1.35, 0.8, 0.425]]), np.array([[1.25, 0.7, 0.425]])
    for _ in range(60):
        s = np.concatenate([grip, cube, np.zeros((1, 22)), goal], 1)
        grip = grip + 0.03 * graded.fetch_push(s)[:, :3]
        ahead = (goal - cube)[:, :2] / max(np.linalg.norm((goal - cube)[:, :2]), 1e-6)
        gap = 0.03 + float(((grip - cube)[:, :2] * ahead).sum())
        if grip[0, 2] < 0.45 and gap > 0 and np.linalg.norm((grip - cube)[:, :2]) < 0.04:
            cube[:, :2] += gap * ahead
    assert np.linalg.norm(goal - cube) < 0.05


def test_the_disc_goes_round_the_block_before_it_pushes() -> None:
    wanted = graded._middle_of_block(np.full((1, 2), 256.0), np.full(1, np.pi / 4))
    block = np.array([[300.0, 150.0, np.pi / 4]])
    middle = graded._middle_of_block(block[:, :2], block[:, 2])
    ahead = (wanted - middle) / np.linalg.norm(wanted - middle)
    behind, before = middle - 70 * ahead, middle + 70 * ahead
    pushed = graded.pusht(np.concatenate([behind, block], 1)) - behind
    assert float((pushed * ahead).sum()) > 40
    avoided = graded.pusht(np.concatenate([before, block], 1)) - middle
    assert abs(float((avoided * [-ahead[0, 1], ahead[0, 0]]).sum())) > 100


def test_time_buys_episodes() -> None:
    assert _affordable(6.0, 6, 60.0) == 60 and _affordable(6.0, 6, 1.0) == 6 and _affordable(0.1, 6, 600.0) == 240


def test_a_task_that_is_done_is_not_done_again_with_the_same_budget(tmp_path: Path) -> None:
    budget = Budget(seconds=1, image_px=32, truth=1, rollouts=1)
    done = Result(scene="reacher", task="", budget=budget, commit="abc", rates={"random": (None, 0.5)})
    scene = next(scene for scene in SCENES if scene.name == "reacher")
    assert _done(scene, budget, tmp_path) is None
    storage.write_json(tmp_path / "reacher" / "result.json", storage.to_json(done))
    assert _done(scene, budget, tmp_path) == done
    assert _done(scene, dataclasses.replace(budget, truth=2), tmp_path) is None
    failed = dataclasses.replace(done, commands={"train": "no space left"})
    storage.write_json(tmp_path / "reacher" / "result.json", storage.to_json(failed))
    assert _done(scene, budget, tmp_path) is None and _done(scene, budget, tmp_path, failed=True) == failed


def test_a_report_misleads_where_what_it_recommends_is_clearly_not_the_best() -> None:
    result = Result(scene="reacher", task="", budget=Budget(seconds=1, image_px=32, truth=1, rollouts=1), commit="abc")
    assert not dataclasses.replace(result, set_regret=0.5).misleads
    assert dataclasses.replace(result, recommends=True, set_regret=0.5).misleads
    assert not dataclasses.replace(result, recommends=True, set_regret=0.05).misleads
    assert dataclasses.replace(result, recommends=True).misleads  # nothing is known
