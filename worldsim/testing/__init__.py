"""Executable contracts: does your world, policy, planner or environment keep what worldsim relies on?

Call a checker from your own tests. It tries every clause and raises one `ContractError` that lists those broken. Not a
measure of quality: a world may keep every clause and still predict nonsense.
"""

from worldsim.testing.clauses import ContractError
from worldsim.testing.envs import check_env
from worldsim.testing.planners import check_planner
from worldsim.testing.policies import check_policy
from worldsim.testing.worlds import check_world

__all__ = ["ContractError", "check_env", "check_planner", "check_policy", "check_world"]
