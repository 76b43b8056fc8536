"""Triage: which checkpoints are best, how sure that is, and what it cost to find out.

Episode table and store, allocation of rollouts, statistics of the outcomes, ranking, report. The statistics need numpy
and scipy only; nothing here knows how a world or a policy works inside.
"""
