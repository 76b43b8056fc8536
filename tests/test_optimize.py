from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from worldsim.errors import TrainingError
from worldsim.optimize import Schedule, fit


def line(seed: int) -> tuple[nn.Linear, object]:
    torch.manual_seed(seed)
    model = nn.Linear(3, 1)

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(step))
        return (model(x)[:, 0] - x.sum(1)).square().mean(), {}

    return model, loss_at


def test_training_converges_and_ends_on_schedule(tmp_path: Path) -> None:
    model, loss_at = line(0)
    fit(model, loss_at, Schedule(steps=300, lr=3e-2, warmup=10, weight_decay=0), folder=tmp_path, stage="line")
    assert torch.allclose(model.weight, torch.ones(1, 3), atol=0.02)
    assert Schedule(steps=100, lr=1.0).rate(100) == pytest.approx(0)


def test_resuming_is_exact(tmp_path: Path) -> None:
    straight, loss_at = line(0)
    fit(straight, loss_at, Schedule(steps=80), folder=tmp_path / "a", stage="line")
    half, half_loss = line(0)

    def stop(step: int) -> tuple[Tensor, dict[str, float]]:
        if step == 40:
            raise KeyboardInterrupt
        return half_loss(step)

    schedule = Schedule(steps=80, save_every_s=0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(half, stop, schedule, folder=tmp_path / "b", stage="line")
    resumed, resumed_loss = line(7)
    fit(resumed, resumed_loss, schedule, folder=tmp_path / "b", stage="line")
    assert torch.equal(straight.weight, resumed.weight)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tmp_path: Path) -> None:
    model, loss_at = line(0)

    def broken(step: int) -> tuple[Tensor, dict[str, float]]:
        loss, figures = loss_at(step)
        return loss * (float("nan") if step == 5 else 1), figures

    with pytest.raises(TrainingError, match="step 5"):
        fit(model, broken, Schedule(steps=10), folder=tmp_path, stage="line")
