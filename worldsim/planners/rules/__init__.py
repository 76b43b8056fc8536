"""Update rules: how candidates are proposed, and what their costs teach. The loop around them is `worldsim.planners.planner`."""
