"""LeRobot's checkpoints, datasets and evaluation, as worldsim's policies and environments.

LeRobot itself is imported when something here is used, never before: it takes ten seconds or more.
"""
