"""Reason: a critic that watches videos of robots, and the tasks with checkable answers that it is trained on.

Verdicts go out through `worldsim.protocols.Judge`.
"""
