"""What `lerobot-eval` finds here: worldsim's environments as `--env.type=worldsim`, planners as `--policy.type=worldsim_planner`.

    lerobot-eval --policy.discover_packages_path=worldsim.integrations.lerobot.plugin --policy.type=worldsim_planner \
        --env.discover_packages_path=worldsim.integrations.lerobot.plugin --env.type=worldsim

LeRobot imports every module of this package and pairs `configuration_*`, `modeling_*` and `processor_*` by their names.
Importing it loads LeRobot, so nothing else in worldsim does.
"""

from importlib.util import find_spec

from worldsim.errors import missing_extra

if find_spec("lerobot") is None:
    raise missing_extra("lerobot", "lerobot")
