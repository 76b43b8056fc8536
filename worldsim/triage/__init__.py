"""Triage: which checkpoints are best, how certain that is, and what it costs to find out.

A request becomes a run: the engine replays and continues it, an allocator decides which rollouts come next, the ranking
is a function of their outcomes, and the report shows it. Nothing here knows how a world or a policy works inside.
"""
