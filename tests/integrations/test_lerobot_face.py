import functools

import pytest
import torch

from worldsim.core import IMAGE, STATE
from worldsim.errors import InvalidInputError
from worldsim.integrations.lerobot.face import LeRobotFace
from worldsim.noise import fold
from worldsim.planners import make_planner
from worldsim.planners.mpc import MPC
from worldsim.worlds import load_world


@functools.cache
def controller(name: str = "weighted", world: str = "push") -> MPC:
    return MPC(make_planner(name, horizon=6, samples=24, iterations=2), load_world(world), repeat=3)


def batch(n: int) -> dict[str, torch.Tensor]:
    """What LeRobot's preprocessing makes of the first frames."""
    first = load_world("push").starts(torch.arange(n))
    return {IMAGE: first[IMAGE].movedim(-1, 1).float() / 255, STATE: first[STATE], "task": ["push"] * n}  # type: ignore[dict-item]


def test_the_face_does_what_the_policy_does() -> None:
    mpc, face, seen = controller(), LeRobotFace(controller(), seed=5), batch(2)
    first = load_world("push").starts(torch.arange(2))
    carry = mpc.initial(2)
    key = fold(torch.arange(2), 5)
    for step in range(4):
        expected, carry = mpc.act({k: first[k] for k in (IMAGE, STATE)}, carry, fold(key, step))
        assert torch.equal(face.select_action(seen), expected)
    face.reset()
    again = face.select_action(seen)
    assert not torch.equal(again, LeRobotFace(mpc, seed=5).select_action(seen))  # other noise in other episodes
    cameras = {f"{IMAGE}s.top" if k == IMAGE else k: v for k, v in seen.items()}
    assert torch.equal(LeRobotFace(mpc, seed=5)(cameras), LeRobotFace(mpc, seed=5)(seen))


def test_episodes_are_the_same_in_batches_of_any_size() -> None:
    seen, together, one_by_one = batch(3), LeRobotFace(controller()), LeRobotFace(controller())
    expected = [together.select_action(seen) for _ in range(2)]
    for i in range(3):
        one_by_one.reset()
        row = {k: v[i : i + 1] for k, v in seen.items()}
        for step in range(2):
            torch.testing.assert_close(one_by_one.select_action(row)[0], expected[step][i])


def test_gradients_flow_although_the_caller_forbids_them() -> None:
    face = LeRobotFace(controller("hybrid"))
    with torch.inference_mode():
        action = face.select_action({k: v.clone() if torch.is_tensor(v) else v for k, v in batch(1).items()})
    assert action.shape == (1, 2)
    assert not action.is_inference()


def test_what_cannot_be_planned_for_is_named() -> None:
    face, seen = LeRobotFace(controller()), batch(2)
    with pytest.raises(InvalidInputError, match=STATE):
        face.select_action({IMAGE: seen[IMAGE]})
    with pytest.raises(InvalidInputError, match="one camera"):
        face.select_action({STATE: seen[STATE]})
    with pytest.raises(InvalidInputError, match=r"float \[n, 3, H, W\]"):
        face.select_action(seen | {IMAGE: (seen[IMAGE] * 255).to(torch.uint8)})
    face.select_action(seen)
    with pytest.raises(InvalidInputError, match="reset"):
        face.select_action(batch(3))
    face.reset()
    assert face.select_action(batch(3)).shape == (3, 2)
