"""The rewards that GRPO knows by name, and what none of them will teach. Rewards of one's own are any functions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from worldsim.reason.draw import Draw
from worldsim.reason.item import Item
from worldsim.reason.rewards import Completion, Reward, accuracy_reward, format_reward, overlong_reward

REWARDS = ("accuracy", "format", "overlong", "random")
"""What can be rewarded; the last is a control that must not teach anything."""

KNOWN = 0.97
"""Share of right answers from which on a group of replies is nearly always all right."""


def unteachable(figures: Mapping[str, float], items: Sequence[Item]) -> list[str]:
    """Say which tasks a reward for right answers will hardly teach, and what to do instead.

    Args:
        figures: Of the start, as `worldsim.reason.exam.Exam.figures`.
        items: What it was examined on.
    """
    found = []
    for task in sorted({i.task for i in items}):
        asked = [1 / len(i.options) for i in items if i.task == task]
        right, chance = figures[f"accuracy/{task}"], sum(asked) / len(asked)
        text = f"The start answers {100 * right:.0f} % of {task} right"
        if right >= KNOWN:
            found.append(
                f"{text}: rewards have little left to teach. Begin earlier (reason-sft keep=[STEP]), or leave it out."
            )
        elif figures[f"format/{task}"] > 0.5 and right <= chance + 2 * (chance * (1 - chance) / len(asked)) ** 0.5:
            found.append(
                f"{text}, no more than by chance: luck teaches nothing. Train it longer with reason-sft first."
            )
    return found


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
