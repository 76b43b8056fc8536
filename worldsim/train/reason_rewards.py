"""The rewards that GRPO knows by name. Not for rewards of one's own, which are any functions."""

from collections.abc import Callable, Sequence
from typing import Any

from worldsim.reason.draw import Draw
from worldsim.reason.rewards import Completion, Reward, accuracy_reward, format_reward, overlong_reward

REWARDS = ("accuracy", "format", "overlong", "random")
"""What can be rewarded; the last is a control that must not teach anything."""


def named_rewards(names: Sequence[str], *, limit: int, seed: int) -> dict[str, Reward]:
    """Rewards by name.

    Args:
        names: Out of REWARDS, in the order wanted.
        limit: Longest reply, in tokens.
        seed: Of the random control.
    """
    known: dict[str, Reward] = {
        "accuracy": _accuracy,
        "format": format_reward,
        "overlong": overlong_reward(limit=limit, buffer=max(1, limit // 4)),
        "random": random_reward(seed),
    }
    return {name: known[name] for name in names}


def random_reward(seed: int) -> Reward:
    """Make a coin per reply, whatever it says; keyed by step and place."""

    def coin(completions: Sequence[Completion], *, trainer_state: Any = None, **columns: object) -> list[float | None]:
        step = getattr(trainer_state, "global_step", 0)
        return [float(s < 0.5) for s in Draw("random reward", seed, step).shares(len(completions))]

    return coin


def _accuracy(
    completions: Sequence[Completion],
    *,
    answer: Sequence[str],
    task: Sequence[str],
    group: Sequence[str],
    log_metric: Callable[[str, float], None] | None = None,
    **columns: object,
) -> list[float | None]:
    """`accuracy_reward`, logged by task and kind of clip as well."""
    values = accuracy_reward(completions, answer=answer)
    if log_metric is not None:
        told: dict[str, list[float]] = {}
        for value, t, g in zip(values, task, group, strict=True):
            for name in (f"reward/{t}", f"reward/{t}/{g}"):
                told.setdefault(name, []).append(float(value or 0.0))
        for name, found in told.items():
            log_metric(name, sum(found) / len(found))
    return values
