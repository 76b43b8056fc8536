"""Questions about videos whose answers can be checked, one kind per file; here by name."""

from worldsim.reason.tasks.arrow import ArrowConfig, ArrowTask
from worldsim.reason.tasks.base import Task
from worldsim.reason.tasks.dreamed import DreamedConfig, DreamedTask
from worldsim.reason.tasks.effect import EffectConfig, EffectTask
from worldsim.reason.tasks.next_action import NextActionConfig, NextActionTask
from worldsim.reason.tasks.order import OrderConfig, OrderTask
from worldsim.reason.tasks.outcome import OutcomeConfig, OutcomeTask
from worldsim.reason.tasks.permanence import PermanenceConfig, PermanenceTask
from worldsim.reason.tasks.puzzle import PuzzleConfig, PuzzleTask
from worldsim.registry import Registry

TASKS: Registry[Task] = Registry(
    kind="reason task",
    parts={
        "arrow": (ArrowConfig, ArrowTask),
        "order": (OrderConfig, OrderTask),
        "puzzle": (PuzzleConfig, PuzzleTask),
        "permanence": (PermanenceConfig, PermanenceTask),
        "next_action": (NextActionConfig, NextActionTask),
        "effect": (EffectConfig, EffectTask),
        "outcome": (OutcomeConfig, OutcomeTask),
        "dreamed": (DreamedConfig, DreamedTask),
    },
)
"""Name -> config and class; `TASKS.build("arrow", {"stride": 3})` makes one."""
