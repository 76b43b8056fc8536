"""Tasks by name."""

from worldsim.reason.tasks.arrow import Arrow, ArrowConfig
from worldsim.reason.tasks.base import Task
from worldsim.reason.tasks.dreamed import Dreamed, DreamedConfig
from worldsim.reason.tasks.effect import Effect, EffectConfig
from worldsim.reason.tasks.next_action import NextAction, NextActionConfig
from worldsim.reason.tasks.order import Order, OrderConfig
from worldsim.reason.tasks.outcome import Outcome, OutcomeConfig
from worldsim.reason.tasks.permanence import Permanence, PermanenceConfig
from worldsim.reason.tasks.puzzle import Puzzle, PuzzleConfig
from worldsim.registry import Registry

TASKS: Registry[Task] = Registry(
    kind="reason task",
    parts={
        "arrow": (ArrowConfig, Arrow),
        "order": (OrderConfig, Order),
        "puzzle": (PuzzleConfig, Puzzle),
        "permanence": (PermanenceConfig, Permanence),
        "next_action": (NextActionConfig, NextAction),
        "effect": (EffectConfig, Effect),
        "outcome": (OutcomeConfig, Outcome),
        "dreamed": (DreamedConfig, Dreamed),
    },
)
"""Name -> config and class; `TASKS.build("arrow", {"stride": 3})` makes one."""
