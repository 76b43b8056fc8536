"""Dynamics of structured scenes: the robot's body from actions, things from contact with it."""
