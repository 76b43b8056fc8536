"""What can be trained, by name: each recipe is a config dataclass and a function of it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldsim.optimize import Watch
from worldsim.reason.train.grpo import TrainReasonGrpo, train_reason_grpo
from worldsim.reason.train.sft import TrainReasonSft, train_reason_sft
from worldsim.train.recipes.policy import TrainPolicy, train_policy
from worldsim.train.recipes.world import TrainWorld, train_world


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A config class, and the function that runs it and returns the folder it made."""

    config: Any
    make: Callable[..., Path]


RECIPES = {
    "world": Recipe(TrainWorld, train_world),
    "policy": Recipe(TrainPolicy, train_policy),
    "reason-sft": Recipe(TrainReasonSft, train_reason_sft),
    "reason-grpo": Recipe(TrainReasonGrpo, train_reason_grpo),
}


def run(what: str, config: Any, *, watch: Watch | None = None) -> Path:
    """Run a recipe."""
    return RECIPES[what].make(config, watch=watch)
