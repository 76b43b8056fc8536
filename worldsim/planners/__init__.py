"""Planners: from a cost over action sequences, or a world, to the actions to take. Needs torch alone.

Beside what is exported here: step costs (`costs`), candidates suggested by a policy (`prior.policy_prior`, for `MPC(prior=...)`),
compiled objectives (`compile.compiled`, `compile.Graphed`) and pictures of a search (`plot`).
"""

from worldsim.planners.bounds import Bounds
from worldsim.planners.ensemble_check import EnsembleCheck
from worldsim.planners.limits import Limits
from worldsim.planners.mpc import MPC
from worldsim.planners.objective import Objective, RolloutObjective, from_numpy, rollout_of
from worldsim.planners.planner import Planner, Stage
from worldsim.planners.registry import make_planner, planner_names
from worldsim.planners.search import Plan, PlannerLike, PlanStats, Search
from worldsim.planners.splines import Spline
from worldsim.planners.world_objective import RiskObjective, world_objective

__all__ = [
    "MPC",
    "Bounds",
    "EnsembleCheck",
    "Limits",
    "Objective",
    "Plan",
    "PlanStats",
    "Planner",
    "PlannerLike",
    "RiskObjective",
    "RolloutObjective",
    "Search",
    "Spline",
    "Stage",
    "from_numpy",
    "make_planner",
    "planner_names",
    "rollout_of",
    "world_objective",
]
