"""The processors that LeRobot puts around a planner: its usual ones, with nothing normalised."""

from typing import Any

from lerobot.processor import make_default_pre_post_processors

from worldsim.integrations.lerobot.plugin.configuration_planner import WorldsimPlannerConfig


def make_worldsim_planner_pre_post_processors(
    config: WorldsimPlannerConfig, dataset_stats: dict[str, dict[str, Any]] | None = None
) -> tuple[Any, Any]:
    """LeRobot's pre- and postprocessor; `dataset_stats` change nothing, for the mapping is the identity."""
    pair: tuple[Any, Any] = make_default_pre_post_processors(config, dataset_stats)
    return pair
