"""LeRobot's checkpoints, datasets and evaluation, behind worldsim's doors.

LeRobot itself is imported when something here is used, never before: it takes ten seconds or more.
"""
