"""The graded policies of tasks of other packages: each fits its task, and less noise is better."""

import numpy as np
import pytest
import torch

from benchmarks import third_party_policies as graded
from benchmarks.third_party import SCENES, _affordable
from worldsim.core import STATE
from worldsim.data.collect.success import success_rule
from worldsim.policies.function import load_function

WIDTHS = {"pusht": 5, "fetch_reach": 16, "reacher": 10, "pusher": 23, "dm_reacher": 6, "mountain_car": 2}


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
    for level in graded.LEVELS:
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


def test_time_buys_episodes() -> None:
    assert _affordable(6.0, 6, 60.0) == 60 and _affordable(6.0, 6, 1.0) == 6 and _affordable(0.1, 6, 600.0) == 600
