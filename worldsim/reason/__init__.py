"""Reason: a critic that watches videos of robots, and the tasks with checkable answers that it learns from.

Not for rolling out or ranking policies: videos come through `worldsim.reason.sources`, verdicts go out through
`worldsim.protocols.Judge`.
"""
