"""Rolling policies out in a world.

The loop (`loop`), isolation of policies that fail (`fence`), which episodes to play (`episodes`), how the world itself
judges them (`judge`), and worlds that wrap another (`wrappers`).
"""

from worldsim.rollout.loop import POLICY_STREAM, Actor, Played, Recording, play, policy_keys, rollout

__all__ = ["POLICY_STREAM", "Actor", "Played", "Recording", "play", "policy_keys", "rollout"]
