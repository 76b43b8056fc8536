"""Gymnasium both ways: the MuJoCo ground-truth tasks, their renderer, and worlds played as environments.

Not for learned models: a world behind `worldsim.protocols.World` is only called here, never built.
"""
