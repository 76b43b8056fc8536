"""stable-worldmodel both ways: worldsim planners as its solvers, its cost models as objectives, its solvers as planners.

Everything here follows the shape of its protocols, so the library itself is not imported and need not be installed.

    solver = CEMSolver(model=model, num_samples=300, n_steps=30, topk=30)            # before
    solver = WorldsimSolver(model=model, num_samples=300, n_steps=30, topk=30)       # after
"""

from worldsim.integrations.planners.stable_worldmodel.planner import SolverPlanner
from worldsim.integrations.planners.stable_worldmodel.solver import CostObjective, WorldsimSolver

__all__ = ["CostObjective", "SolverPlanner", "WorldsimSolver"]
