"""The window that predictors of the last K frames carry: what they are given, and in which order."""

import dataclasses

import torch
from torch import Tensor

from worldsim.conditions import Conditions
from worldsim.core import text_rows
from worldsim.predict.base import Context, History, WindowPredictor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    history: int = 3


class Listener(WindowPredictor):
    """Keeps what it was given, and predicts the sum of its actions."""

    config = Config()

    def predict(
        self, past: History, noise: Tensor | None = None, conditions: Conditions | None = None
    ) -> tuple[Tensor, Tensor]:
        self.given = {"z": past.z.flatten(), "proprio": past.proprio.flatten(), "action": past.action.flatten()}
        self.heard = (noise, conditions)
        return past.action.sum((1, 2))[:, None, None, None], torch.zeros(past.batch)


def number(value: float) -> Tensor:
    return torch.tensor([[value]])


def test_the_window_holds_the_last_frames_and_what_led_to_each() -> None:
    listener = Listener()
    spoken = Conditions(text=text_rows(["push"]))
    noise = number(0.5)
    carry = listener.start(Context(z=number(1)[..., None, None], proprio=number(10), action=number(-1)))
    for t, action in enumerate((2.0, 3.0, 4.0)):
        seen = listener.observe(carry, number(7 + t)[..., None, None], number(action), number(20 + t))
        carry, prediction = listener.step(carry, number(action), number(20 + t), spoken, noise)
        assert torch.equal(seen.action, carry.action) and torch.equal(seen.proprio, carry.proprio)
        assert seen.z.flatten().tolist() == [*carry.z.flatten()[:-1].tolist(), 7 + t]
        assert listener.heard == (noise, spoken)
        assert prediction.z.shape == (1, 1, 1, 1, 1)
    assert listener.given["action"].tolist() == [2, 3, 4]
    assert listener.given["proprio"].tolist() == [20, 21, 22]
    assert listener.given["z"].tolist() == [1, 0, 4]  # 2 - 1 - 1, then 3 + 2 - 1
    assert carry.z.flatten().tolist() == [0, 4, 9]
